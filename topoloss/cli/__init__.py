"""The command line. Its modules import torch only once everything that was typed makes sense."""
