"""Rules that hold for several kinds of component alike."""
