"""The small plugins that are shipped: a module, and an entry point, for each."""
