"""Other people's libraries, imported so that they load and download nothing."""

import os

# Read when they are imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

# The others import torchvision if it is there.
from benchmarks.vision import torchvision  # isort: split

import peft
import timm
import transformers

__all__ = ["peft", "timm", "torchvision", "transformers"]
