"""Shapes and dtypes of the core's and the plugins' signatures, checked in every test."""

from typing import Any

from beartype import beartype

CHECKED = [
    "topoloss",
    "topoloss_mst.persistence",
    "topoloss_plugins.correlation",
    "topoloss_plugins.decorrelation",
    "topoloss_plugins.euclidean",
    "topoloss_plugins.norms",
    "topoloss_plugins.samplers",
    "topoloss_plugins.total_persistence",
]


def typecheck(function: Any) -> Any:
    """Check what carries a shape; leave the rest to the library's own messages."""
    annotations = getattr(function, "__annotations__", {}).values()
    return beartype(function) if any("[Tensor," in str(a) for a in annotations) else function
