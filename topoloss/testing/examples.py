"""Examples that components are tried on, some with a diagram that is known in closed form.

The known diagrams are those of the filtration by ``1 - |r|`` in dimension 0, where a
constant neuron has correlation 0 with every neuron.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from topoloss.errors import InputError

__all__ = [
    "Example",
    "KnownExample",
    "constant_column",
    "duplicated",
    "generic",
    "many",
    "orthogonal",
    "two_clusters",
]


@dataclass(frozen=True, eq=False)
class Example:
    """Tensors to try a component on.

    Attributes
    ----------
    name : str
        The example's name in reports; most often the call that makes it again.
    tensors : tuple of Tensor
    """

    name: str
    tensors: tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class KnownExample(Example):
    """Activations, and their diagram of ``1 - |r|`` in dimension 0.

    Attributes
    ----------
    name : str
        The call that makes the example again.
    tensors : tuple of one Tensor
        The activations.
    deaths : Tensor of float64, shape (neurons - 1,)
        Ascending, zeros included.
    """

    deaths: Tensor

    @property
    def activations(self) -> Tensor:
        """Tensor of float64, shape (samples, neurons)."""
        (activations,) = self.tensors
        return activations

    @property
    def t1(self) -> float:
        """Minus the sum of the deaths."""
        return -self.deaths.sum().item()

    @property
    def t2(self) -> float:
        """Half of (population standard deviation minus mean) of the deaths."""
        if not len(self.deaths):
            return 0.0
        return (self.deaths.std(correction=0) - self.deaths.mean()).item() / 2


def two_clusters() -> KnownExample:
    """Four neurons of pairwise correlation 4/5, four of 1/2, and 0 between the two groups.

    Examples
    --------
    >>> from topoloss.testing import examples
    >>> examples.two_clusters().deaths.tolist()
    [0.2, 0.2, 0.2, 0.5, 0.5, 0.5, 1.0]
    """
    h = _orthogonal_columns(16)
    tight = h[:, :1] + h[:, 1:5] / 2
    loose = h[:, 5:6] + h[:, 6:10]
    deaths = [1 / 5] * 3 + [1 / 2] * 3 + [1.0]
    return _known("two_clusters()", torch.cat((tight, loose), 1), deaths)


def duplicated() -> KnownExample:
    """Two neurons of correlation ``1 / sqrt(2)``, with copies, one of them reflected.

    Examples
    --------
    >>> from topoloss.testing import examples
    >>> examples.duplicated().deaths[:3].tolist()
    [0.0, 0.0, 0.0]
    """
    h = _orthogonal_columns(8)
    a, b = h[:, 0], h[:, 0] + h[:, 1]
    activations = torch.stack((a, a, 3 - 2 * a, b, b), 1)
    return _known("duplicated()", activations, [0, 0, 0, 1 - 2**-0.5])


def constant_column() -> KnownExample:
    """Two neurons of correlation 4/5, and between them one that is 1/10 in every sample.

    Examples
    --------
    >>> from topoloss.testing import examples
    >>> examples.constant_column().deaths.tolist()
    [0.2, 1.0]
    """
    h = _orthogonal_columns(8)
    a, b = h[:, 0] + h[:, 1] / 2, h[:, 0] + h[:, 2] / 2
    return _known("constant_column()", torch.stack((a, torch.full_like(a, 0.1), b), 1), [1 / 5, 1])


def orthogonal() -> KnownExample:
    """Seven uncorrelated neurons with entries 1 and -1: every edge ties with every other.

    Examples
    --------
    >>> from topoloss.testing import examples
    >>> examples.orthogonal().t1
    -6.0
    """
    return _known("orthogonal()", _orthogonal_columns(8), [1] * 6)


def generic(samples: int = 12, neurons: int = 6, seed: int = 0) -> KnownExample:
    """Neurons in general position: distinct correlations, none of them 0 or 1.

    The first neuron correlates more with each other neuron than any two others do among
    themselves, so that the tree is a star.

    Parameters
    ----------
    samples, neurons : int
        There must be more samples than neurons.
    seed : int

    Raises
    ------
    InputError
        If there are too few samples.

    Examples
    --------
    >>> from topoloss.testing import examples
    >>> example = examples.generic(neurons=3)
    >>> example.activations.shape, example.deaths.shape
    (torch.Size([12, 3]), torch.Size([2]))
    """
    if not 0 < neurons < samples:
        raise InputError(
            f"samples={samples}, neurons={neurons} were given; expected at least one neuron and "
            "more samples than neurons."
        )
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    noise = randn(samples, neurons)
    basis = torch.linalg.qr(noise - noise.mean(0)).Q
    # One ratio in the lower half of each of neurons - 1 equal parts of [1/3, 4/3].
    part = torch.rand(neurons - 1, dtype=torch.float64, generator=generator) / 2
    ratio = 1 / 3 + (torch.arange(neurons - 1) + part) / max(neurons - 1, 1)
    unscaled = basis[:, :1] + basis * torch.cat((ratio.new_zeros(1), ratio))
    sign = 1 - 2 * (torch.arange(neurons) % 2)
    scale = sign * randn(neurons).exp() * samples**0.5
    # Up to sign, the first and another neuron have r = 1 / sqrt(1 + ratio^2); two others have the
    # product of their r with the first.
    deaths = 1 - (1 + ratio**2).rsqrt()
    name = f"generic(samples={samples}, neurons={neurons}, seed={seed})"
    return KnownExample(name, (unscaled * scale + randn(neurons),), deaths)


def many(neurons: int = 321, samples: int = 5, seed: int = 0) -> Example:
    """Many neurons and few samples of normal numbers, whose diagram has no closed form.

    Examples
    --------
    >>> from topoloss.testing import examples
    >>> (x,) = examples.many().tensors
    >>> x.shape
    torch.Size([5, 321])
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, neurons, dtype=torch.float64, generator=generator)
    return Example(f"many(neurons={neurons}, samples={samples}, seed={seed})", (x,))


def _known(name: str, activations: Tensor, deaths: list[float]) -> KnownExample:
    return KnownExample(name, (activations,), torch.tensor(deaths, dtype=torch.float64))


def _orthogonal_columns(size: int) -> Tensor:
    """Return all but the first column of the Hadamard matrix: orthogonal, with mean 0."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    step = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.kron(matrix, step)
    return matrix[:, 1:]
