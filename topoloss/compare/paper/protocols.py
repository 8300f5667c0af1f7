"""The paper's protocols and weights, by name.

The authors chose which layers the regulariser sees and on which pass it is computed; their code
also has defects. The name of a protocol says which of these choices and defects a run takes over.
All other settings come from the network.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from topoloss.compare.paper import networks
from topoloss.compare.records import Defects, Setup
from topoloss.errors import check_choice

__all__ = ["PROTOCOLS", "WEIGHTS", "name_of", "setup"]

WEIGHTS: tuple[float, ...] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 5.0, 10.0, 100.0)

# What each name sets in the protocol, and the defects that it imitates.
PROTOCOLS: dict[str, tuple[dict[str, Any], Defects]] = {
    "default": ({"layers": "auto", "eval_pass": False}, Defects()),
    "training-forward": ({"layers": "trainable", "eval_pass": False}, Defects()),
    "fixed": ({"layers": "trainable", "eval_pass": True}, Defects()),
    "switch-off": (
        {"layers": "trainable", "eval_pass": True},
        Defects(off_when_degenerate=True),
    ),
    "faithful": (
        {"layers": "trainable", "eval_pass": True},
        Defects(off_when_degenerate=True, divide_twice=True),
    ),
}


def setup(model: str, data: str, protocol: str = "default", **changes: Any) -> Setup:
    """Return the setup of a network on data, trained as in the paper, under a named protocol.

    Parameters
    ----------
    model, data : str
        As in :class:`topoloss.compare.records.Setup`.
    protocol : str
        One of `PROTOCOLS`. ``"default"`` is what :func:`topoloss.attach` does by default.
        ``"training-forward"`` chooses layers by the paper's rule instead, ``"fixed"`` also
        computes the regulariser on a pass in evaluation mode, ``"switch-off"`` also imitates one
        defect of the authors' code, and ``"faithful"`` imitates both.
    **changes
        Fields of the :class:`topoloss.compare.records.Protocol` that differ from the paper's.

    Examples
    --------
    >>> from topoloss.compare.paper.protocols import setup
    >>> vgg = setup("vgg256", "cifar10", "faithful", max_epochs=1)
    >>> vgg.protocol.fraction, vgg.protocol.eval_pass, vgg.defects.divide_twice
    (0.005, True, True)
    """
    check_choice("protocol", protocol, PROTOCOLS)
    settings, defects = PROTOCOLS[protocol]
    base = networks.protocol(model)
    return Setup(model, data, replace(base, **(settings | changes)), defects)


def name_of(setup: Setup) -> str:
    """The name of a setup's protocol, whatever its other settings are.

    Examples
    --------
    >>> from topoloss.compare.paper.protocols import name_of, setup
    >>> name_of(setup("net1", "mnist", "fixed", patience=3))
    'fixed'
    """
    for name, (settings, defects) in PROTOCOLS.items():
        same = all(getattr(setup.protocol, key) == value for key, value in settings.items())
        if same and setup.defects == defects:
            return name
    return "own protocol"
