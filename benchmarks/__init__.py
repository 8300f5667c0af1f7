"""Speed and memory of topoloss and its peers; results are committed under ``results/``."""
