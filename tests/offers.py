"""What is shipped, and a made-up plugin, for the tests of plugins and components."""

import torch

import topoloss

SHIPPED = {
    "filtration": [
        "correlation",
        "cosine",
        "euclidean",
        "hsic",
        "signed-correlation",
        "spearman",
        "svr",
    ],
    "persistence": ["mst", "ripser"],
    "loss": [
        "beta-connectivity",
        "bottleneck",
        "persistent-entropy",
        "t1",
        "t2",
        "total-persistence",
        "wasserstein",
    ],
    "regulariser": [
        "barlow-twins",
        "beta-connectivity",
        "covariance-tree",
        "decov",
        "deep-graph-persistence",
        "densification",
        "l1",
        "l2",
        "naive",
        "neural-persistence",
        "none",
        "orthogonality",
        "random-path",
        "signature",
        "similarity-matching",
        "t1",
        "t2",
        "variance",
        "vicreg",
    ],
    "sampler": ["all", "importance", "random"],
}
KINDS = tuple(SHIPPED)


def shipped_regularisers(source):
    """Names of the regularisers that take these tensors of a model."""
    made = {name: topoloss.regulariser(name) for name in SHIPPED["regulariser"]}
    return tuple(name for name, regulariser in made.items() if regulariser.source == source)


class Median(topoloss.Loss):
    def forward(self, diagrams):
        return diagrams[0].deaths.median()


class Cosine(topoloss.Filtration):
    def vertices(self, x):
        return torch.nn.functional.normalize(x.T, dim=1)

    def edge_values(self, v, i, j):
        return 1 - (v[i] * v[j]).sum(-1).abs()


class Plugin:
    """Offers what it is given, and counts how often it is asked."""

    def __init__(self, losses, filtrations=None):
        self.losses, self.filtrations = losses, filtrations or {}
        self.asked = 0

    @topoloss.hookimpl
    def topoloss_losses(self):
        self.asked += 1
        return self.losses

    @topoloss.hookimpl
    def topoloss_filtrations(self):
        return self.filtrations


OFFERS_A_LOSS = """
import topoloss

class Sum(topoloss.Loss):
    def forward(self, diagrams):
        return diagrams[0].deaths.sum()

@topoloss.hookimpl
def topoloss_losses():
    return {"third-party-sum": Sum}
"""


def info(name):
    return {i.name: i for i in topoloss.installed_plugins()}[name]


def everything_works():
    x = torch.randn(5, 4)
    return all(topoloss.available(kind) == SHIPPED[kind] for kind in KINDS) and torch.equal(
        topoloss.regulariser("t1")(x), topoloss.pipeline("correlation", "mst", "t1")(x)
    )
