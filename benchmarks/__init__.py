"""Speed, as ratios measured in one run; results are committed under ``results/``."""
