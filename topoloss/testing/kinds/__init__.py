"""The kinds of component that the kit checks, with the rules for each."""

from __future__ import annotations

from collections.abc import Mapping

from topoloss.testing.checks import Kind
from topoloss.testing.kinds import (
    filtrations,
    losses,
    persistence,
    plugins,
    regularisers,
    samplers,
)

__all__ = ["KINDS"]

KINDS: Mapping[str, Kind] = {
    "filtration": filtrations.KIND,
    "persistence": persistence.KIND,
    "loss": losses.KIND,
    "regulariser": regularisers.KIND,
    "sampler": samplers.KIND,
    "plugin": plugins.KIND,
}
