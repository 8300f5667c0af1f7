"""The small plugins that are shipped, a module each, and the helpers that they share."""
