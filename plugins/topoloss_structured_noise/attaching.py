"""Add structured noise to a model that has no layer for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from topoloss_plugins.hooks import OwnHook
from torch import Tensor, nn

import topoloss
from topoloss_structured_noise.layer import StructuredNoise

__all__ = ["NoiseAttachment", "structured_noise"]

_ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU,
    nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardtanh, nn.Hardsigmoid, nn.Hardshrink, nn.Softshrink,
    nn.Tanhshrink, nn.Threshold, nn.Tanh, nn.Sigmoid, nn.LogSigmoid, nn.Softplus, nn.Softsign,
)  # fmt: skip


def structured_noise(
    model: nn.Module, variance: float = 0.5, *, layers: Sequence[str] | None = None
) -> NoiseAttachment:
    """Multiply the outputs of some modules of a model by structured noise.

    Parameters
    ----------
    model : Module
    variance : float
        As for :class:`StructuredNoise`.
    layers : sequence of str, optional
        Names of modules; by default all activation modules, such as ``ReLU``.

    Returns
    -------
    NoiseAttachment

    Raises
    ------
    OptionError
        If a name is repeated or names no module, or if no names are given and the model has no
        activation module.

    Notes
    -----
    A copy of the model alone has no noise. To copy the model with its noise, apply `copy.deepcopy`
    to an object that holds both, such as a tuple.

    Examples
    --------
    >>> import torch
    >>> from topoloss_structured_noise import structured_noise
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> with structured_noise(model, 0.2) as noise:
    ...     loss = model(torch.randn(16, 4)).square().mean() + noise()
    >>> noise.layers
    ('1',)
    """
    if not isinstance(model, nn.Module):
        raise topoloss.InputError(f"model is a {type(model).__name__}; expected a Module.")
    modules = dict(model.named_modules())
    if layers is None:
        layers = [name for name, module in modules.items() if isinstance(module, _ACTIVATIONS)]
        if not layers:
            raise topoloss.OptionError(
                f"{type(model).__name__} has no activation that is a module, such as ReLU; name "
                "the modules whose output to disturb with layers=."
            )
    listed = isinstance(layers, (list, tuple)) and all(name in modules for name in layers)
    if not listed or not layers or len(set(layers)) < len(layers):
        raise topoloss.OptionError(
            f"layers={layers!r} was given; expected a list of at least one name, each once, among "
            f"{list(modules)[1:]}."
        )
    return NoiseAttachment(model, StructuredNoise(variance), tuple(layers))


class NoiseAttachment:
    """Structured noise that :func:`structured_noise` put into a model.

    Attributes
    ----------
    layers : tuple of str
    """

    def __init__(self, model: nn.Module, noise: StructuredNoise, layers: tuple[str, ...]) -> None:
        self.layers = layers
        self._model = model
        self._noise = noise
        self._removed = False
        self._connect()

    def _connect(self) -> None:
        modules = dict(self._model.named_modules())
        hook = OwnHook(self._disturb)
        self._hooks = [modules[name].register_forward_hook(hook) for name in self.layers]

    def _disturb(self, module: nn.Module, args: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor):
            raise topoloss.InputError(
                f"a {type(module).__name__} returned something of type {type(output).__name__}, "
                "but structured noise multiplies a tensor; choose other modules with layers=."
            )
        self._noise.train(module.training)
        noisy: Tensor = self._noise(output)
        return noisy

    def __call__(self) -> Tensor:
        """Return 0: the noise is in the forward pass, and adds nothing to the loss."""
        parameter = next(self._model.parameters(), None)
        return torch.zeros((), device=None if parameter is None else parameter.device)

    def remove(self) -> None:
        """Take the noise out of the model."""
        for hook in self._hooks:
            hook.remove()
        self._removed = True

    def __enter__(self) -> NoiseAttachment:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def __getstate__(self) -> dict[str, Any]:
        kept = self.__dict__.copy()
        del kept["_hooks"]
        return kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._hooks = []
        if not self._removed:
            self._connect()
