"""The model that processes train together, its data, and the penalties that they try."""

import torch
from torch import nn

import topoloss

SAMPLES = 23
# The number of samples in each step; 0 stands for a step in which one process fails.
STEPS = (23, 23, 23, 23, 9, 23, 23, 23, 0, 23, 23, 23)


class Weights(topoloss.Regulariser):
    source = "weights"

    def compute(self, weights):
        return torch.stack([w.square().sum() for w in weights.values()]).sum()


# Regulariser and options of `attach`.
PENALTIES = {
    "t1": ("t1", {}),
    "t2 of each layer": ("t2", {"per": "layer"}),
    "important neurons": ("t1", {"fraction": 0.5}),
    "drawn neurons": ("t1", {"fraction": 0.5, "sampler": "random"}),
    "a second pass": ("t1", {"eval_pass": True}),
    "no tree": ("naive", {}),
    "with inputs": ("similarity-matching", {}),
}
# Without a group: these are of the model alone.
OF_WEIGHTS = {"weights": Weights, "l2": lambda: "l2"}


def model(hidden=8, dtype=torch.float64):
    torch.manual_seed(0)
    first, second, last = nn.Linear(5, hidden), nn.Linear(hidden, 6), nn.Linear(6, 3)
    return nn.Sequential(first, nn.Tanh(), nn.Sequential(second, nn.ReLU()), last).to(dtype)


def data(batch=0):
    generator = torch.Generator().manual_seed(batch + 1)
    return torch.randn(SAMPLES, 5, dtype=torch.float64, generator=generator)


def gradients(net):
    """Gradients by name, put together where they are sharded."""
    found = {}
    for name, p in net.named_parameters():
        whole = p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad
        found[name.removeprefix("module.")] = whole.clone()
    net.zero_grad()
    return found
