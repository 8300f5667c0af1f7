"""The command line. Its modules import torch only after a first check of what was typed."""
