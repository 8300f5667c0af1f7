"""A layer that learns similarity matching by itself, sample by sample and synapse by synapse."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor, nn

import topoloss
from topoloss_similarity_matching.costs import check_matrix
from topoloss_similarity_matching.penalty import Activation

__all__ = ["HebbianLayer"]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda u: u,
    "relu": torch.relu,
    "tanh": torch.tanh,
}
_MOST_STEPS = 10_000


class HebbianLayer(nn.Module):
    r"""A layer with feedforward weights W and lateral weights L that learns without gradients.

    The outputs are the fixed point of :math:`\dot u = -u + W x - (L - 1) r` with r = f(u). For
    each sample W moves towards :math:`r x^T`, which is Hebbian, and L towards :math:`r r^T`, which
    is anti-Hebbian because L inhibits. The change of a connection depends only on the two neurons
    that it joins. Learning has the same stationary points as the cost of ``similarity-matching``.

    Parameters
    ----------
    inputs, outputs : int
    activation : {"linear", "relu", "tanh"}
        The function f.
    feedforward : Tensor, shape (outputs, inputs), optional
        1 for each connection and 0 elsewhere; by default all outputs are connected to all inputs.
    lateral : Tensor, shape (outputs, outputs), optional
        The same for connections between outputs; symmetric, with 1 on the diagonal.
    seed : int
        Seed of the initial W, normal numbers of variance 1 / inputs. The initial L is the identity.
    tolerance : float
        Nonlinear units settle in steps, until the change of a sample's u is at most this times the
        norm of u.

    Attributes
    ----------
    weight : Tensor, shape (outputs, inputs)
        W.
    inhibition : Tensor, shape (outputs, outputs)
        L.

    References
    ----------
    Pehlevan, Hu, Chklovskii, "A Hebbian/anti-Hebbian neural network for linear subspace learning",
    Neural Computation 27 (2015); Pehlevan, Sengupta, Chklovskii, "Why do similarity matching
    objectives lead to Hebbian/anti-Hebbian networks?", Neural Computation 30 (2018).

    Examples
    --------
    >>> import torch
    >>> from topoloss_similarity_matching import HebbianLayer
    >>> layer = HebbianLayer(4, 2)
    >>> x = torch.randn(100, 4) * torch.tensor([3.0, 2.0, 0.1, 0.1])
    >>> _ = layer.learn(x, rate=0.01)
    >>> layer(x).shape
    torch.Size([100, 2])
    """

    weight: Tensor
    inhibition: Tensor
    feedforward: Tensor
    lateral: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        activation: Activation = "linear",
        feedforward: Float[Tensor, "outputs inputs"] | None = None,
        lateral: Float[Tensor, "outputs outputs"] | None = None,
        seed: int = 0,
        tolerance: float = 1e-5,
    ) -> None:
        super().__init__()
        topoloss.check_number("inputs", inputs, whole=True, least=1)
        topoloss.check_number("outputs", outputs, whole=True, least=1)
        topoloss.check_choice("activation", activation, tuple(_ACTIVATIONS))
        topoloss.check_number("seed", seed, whole=True, least=0)
        topoloss.check_number("tolerance", tolerance, above=0)
        self.activation = activation
        self.tolerance = tolerance
        connected = _connections("feedforward", feedforward, (outputs, inputs))
        among = _connections("lateral", lateral, (outputs, outputs))
        if not (torch.equal(among, among.T) and bool((among.diagonal() == 1).all())):
            raise topoloss.OptionError("lateral must be symmetric, with 1 on its diagonal.")
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(outputs, inputs, generator=generator) / inputs**0.5
        self.register_buffer("feedforward", connected)
        self.register_buffer("lateral", among)
        self.register_buffer("weight", connected * start)
        self.register_buffer("inhibition", torch.eye(outputs))

    @torch.no_grad()
    def forward(self, x: Float[Tensor, "samples inputs"]) -> Float[Tensor, "samples outputs"]:
        """Return the outputs on which the layer settles; they carry no gradient."""
        self._check(x)
        samples, weight, inhibition = self._widened(x, self.weight, self.inhibition)
        with torch.autocast(x.device.type, enabled=False):
            return self._outputs(samples, weight, inhibition).to(x.dtype)

    @torch.no_grad()
    def learn(
        self, x: Float[Tensor, "samples inputs"], *, rate: float
    ) -> Float[Tensor, "samples outputs"]:
        """Learn from samples one by one, changing the weights after each.

        Parameters
        ----------
        x : Tensor, shape (samples, inputs)
        rate : float
            How far weights move towards their targets, above 0 and at most 1. It should be well
            below the inverse of the inputs' squared norm.

        Returns
        -------
        Tensor, shape (samples, outputs)
            The output for each sample before the weights changed.

        Notes
        -----
        If an error is raised, the weights stay as they were.
        """
        topoloss.check_number("rate", rate, above=0, most=1)
        self._check(x)
        samples, weight, inhibition = self._widened(x, self.weight, self.inhibition)
        outputs = []
        with torch.autocast(x.device.type, enabled=False):
            for sample in samples:
                r = self._outputs(sample[None], weight, inhibition)[0]
                weight += self.feedforward * (rate * (torch.outer(r, sample) - weight))
                inhibition += self.lateral * (rate * (torch.outer(r, r) - inhibition))
                outputs.append(r)
        learnt = weight.to(self.weight.dtype), inhibition.to(self.inhibition.dtype)
        if not all(torch.isfinite(w).all() for w in learnt):
            raise topoloss.TopolossError(
                f"the weights grew beyond the range of {self.weight.dtype}; learn at a lower "
                "rate, or with smaller inputs."
            )
        self.weight.copy_(learnt[0])
        self.inhibition.copy_(learnt[1])
        return torch.stack(outputs).to(x.dtype)

    def _check(self, x: Tensor) -> None:
        check_matrix("samples", x, self.weight.shape[1])
        if not torch.isfinite(x).all():
            raise topoloss.NonFiniteError(
                "the samples hold NaN or infinity, on which no output settles and from which no "
                "weight would recover; leave such samples out."
            )

    def _widened(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return copies in the widest of their dtypes, at least float32."""
        dtype = reduce(torch.promote_types, (x.dtype for x in tensors), torch.float32)
        return tuple(x.to(dtype, copy=True) for x in tensors)

    def _outputs(self, x: Tensor, weight: Tensor, inhibition: Tensor) -> Tensor:
        drive = x @ weight.mT
        if self.activation != "linear":
            return self._settled(drive, inhibition)
        try:
            settled: Tensor = torch.linalg.solve(inhibition, drive.mT).mT
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise topoloss.TopolossError(
                "the outputs do not settle, as the lateral weights have no inverse; learn at a "
                "lower rate, or with smaller inputs."
            ) from error
        return settled

    def _settled(self, drive: Tensor, inhibition: Tensor) -> Tensor:
        f = _ACTIVATIONS[self.activation]
        among = inhibition - torch.eye(len(inhibition)).to(inhibition)
        # Short enough to converge under the strongest inhibition.
        step = 1 / (1 + torch.linalg.matrix_norm(among, 2))
        u = torch.zeros_like(drive)
        # A sample no longer changes once it has settled, so its outputs do not depend on others.
        moving = torch.ones(len(u), 1, dtype=torch.bool, device=u.device)
        for _ in range(_MOST_STEPS):
            change = drive - u - f(u) @ among.mT
            u = torch.where(moving, u + step * change, u)
            size, of_change = (x.norm(dim=1, keepdim=True) for x in (u, change))
            moving = moving & ~(of_change <= self.tolerance * size)
            if not moving.any():
                return f(u)
        raise topoloss.TopolossError(
            f"the outputs did not settle within {_MOST_STEPS} steps to a tolerance of "
            f"{self.tolerance}; learn at a lower rate, or with smaller inputs."
        )

    def extra_repr(self) -> str:
        outputs, inputs = self.weight.shape
        return f"inputs={inputs}, outputs={outputs}, activation={self.activation!r}"


def _connections(option: str, given: Tensor | None, shape: tuple[int, int]) -> Tensor:
    if given is None:
        return torch.ones(shape)
    if not isinstance(given, Tensor) or given.shape != shape:
        received = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise topoloss.OptionError(f"{option} is {received}; expected a tensor of shape {shape}.")
    if not ((given == 0) | (given == 1)).all():
        raise topoloss.OptionError(
            f"{option} holds numbers other than 0 and 1; expected 1 for each connection and 0 "
            "elsewhere."
        )
    return given.to(torch.get_default_dtype())
