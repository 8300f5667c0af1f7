"""Checks for the authors of plugins: does a component do what the library promises of it?

Every check is one rule. Inputs are fixed by a seed, and a failure says which rule is
broken, on what, what was expected, and how to mend it.
"""

from topoloss.testing import problems
from topoloss.testing.checks import CheckFailed
from topoloss.testing.suite import (
    check_filtration,
    check_loss,
    check_persistence,
    check_plugin,
    check_regulariser,
    check_sampler,
    parametrize_with_checks,
)

__all__ = [
    "CheckFailed",
    "check_filtration",
    "check_loss",
    "check_persistence",
    "check_plugin",
    "check_regulariser",
    "check_sampler",
    "parametrize_with_checks",
    "problems",
]
