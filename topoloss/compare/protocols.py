"""Every protocol by name: the paper's, and `today`.

`today` trains as most people do now: He's initialisation, Adam, a weight of the regulariser that
rises over the first epochs, and long patience. Its learning rate and its monitor are tuned for each
network and data set before anything is compared.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from topoloss.compare.networks import NETWORKS
from topoloss.compare.paper import protocols as papers
from topoloss.compare.records import Defects, Protocol, Setup
from topoloss.errors import check_choice

__all__ = ["PROTOCOLS", "TODAY", "name_of", "setup"]

TODAY = Protocol(
    optimiser="adamw",
    initialisation="he",
    learning_rate=1e-3,
    decay=1.0,
    warmup=30,
    patience=100,
    max_epochs=400,
)

PROTOCOLS: tuple[str, ...] = (*papers.PROTOCOLS, "today")


def setup(model: str, data: str, protocol: str = "default", **changes: Any) -> Setup:
    """Return the setup of a network on data, trained under a named protocol.

    Parameters
    ----------
    model, data : str
        As in :class:`topoloss.compare.records.Setup`.
    protocol : str
        ``"today"``, or one of the paper's; see :func:`topoloss.compare.paper.protocols.setup`.
    **changes
        Fields of the :class:`topoloss.compare.records.Protocol` that differ.

    Examples
    --------
    >>> from topoloss.compare.protocols import setup
    >>> today = setup("net0", "digits", "today", learning_rate=3e-4).protocol
    >>> today.optimiser, today.initialisation, today.warmup, today.learning_rate
    ('adamw', 'he', 30, 0.0003)
    """
    check_choice("protocol", protocol, PROTOCOLS)
    if protocol == "today":
        return Setup(model, data, replace(TODAY, **changes))
    if model in NETWORKS:  # not in the paper; trained like its fully connected networks
        settings, defects = papers.PROTOCOLS[protocol]
        return Setup(model, data, Protocol(**(settings | changes)), defects)
    return papers.setup(model, data, protocol, **changes)


def name_of(setup: Setup) -> str:
    """The name of a setup's protocol, whatever its learning rate, stopping rule and warm-up are.

    Examples
    --------
    >>> from topoloss.compare.protocols import name_of, setup
    >>> name_of(setup("net0", "digits", "today", patience=3)), name_of(setup("net0", "digits"))
    ('today', 'default')
    """
    ours = (setup.protocol.optimiser, setup.protocol.initialisation)
    if ours == ("sgd", "pytorch"):
        return papers.name_of(setup)
    same = replace(
        TODAY,
        **{name: getattr(setup.protocol, name) for name in _TUNED},
    )
    return "today" if (setup.protocol, setup.defects) == (same, Defects()) else "own protocol"


_TUNED = ("learning_rate", "monitor", "patience", "max_epochs", "warmup")
