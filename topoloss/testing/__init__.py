"""Checks for the authors of plugins: does a component keep the library's promises?

Each check tests one rule. A seed determines its examples. A failure says which rule is broken,
on which example, what was expected, and how to fix it.
"""

from typing import TYPE_CHECKING

from topoloss.testing import examples
from topoloss.testing.checking import check, parametrize_with_checks
from topoloss.testing.checks import CheckFailed

__all__ = ["CheckFailed", "check", "examples", "parametrize_with_checks"]

if not TYPE_CHECKING:
    from topoloss.testing.kinds import KINDS as _KINDS

    _REPLACED = {f"check_{kind}": f"check({kind!r}, component)" for kind in _KINDS} | {
        "problems": "examples"
    }

    def __getattr__(name: str) -> object:
        message = f"module 'topoloss.testing' has no attribute {name!r}"
        if name in _REPLACED:
            # For "from topoloss.testing import ..." Python drops the text of an AttributeError.
            raise ImportError(f"{message}; use topoloss.testing.{_REPLACED[name]} instead.")
        raise AttributeError(message)
