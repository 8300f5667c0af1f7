"""How many neurons of a trained network can be removed: accuracy against the share removed.

    python -m benchmarks.pruning

Network 0 on digits, trained with each arm on each split, then made smaller in four ways. Weights of
the arms are fixed beforehand, not chosen by these scores. Finished runs are kept; after an
interruption the same command does the rest.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from statistics import fmean

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

import topoloss
from benchmarks import rows
from topoloss.compare.data import Part, Split, load, split
from topoloss.compare.networks import build
from topoloss.compare.tables import as_markdown
from topoloss.palette import looks

PRUNING = rows.RESULTS / "pruning.csv"
FIGURE = Path(__file__).parents[1] / "docs" / "images" / "pruning.png"
# For each arm the network (net1 is network 0 with dropout), the penalty and its weight.
ARMS: dict[str, tuple[str, str, float]] = {
    "none": ("net0", "none", 0.0),
    "t1": ("net0", "t1", 1e-3),
    "t2": ("net0", "t2", 1.0),
    "dropout": ("net1", "none", 0.0),
    "decov": ("net0", "decov", 1e-3),
}
SPLITS = range(8)
EPOCHS, BATCH, RATE = 150, 256, 1e-3
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
# Shares in the table of the docs; the figure has all of them.
SHOWN = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1)
    jobs = parser.parse_args().jobs
    done = rows.read(PRUNING)
    finished = {(row["arm"], int(row["split"])) for row in done}
    wanted = [(arm, k) for k in SPLITS for arm in ARMS if (arm, k) not in finished]
    with ProcessPoolExecutor(jobs) as pool:
        for found in pool.map(scores, *zip(*wanted, strict=True) if wanted else ((), ())):
            done += found
            rows.write(PRUNING, done)
    draw(done, FIGURE)
    print(table(done))


def scores(arm: str, seed: int) -> list[rows.Row]:
    """Test accuracies of one trained network, by how neurons are removed, and which share."""
    torch.set_num_threads(1)
    parts = split(load("digits"), seed)
    model = trained(arm, parts, seed)
    found: list[dict[str, object]] = []
    for way, smaller in WAYS.items():
        for share in SHARES:
            accuracy = score(smaller(model, parts.train.x, share), parts.test)
            found.append(
                {"arm": arm, "split": seed, "way": way, "removed": share}
                | {"accuracy": round(accuracy, 4)}
            )
    return [rows.as_text(row) for row in found]


def trained(arm: str, parts: Split, seed: int) -> nn.Sequential:
    """Network 0, for a fixed number of epochs."""
    network, name, weight = ARMS[arm]
    torch.manual_seed(seed)
    model = build(network, load("digits"))
    penalty = topoloss.attach(model, name)
    optimiser = torch.optim.Adam(model.parameters(), RATE)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(parts.train.x)).split(BATCH):
            loss = nn.functional.cross_entropy(model(parts.train.x[batch]), parts.train.y[batch])
            optimiser.zero_grad()
            (loss + weight * penalty()).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    penalty.remove()
    return model.eval()


@torch.no_grad()
def score(model: nn.Module, part: Part) -> float:
    return float((model(part.x).argmax(1) == part.y).float().mean())


def smallest_first(model: nn.Sequential, x: Tensor, share: float) -> nn.Module:
    """Remove the same share of each hidden layer by the norm of incoming weights, with PyTorch."""
    smaller = copy.deepcopy(model)
    layers = [module for module in smaller if isinstance(module, nn.Linear)]
    for layer in layers[:-1]:
        torch_prune.ln_structured(layer, "weight", share, n=2, dim=0)  # type: ignore[no-untyped-call]
        mask = layer.weight_mask[:, 0]
        torch_prune.custom_from_mask(layer, "bias", mask)  # type: ignore[no-untyped-call]
    return smaller


WAYS: dict[str, Callable[[nn.Sequential, Tensor, float], nn.Module]] = {
    "smallest weights": smallest_first,
    "copies": lambda model, x, share: topoloss.prune(model, x, share=share),
    "copies, refitted": lambda model, x, share: topoloss.prune(model, x, share=share, refit=True),
}


def means(found: list[rows.Row]) -> Iterator[tuple[str, str, list[float]]]:
    """For each way and arm the mean accuracy at each share, in percent."""
    values: dict[tuple[str, str, float], list[float]] = {}
    for row in found:
        at = (row["way"], row["arm"], float(row["removed"]))
        values.setdefault(at, []).append(100 * float(row["accuracy"]))
    for way, arm in product(WAYS, ARMS):
        yield way, arm, [fmean(values[way, arm, share]) for share in SHARES]


def table(found: list[rows.Row]) -> str:
    """Markdown: mean test accuracies."""
    shown = [k for k, share in enumerate(SHARES) if share in SHOWN]
    header = ["removed first", "trained with", *(f"{100 * SHARES[k]:g}%" for k in shown)]
    lines = [[way, arm, *(f"{line[k]:.1f}" for k in shown)] for way, arm, line in means(found)]
    return as_markdown(header, lines)


def draw(found: list[rows.Row], path: Path) -> None:
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    panels = dict(zip(WAYS, figure.subplots(1, len(WAYS), sharey=True), strict=True))
    look = looks(ARMS)
    for way, arm, line in means(found):
        panels[way].plot([100 * s for s in SHARES], line, label=arm, markersize=4, **look[arm])
    for way, axes in panels.items():
        axes.set(title=way, xlabel="neurons removed (%)")
        axes.spines[["top", "right"]].set_visible(False)
    panels["smallest weights"].set_ylabel("test accuracy (%)")
    panels["smallest weights"].legend(frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
