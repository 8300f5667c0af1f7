"""From a network to the graph of its spectral neurons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

import topoloss
from topoloss_svr.decomposition import check_weight, spectrum_of
from topoloss_svr.overlaps import overlaps_of, positions, significance_threshold

__all__ = ["SpectralGraph", "sequential_weights", "spectral_graph"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, eq=False)
class SpectralGraph:
    """The spectral neurons of a network, and how much those of consecutive layers overlap.

    Vertices are numbered layer by layer, and in each layer by descending singular value.

    Attributes
    ----------
    layers : tuple of str
    singular_values : tuple of Tensor
        One tensor for each layer.
    overlaps : tuple of Tensor, shape (spectral neurons of a layer, of the layer before it)
        One tensor for each layer but the first.
    thresholds : tuple of float
        The smallest significant overlap of each layer but the first.
    """

    layers: tuple[str, ...]
    singular_values: tuple[Tensor, ...]
    overlaps: tuple[Tensor, ...]
    thresholds: tuple[float, ...]

    @property
    def offsets(self) -> tuple[int, ...]:
        """The index of the first vertex of each layer."""
        found = [0]
        for values in self.singular_values[:-1]:
            found.append(found[-1] + len(values))
        return tuple(found)

    def edges(self) -> tuple[Int[Tensor, "e 2"], Float[Tensor, " e"]]:
        """Return the significant edges, as pairs of vertices, and their overlaps."""
        ends, values = [], []
        for (before, after), a, threshold in zip(
            pairwise(self.offsets), self.overlaps, self.thresholds, strict=True
        ):
            later, earlier = torch.nonzero(a >= threshold, as_tuple=True)
            ends.append(torch.stack((before + earlier, after + later), 1))
            values.append(a[later, earlier])
        return torch.cat(ends), torch.cat(values)


def spectral_graph(
    network: nn.Sequential | Mapping[str, Tensor], *, sigma: float = 3.0
) -> SpectralGraph:
    """Return the graph of the spectral neurons of a network.

    Parameters
    ----------
    network : Sequential, or dict of str to Tensor
        Fully connected layers and convolutions, one after the other; or their weights by name. As
        a weight does not say what its layer is, each is taken to be that of a fully connected
        layer, or of an ungrouped convolution, that reads the outputs of the layer before.
    sigma : float
        See :func:`significance_threshold`.

    Returns
    -------
    SpectralGraph
        Differentiable in the weights.

    Raises
    ------
    InputError
        If the definition does not cover a layer, which the message names.
    NonFiniteError
        If the weight of a layer, which the message names, holds NaN or infinity.

    Examples
    --------
    >>> import torch
    >>> from topoloss_svr import spectral_graph
    >>> basis = torch.eye(50)
    >>> first = basis[:, :4] * torch.tensor([4.0, 3.0, 2.0, 1.0])  # writes four directions
    >>> second = torch.tensor([[2.0], [1.0]]) * basis[3:5]  # reads the fourth, and a fifth
    >>> edges, a = spectral_graph({"first": first, "second": second}).edges()
    >>> edges, a.round(decimals=5)
    (tensor([[3, 4]]), tensor([1.]))
    """
    weights = sequential_weights(network) if isinstance(network, nn.Module) else network
    checked(weights)
    spectra = {name: spectrum_of(name, w) for name, w in weights.items()}
    found, thresholds = [], []
    for (before, first), (name, second) in pairwise(weights.items()):
        count = positions(name, second, before, first)
        found.append(overlaps_of(spectra[before], spectra[name], count))
        thresholds.append(significance_threshold(len(first), count, sigma=sigma))
    values = tuple(of_layer.values for of_layer in spectra.values())
    return SpectralGraph(tuple(weights), values, tuple(found), tuple(thresholds))


def sequential_weights(network: nn.Sequential) -> dict[str, Tensor]:
    """Return the weights of a Sequential by name, without modules that have no parameters.

    Raises
    ------
    InputError
        If a module with parameters, which the message names, is neither a fully connected layer
        nor an ungrouped convolution.
    """
    if not isinstance(network, nn.Module):
        raise topoloss.InputError(
            f"something of type {type(network).__name__} was given; expected a Sequential."
        )
    return dict(_layers(network, ""))


def checked(weights: Mapping[str, Tensor]) -> None:
    """Raise unless these are the weights of at least two layers that follow one another."""
    if not isinstance(weights, Mapping) or len(weights) < 2:
        given = list(weights) if isinstance(weights, Mapping) else type(weights).__name__
        raise topoloss.InputError(
            f"the weights of {given or 'no layer'} were given; expected a mapping from names to "
            "the weights of at least 2 layers, because edges join spectral neurons of two layers."
        )
    for name, w in weights.items():
        check_weight(name, w)
    for (before, first), (name, second) in pairwise(weights.items()):
        positions(name, second, before, first)


def _layers(module: nn.Module, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        # A module that is used in two places counts as two layers.
        for child, part in module.named_modules(remove_duplicate=False):
            if child and "." not in child:
                yield from _layers(part, f"{name}.{child}" if name else child)
        return
    if isinstance(module, _CONVOLUTIONS) and module.groups > 1:
        raise topoloss.InputError(
            f"layer {name!r} is a convolution of {module.groups} groups, for which the singular "
            "value representation is not defined; expected one group."
        )
    if isinstance(module, (nn.Linear, *_CONVOLUTIONS)):
        yield name, module.weight
    elif next(module.parameters(), None) is not None:
        what = f"layer {name!r}" if name else "the network"
        raise topoloss.InputError(
            f"{what} is a {type(module).__name__}, for which the singular value representation is "
            "not defined; expected a Sequential of fully connected layers, convolutions, and "
            "modules without parameters. To leave it out, give the weights by name."
        )
