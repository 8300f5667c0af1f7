"""Which neurons of a layer take part: ``importance``, ``random`` and ``all``."""

from __future__ import annotations

from fractions import Fraction

import torch
from jaxtyping import Float, Int
from torch import Tensor

import topoloss

# The largest seed of a torch.Generator.
_LARGEST_SEED = 2**64 - 1


class _FractionSampler(topoloss.Sampler):
    def __init__(self, *, fraction: float = 1.0) -> None:
        topoloss.check_number("fraction", fraction, above=0, most=1)
        self.fraction = fraction
        # The decimal number as written: 0.29 of 100 is 29, though the float 100 * 0.29 is below 29.
        self._ratio = Fraction(str(fraction)).as_integer_ratio()

    def count(self, n: int) -> int:
        """floor(fraction * n)."""
        numerator, denominator = self._ratio
        return n * numerator // denominator


class Importance(_FractionSampler):
    """The floor(fraction * n) neurons with the largest batch mean of ``|activation|``.

    Ties go to the lowest index. The paper takes a fraction of 1 for fully connected
    networks and 0.005 for its convolutional ones.

    Parameters
    ----------
    fraction : float
        In (0, 1]. A layer with fewer than ``1 / fraction`` neurons contributes none.

    References
    ----------
    Ballester, Casacuberta, Escalera, "Decorrelating neurons using persistence",
    PMLR 228 (2024), section 5.

    Examples
    --------
    >>> import torch, topoloss
    >>> sampler = topoloss.sampler("importance", fraction=0.5)
    >>> sampler.select(torch.tensor([[1.0, -9.0, 0.0, 2.0], [1.0, 0.0, 0.0, 2.0]]))
    tensor([1, 3])
    """

    def select(self, x: Float[Tensor, "samples n"]) -> Int[Tensor, " k"]:
        if self.fraction == 1:
            return torch.arange(x.shape[1], device=x.device)
        importance = x.to(torch.promote_types(x.dtype, torch.float32)).abs().mean(0)
        ranked = torch.sort(importance, descending=True, stable=True).indices
        return ranked[: self.count(x.shape[1])].sort().values


class Random(_FractionSampler):
    """floor(fraction * n) neurons drawn without replacement, afresh for each forward pass.

    Each sampler has its own random numbers, fixed by the seed; the global random state is
    neither read nor changed.

    Parameters
    ----------
    fraction : float
        In (0, 1].
    seed : int
        At least 0.

    Examples
    --------
    >>> import torch, topoloss
    >>> sampler = topoloss.sampler("random", fraction=0.5, seed=0)
    >>> sampler.select(torch.zeros(2, 6)).shape
    torch.Size([3])
    """

    def __init__(self, *, fraction: float = 1.0, seed: int = 0) -> None:
        super().__init__(fraction=fraction)
        topoloss.check_number("seed", seed, whole=True, least=0, most=_LARGEST_SEED)
        self.seed = seed
        self._state = torch.Generator().manual_seed(seed).get_state()

    def select(self, x: Float[Tensor, "samples n"]) -> Int[Tensor, " k"]:
        generator = torch.Generator()
        generator.set_state(self._state)
        drawn = torch.randperm(x.shape[1], generator=generator)[: self.count(x.shape[1])]
        self._state = generator.get_state()
        return drawn.sort().values.to(x.device)


class All(topoloss.Sampler):
    """Every neuron.

    Examples
    --------
    >>> import torch, topoloss
    >>> topoloss.sampler("all").select(torch.zeros(2, 3))
    tensor([0, 1, 2])
    """

    def select(self, x: Float[Tensor, "samples n"]) -> Int[Tensor, " k"]:
        return torch.arange(x.shape[1], device=x.device)


@topoloss.hookimpl
def topoloss_samplers() -> dict[str, type[topoloss.Sampler]]:
    return {"importance": Importance, "random": Random, "all": All}
