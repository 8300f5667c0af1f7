"""The loss of topological autoencoders, which compares two layers: ``signature``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

import topoloss


class Signature(topoloss.Regulariser):
    r"""Compare the edge values of two layers along the critical edges of each.

    The vertices are the *samples*, as represented by two layers X and Z:

    .. math::

        \tfrac12 \|A^X[\pi^X] - A^Z[\pi^X]\|^2 + \tfrac12 \|A^Z[\pi^Z] - A^X[\pi^Z]\|^2

    :math:`A^X` holds the values of the edges between samples in X, and :math:`\pi^X` is the set of
    critical edges of X: with `mst`, the edges of its minimum spanning tree.

    :func:`topoloss.attach` adds the model's input as the first layer. The first layer is compared
    with every other one, and the values are summed. With the name of one layer in ``layers=``, that
    layer is therefore compared with the input; ``of_layers({"a": x, "b": z})`` compares any two.

    Parameters
    ----------
    filtration, persistence
        Names or instances: the distance between two samples, and how to find critical edges.
    on_nonfinite, check_finite
        See :class:`topoloss.Regulariser`.

    Notes
    -----
    Distances are compared without normalisation; the paper's authors divide the distances of each
    layer by the largest. Scale the layers if their units differ. An edge to which the filtration
    gives weight 0 in either layer does not count. Both layers get a gradient. Where edges tie, the
    gradient is that of the edges that the engine's tie rule picks. With one layer only, or one
    sample, the value is 0.

    References
    ----------
    Moor, Horn, Rieck, Borgwardt, "Topological autoencoders", PMLR 119 (2020), section 3.

    Examples
    --------
    >>> import torch, topoloss
    >>> x, z = torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([[0.0], [4.0], [1.0]])
    >>> reg = topoloss.regulariser("signature")
    >>> # The tree of x has the edges 0-1 and 1-2, of lengths 1 and 4 in x, 4 and 3 in z.
    >>> # The tree of z has the edges 0-2 and 1-2, of lengths 1 and 3 in z, 5 and 4 in x.
    >>> reg.of_layers({"x": x, "z": z})  # (9 + 1) / 2 + (16 + 1) / 2
    tensor(13.5000)
    """

    inputs = True

    def __init__(
        self,
        *,
        filtration: str | topoloss.Filtration = "euclidean",
        persistence: str | topoloss.Persistence = "mst",
        on_nonfinite: Literal["raise", "skip"] = "raise",
        check_finite: bool | None = None,
    ) -> None:
        super().__init__(on_nonfinite=on_nonfinite, check_finite=check_finite)
        self.pipeline = topoloss.pipeline(filtration, persistence)

    @property
    def vmappable(self) -> bool:
        vmappable: bool = self.pipeline.vmappable
        return vmappable

    def compute(self, x: Float[Tensor, "samples n"]) -> Float[Tensor, ""]:
        """Return 0: one layer alone has nothing to be compared with."""
        empty = x.narrow(0, 0, 0)
        return empty.to(torch.promote_types(x.dtype, torch.float32)).sum()

    def of_layers(self, layers: Mapping[str, Tensor]) -> Tensor:
        """Compare the first layer with every other one, and sum the values.

        Parameters
        ----------
        layers : dict of str to Tensor, shape (samples, neurons of the layer)

        Returns
        -------
        Tensor, shape ()
        """
        value = super().of_layers(layers)  # checks the layers; the value is 0
        first, *others = (x.to(value.device) for x in layers.values())
        if self.on_nonfinite == "skip":
            # Replace all layers by zeros, which have value 0 and gradient 0.
            finite = torch.stack([torch.isfinite(x).all() for x in (first, *others)]).all()
            first, *others = (torch.where(finite, x, 0) for x in (first, *others))
        with torch.autocast(value.device.type, enabled=False):
            for other in others:
                value = value + self._between(first, other)
        return value

    def __repr__(self) -> str:
        # The pipeline's loss is never used.
        stages = (self.pipeline.filtration, self.pipeline.persistence)
        return "Signature(filtration={!r}, persistence={!r})".format(*stages)

    def _between(self, x: Tensor, z: Tensor) -> Tensor:
        # Keep the dtypes: the filtration may use them to decide which vertices are constant.
        spaces = [self.pipeline.vertices(space.mT) for space in (x, z)]
        return torch.stack([self._along(space, spaces) for space in spaces]).sum() / 2

    def _along(self, space: Any, spaces: Sequence[Any]) -> Tensor:
        """Compare the two spaces along the critical edges of one of them."""
        edges, counts = self._critical_edges(space)
        (in_x, of_x), (in_z, of_z) = (self.pipeline.value_edges(v, edges) for v in spaces)
        return (counts * of_x * of_z * (in_x - in_z).square()).sum()

    def _critical_edges(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return the edges, and which of them count: not those of points that only pad a batch."""
        edges, counts = [], []
        for deaths, births, _ in self.pipeline.critical_edges(v):
            if births is None:
                edges.append(deaths)
                counts.append(torch.ones_like(deaths[:, 0], dtype=torch.bool))
            else:
                edges += [deaths, births]
                counts += 2 * [(deaths != births).any(1)]
        return torch.cat(edges), torch.cat(counts)


@topoloss.hookimpl
def topoloss_regularisers() -> dict[str, type[topoloss.Regulariser]]:
    return {"signature": Signature}
