"""What cannot be made into a component of any kind."""

import torch
from testing.broken.filtrations import Cosine


class ForgetsItsBase(Cosine):
    def __init__(self):
        self.power = 2


class NeedsAnOption(Cosine):
    def __init__(self, power):
        super().__init__()


class NotAComponent(torch.nn.Module):
    pass
