"""What an arm changes besides its penalties, such as dropout, BatchNorm or label smoothing.

A `Treatment` says what is changed. `treated` adds the layers of dropout and BatchNorm to the
network; `attached` attaches structured noise and rewiring to it, which train() removes at the end;
train() itself does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from topoloss import objects
from topoloss.errors import InputError, check_number, listed

__all__ = [
    "NO_TREATMENT",
    "TREATMENTS",
    "Treatment",
    "attached",
    "has_strength",
    "noisy",
    "treated",
]


@dataclass(frozen=True)
class Treatment:
    """What an arm changes in its network and in training, besides penalties; by default nothing.

    Attributes
    ----------
    batch_norm : bool
        A batch normalisation after each linear or convolutional layer but the last.
    dropout : float
        The probability with which a hidden neuron is set to 0 in a training pass, after its
        activation.
    label_smoothing : float
        The share of each label that is spread over all classes.
    input_noise : float
        The standard deviation of Gaussian noise that is added to the network's inputs in
        training, in the units of these inputs.
    weight_decay : float
        Weight decay of the optimiser: decoupled from the gradient for AdamW, a part of it for
        SGD.
    structured_noise : float
        The variance of noise that multiplies each activation and is correlated as the neurons
        are.
    rewiring : float
        The share of connections that each linear layer keeps; some move after each epoch.

    Examples
    --------
    >>> from topoloss.compare.treatments import Treatment
    >>> Treatment.of({"dropout": 0.5, "batch-norm": 0.0})
    Treatment(batch_norm=True, dropout=0.5, label_smoothing=0.0, input_noise=0.0, weight_decay=0.0,
              structured_noise=0.0, rewiring=0.0)
    """

    batch_norm: bool = False
    dropout: float = 0.0
    label_smoothing: float = 0.0
    input_noise: float = 0.0
    weight_decay: float = 0.0
    structured_noise: float = 0.0
    rewiring: float = 0.0

    @classmethod
    def of(cls, strengths: dict[str, float]) -> Treatment:
        """Make a treatment from names, as in an arm, and their strengths.

        Raises
        ------
        OptionError
            If a strength is out of its range.
        """
        values: dict[str, Any] = {}
        for name, strength in strengths.items():
            field, limits = TREATMENTS[name]
            if limits is not None:
                check_number(name, strength, **limits)
            values[field] = True if limits is None else strength
        return cls(**values)


NO_TREATMENT = Treatment()

# The name in an arm: the field of a Treatment, and the range of its strength, if it has one.
TREATMENTS: dict[str, tuple[str, dict[str, Any] | None]] = {
    "batch-norm": ("batch_norm", None),
    "dropout": ("dropout", {"least": 0, "most": 1}),
    "input-noise": ("input_noise", {"least": 0}),
    "label-smoothing": ("label_smoothing", {"least": 0, "most": 1}),
    "rewiring": ("rewiring", {"above": 0, "most": 1}),
    "structured-noise": ("structured_noise", {"least": 0}),
    "weight-decay": ("weight_decay", {"least": 0}),
}


def has_strength(name: str) -> bool:
    """Whether a treatment takes a strength: all but ``batch-norm``."""
    return TREATMENTS[name][1] is not None


def treated(model: nn.Module, treatment: Treatment) -> nn.Module:
    """Return the network with the treatment's layers in it.

    The network keeps its parameters, so arms of one seed begin with the same ones.

    Raises
    ------
    InputError
        If layers must be added, but the network is not an ``nn.Sequential``, has such layers
        already, or has no place for them.
    """
    if treatment.batch_norm:
        model = _with_batch_norm(model)
    if treatment.dropout:
        model = _with_dropout(model, treatment.dropout)
    return model


# Names, not objects, because the core imports no plugin.
_NOISE, _REWIRING = "topoloss_structured_noise:structured_noise", "topoloss_rewiring:rewire"
_ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid)
_NORMS: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    nn.Linear: lambda layer: nn.BatchNorm1d(layer.out_features),
    nn.Conv1d: lambda layer: nn.BatchNorm1d(layer.out_channels),
    nn.Conv2d: lambda layer: nn.BatchNorm2d(layer.out_channels),
}


def _with_batch_norm(model: nn.Module) -> nn.Module:
    layers = _layers(model, "batch-norm", (nn.BatchNorm1d, nn.BatchNorm2d))
    normed = [k for k, layer in enumerate(layers) if type(layer) in _NORMS][:-1]
    if not normed:
        raise InputError("batch-norm: the network has no hidden layer to normalise.")

    def with_norms() -> Iterator[nn.Module]:
        for k, layer in enumerate(layers):
            yield layer
            if k in normed:
                yield _NORMS[type(layer)](layer)

    return nn.Sequential(*with_norms())


def _with_dropout(model: nn.Module, p: float) -> nn.Module:
    layers = _layers(model, "dropout", (nn.Dropout, nn.Dropout1d, nn.Dropout2d))
    if not any(isinstance(layer, _ACTIVATIONS) for layer in layers):
        raise InputError("dropout: the network has no activation to drop neurons after.")

    def with_dropout() -> Iterator[nn.Module]:
        for layer in layers:
            yield layer
            if isinstance(layer, _ACTIVATIONS):
                yield nn.Dropout(p)

    return nn.Sequential(*with_dropout())


def _layers(
    model: nn.Module, treatment: str, its_own: tuple[type[nn.Module], ...]
) -> Sequence[nn.Module]:
    if not isinstance(model, nn.Sequential):
        raise InputError(
            f"{treatment} can only be added to an nn.Sequential, but the network is a "
            f"{type(model).__name__}. Build a network with {treatment}, and name it as the model."
        )
    if any(isinstance(layer, its_own) for layer in model.modules()):
        raise InputError(
            f"the network has {treatment} already; leave it out of the arm, or choose a network "
            "without it."
        )
    layers = list(_unpacked(model))
    within = [
        type(layer).__name__
        for layer in layers
        if any(isinstance(m, (*_ACTIVATIONS, *_NORMS)) for m in layer.modules() if m is not layer)
    ]
    if within:
        raise InputError(
            f"{treatment} can only be added between the layers of an nn.Sequential, but the "
            f"network has layers inside {listed(dict.fromkeys(within))}. Build a network with "
            f"{treatment}, and name it as the model."
        )
    return layers


def _unpacked(model: nn.Sequential) -> Iterator[nn.Module]:
    for layer in model:
        if type(layer) is nn.Sequential:
            yield from _unpacked(layer)
        else:
            yield layer


def attached(model: nn.Module, treatment: Treatment) -> list[Any]:
    """Attach the structured noise and the rewiring of a treatment, which are in plugins.

    Returns
    -------
    list
        Objects like an attachment: calling one returns what it adds to the loss, ``remove()``
        detaches it, and some have a ``step()`` to be called after each epoch.
    """
    wanted = ((treatment.structured_noise, _NOISE), (treatment.rewiring, _REWIRING))
    return [
        objects.find(reference, "treatment", "function")(model, strength)
        for strength, reference in wanted
        if strength
    ]


def noisy(x: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    """Add Gaussian noise, drawn on the CPU so that it is the same on every device."""
    if not deviation:
        return x
    noise = torch.randn(x.shape, dtype=x.dtype, generator=generator)
    return x + deviation * noise.to(x.device)
