"""Rules that several kinds of component share."""
