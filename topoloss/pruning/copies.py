"""Which neurons copy which: groups that short edges of the spanning tree join."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from topoloss import components
from topoloss.attaching.layers import Layers
from topoloss.attaching.neurons import Units
from topoloss.attaching.observation import looking, observe
from topoloss.errors import InputError, check_choice, check_number
from topoloss.pruning.data import Data, batches, run
from topoloss.regularisers import side_by_side

__all__ = [
    "Group",
    "Neuron",
    "Redundancy",
    "Tree",
    "central",
    "copies_in",
    "joined",
    "products",
    "redundancy",
    "tree",
]

Neuron: TypeAlias = tuple[str, int]

_COLUMNS = ("layer", "unit", "kind", "copies_layer", "copies_unit", "correlation", "value")


@dataclass(frozen=True)
class Group:
    """A neuron and those that copy it.

    Attributes
    ----------
    representative : (layer, unit)
        The neuron of the group that correlates most with the others.
    copies : dict of (layer, unit) to float
        The others, and the correlation of each with the representative: negative for a mirror
        image.
    """

    representative: Neuron
    copies: dict[Neuron, float]


@dataclass(frozen=True)
class Redundancy:
    """Which neurons copy which; made by :func:`redundancy`.

    Attributes
    ----------
    level : float
    neurons : dict of str to int
        How many neurons there are, by layer.
    groups : list of Group
        The largest first. Each has a ``representative``, as (layer, unit), and ``copies``: a dict
        of (layer, unit) to its correlation with the representative.
    constant : dict of (layer, unit) to float
        Neurons whose output is the same for every sample, and that output; 0 is a dead neuron.
    """

    level: float
    neurons: dict[str, int]
    groups: list[Group]
    constant: dict[Neuron, float]

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each neuron that is a copy or constant, to export as a table.

        Returns
        -------
        list of dict
            With the keys ``layer``, ``unit``, ``kind`` ("copy", "constant" or "dead"),
            ``copies_layer``, ``copies_unit``, ``correlation`` and ``value``; keys that do not
            apply hold None.
        """
        empty = dict.fromkeys(_COLUMNS)
        rows = []
        for group in self.groups:
            layer, unit = group.representative
            of = {"kind": "copy", "copies_layer": layer, "copies_unit": unit}
            for (name, k), r in group.copies.items():
                rows.append(empty | of | {"layer": name, "unit": k, "correlation": r})
        for (name, k), value in self.constant.items():
            kind = "constant" if value else "dead"
            rows.append(empty | {"layer": name, "unit": k, "kind": kind, "value": value})
        return rows

    def to_csv(self, path: str | Path) -> None:
        """Write :meth:`rows` to a file."""
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, _COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows())

    def __str__(self) -> str:
        """A table with a line for each layer, and one for all of them."""
        counts = Counter((row["layer"], row["kind"]) for row in self.rows())
        kinds = ("copy", "constant", "dead")
        header = ("layer", "neurons", "copies", "constant", "dead")
        cells: list[tuple[str, ...]] = [header]
        for name, n in self.neurons.items():
            cells.append((name, f"{n:,}", *(f"{counts[name, kind]:,}" for kind in kinds)))
        totals = [sum(counts[name, kind] for name in self.neurons) for kind in kinds]
        cells.append(("all", f"{sum(self.neurons.values()):,}", *(f"{n:,}" for n in totals)))
        widths = [max(len(row[k]) for row in cells) for k in range(len(header))]
        lines = [
            "  ".join(
                [row[0].ljust(widths[0])]
                + [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
            )
            for row in cells
        ]
        return "\n".join(lines)


def redundancy(
    model: nn.Module,
    data: Data,
    *,
    level: float = 0.05,
    layers: Layers = "auto",
    units: Units = "channel",
    per: Literal["network", "layer"] = "layer",
) -> Redundancy:
    """Find out which neurons copy which.

    Two neurons belong to one group if a path of edges of the minimum spanning tree, each with a
    death of at most `level`, joins them: single linkage of ``1 - |r|``, cut at `level`. Within a
    group each neuron is compared with the representative, so a correlation in a long chain may be
    lower than ``1 - level``.

    Parameters
    ----------
    model : Module
        It is run in evaluation mode, without gradients, and left as it was.
    data : Tensor, tuple, dict, or iterable of these
        What the model takes, without labels: one batch, or several. All of their activations
        are held in memory at once.
    level : float
        From 0 to 1: 0.05 joins neurons with ``|r|`` of at least 0.95.
    layers, units
        As for :func:`topoloss.observe`; channels by default, as only whole channels can be taken
        out of a model.
    per : {"layer", "network"}
        Look for copies within each layer, or across layers as well. For the latter all layers must
        have the same samples.

    Returns
    -------
    Redundancy

    Raises
    ------
    OptionError, AttachmentError, InputError
        For a wrong option, a layer that cannot be observed, or fewer than two samples.

    See Also
    --------
    prune : Take redundant neurons out of a model.

    Examples
    --------
    >>> import torch, topoloss
    >>> _ = torch.manual_seed(0)  # with some weights a neuron is dead, and not a copy
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> with torch.no_grad():
    ...     _ = model[0].weight[2].copy_(2 * model[0].weight[0])
    ...     _ = model[0].bias[2].copy_(2 * model[0].bias[0])
    >>> found = topoloss.redundancy(model, torch.randn(100, 3), layers="0")
    >>> [(group.representative, list(group.copies)) for group in found.groups]
    [(('0', 0), [('0', 2)])]
    """
    check_number("level", level, least=0, most=1)
    check_choice("per", per, ("network", "layer"))
    with observe(model, layers, units) as seen, looking(model, seen):
        parts: dict[str, list[Tensor]] = {}
        for batch in batches(data):
            run(model, batch)
            for name, x in seen.activations().items():
                before = parts.setdefault(name, [])
                if before and before[0].shape[1] != x.shape[1]:
                    raise InputError(
                        f"layer {name!r} has {before[0].shape[1]} neurons in one batch and "
                        f"{x.shape[1]} in another, as each unit at each position is a neuron; pass "
                        "inputs of one size, or units='channel'."
                    )
                before.append(x)
    return copies_in(
        {name: torch.cat(matrices).cpu() for name, matrices in parts.items()}, level, per
    )


def copies_in(
    layers: Mapping[str, Tensor], level: float, per: Literal["network", "layer"]
) -> Redundancy:
    """Find out which neurons copy which, as :func:`redundancy` does, from recorded activations.

    Parameters
    ----------
    layers : dict of str to Tensor, shape (samples, neurons)
        On the CPU.
    level, per
        As for :func:`redundancy`.
    """
    sizes = {name: x.shape[1] for name, x in layers.items()}
    matrices = {"": side_by_side(layers)} if per == "network" else layers
    groups: list[Group] = []
    constant: dict[Neuron, float] = {}
    for name, x in matrices.items():
        where = _neurons(sizes if per == "network" else {name: sizes[name]})
        of_x = tree(x)
        for k in of_x.constant:
            constant[where[k]] = float(x[:, k].mean(dtype=torch.float64))
        short = of_x.edges[of_x.deaths <= level]
        groups += [_group(x, members, where) for members in joined(short)]
    groups.sort(key=lambda group: -len(group.copies))
    return Redundancy(level, sizes, groups, constant)


@dataclass(frozen=True)
class Tree:
    """The spanning tree on the columns of a matrix, without the constant ones.

    Attributes
    ----------
    constant : list of int
        Columns whose feature vector is 0: for correlations the constant ones, for cosines the
        zero ones.
    deaths : Tensor, shape (n - len(constant) - 1,)
        Ascending.
    edges : Tensor of int64, shape (n - len(constant) - 1, 2)
        The two columns that each edge joins.
    """

    constant: list[int]
    deaths: Tensor
    edges: Tensor


@torch.no_grad()
def tree(x: Tensor, filtration: str = "correlation") -> Tree:
    """Find the tree on the columns of `x`, shape (samples, n), in float64."""
    if x.shape[0] < 2:
        raise InputError(f"{x.shape[0]} samples were given; a correlation needs at least 2.")
    made = components.filtration(filtration)
    # The dtype of x decides which columns are constant; their distances are found in float64.
    live = (made.vertices(x) != 0).any(1)
    constant = (~live).nonzero()[:, 0].tolist()
    columns = live.nonzero()[:, 0]
    if not len(columns):
        return Tree(constant, x.new_zeros(0), columns.new_zeros(0, 2))
    diagram = components.pipeline(made, "mst", "t1").diagrams(x[:, columns].double())[0]
    return Tree(constant, diagram.deaths, columns[diagram.death_edges])


def joined(edges: Tensor) -> list[list[int]]:
    """Groups of columns that edges join, each ascending."""
    group: dict[int, int] = {}

    def root(k: int) -> int:
        group.setdefault(k, k)
        while group[k] != k:
            group[k] = group[group[k]]
            k = group[k]
        return k

    for i, j in edges.tolist():
        first, second = sorted((root(i), root(j)))
        group[second] = first
    members: dict[int, list[int]] = {}
    for k in sorted(group):
        members.setdefault(root(k), []).append(k)
    return list(members.values())


def products(x: Tensor, members: Sequence[int], filtration: str = "correlation") -> Tensor:
    """Correlations, or cosines, between some columns of `x`, none of them constant."""
    v: Tensor = components.filtration(filtration).vertices(x[:, list(members)].double())
    return (v @ v.T).clamp(-1, 1)


def central(r: Tensor) -> int:
    """The index of the column that is most like the others."""
    return int(r.abs().sum(1).argmax())


def _group(x: Tensor, members: list[int], where: Sequence[Neuron]) -> Group:
    r = products(x, members)
    centre = central(r)
    copies = {where[k]: float(r[centre, m]) for m, k in enumerate(members) if m != centre}
    return Group(where[members[centre]], copies)


def _neurons(sizes: Mapping[str, int]) -> list[Neuron]:
    return [(name, k) for name, n in sizes.items() for k in range(n)]
