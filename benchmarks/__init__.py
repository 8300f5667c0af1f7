"""Speed and memory, measured beside the peers; rows are committed under ``results/``."""
