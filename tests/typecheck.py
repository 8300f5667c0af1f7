"""Shapes and dtypes of the core's and the plugins' signatures, checked in every test."""

import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any

import jaxtyping
from beartype import beartype

# Not the whole package: the hook slows down every function of a module, and those that note
# what a model does run once for each torch function.
CHECKED = [
    "topoloss.compare",
    "topoloss.diagrams",
    "topoloss.engines",
    "topoloss.filtrations",
    "topoloss.pipelines",
    "topoloss.regularisers",
    "topoloss.samplers",
    "topoloss.testing",
    "topoloss_mst.persistence",
    "topoloss_plugins.barlow_twins",
    "topoloss_plugins.connectivity",
    # Not its loops, which numba compiles.
    "topoloss_neural_persistence.deep",
    "topoloss_neural_persistence.layerwise",
    "topoloss_neural_persistence.matrices",
    "topoloss_neural_persistence.unrolling",
    "topoloss_plugins.correlation",
    "topoloss_plugins.covariance_tree",
    "topoloss_plugins.covariances",
    "topoloss_plugins.decorrelation",
    "topoloss_plugins.decov",
    "topoloss_plugins.euclidean",
    "topoloss_plugins.hsic",
    "topoloss_plugins.norms",
    "topoloss_plugins.samplers",
    "topoloss_plugins.signature",
    "topoloss_plugins.spearman",
    "topoloss_plugins.total_persistence",
    "topoloss_plugins.vicreg",
    "topoloss_plugins.vietoris_rips",
    "topoloss_similarity_matching",
]


def install() -> None:
    """Check these modules from their next import on."""
    jaxtyping.jaxtyped = where_shapes_are_stated(jaxtyping.jaxtyped)
    jaxtyping.install_import_hook(CHECKED, "typecheck.typecheck")


def where_shapes_are_stated(jaxtyped: Callable[..., Any]) -> Callable[..., Any]:
    """Leave functions that carry no shape unwrapped: wrappers are slower than most functions."""

    def of(*, typechecker: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def decorate(made: Any) -> Any:
            if inspect.isclass(made):
                if is_dataclass(made) and "__init__" in vars(made):
                    made.__init__ = decorate(made.__init__)
                return made
            carries_a_shape = False

            def noting(part: Any) -> Any:
                nonlocal carries_a_shape
                checked = typechecker(part)
                carries_a_shape |= checked is not part
                return checked

            wrapped = jaxtyped(made, typechecker=noting)
            return wrapped if carries_a_shape else made

        return decorate

    return of


def typecheck(function: Any) -> Any:
    """Check what carries a shape; leave the rest to the library's own messages."""
    annotations = getattr(function, "__annotations__", {}).values()
    return beartype(function) if any("[Tensor," in str(a) for a in annotations) else function
