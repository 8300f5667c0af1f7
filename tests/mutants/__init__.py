"""Plant bugs in the library one at a time, and see whether a test notices."""
