"""Rules for a component under torch's transformations: vmap and compile."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import jaxtyping
import torch
from torch import Tensor

from topoloss import transforms as _outside
from topoloss.testing.checks import Subject, builds_on, on, require
from topoloss.testing.comparing import (
    close,
    difference,
    values_and_gradients,
    values_and_gradients_of,
)
from topoloss.testing.examples import Example

__all__ = ["compilation", "vmap"]

_TORCH_ONLY = (
    "use torch operations; do not branch on the values of tensors or call .item(). Wrap other "
    "code in a torch.library.custom_op, or let topoloss.outside call it if it returns indices"
)


def vmap(subject: Subject) -> None:
    """`torch.vmap` over a batch gives the values and gradients of a loop over its elements."""
    component = subject.make()
    examples = [subject.kind.generic(component, subject.seed + k) for k in (0, 1)]
    with on(f"{examples[0].name} and {examples[1].name}", mend=_TORCH_ONLY):
        tensors = zip(*(example.tensors for example in examples), strict=True)
        batch = Example("", tuple(torch.stack(each) for each in tensors))

        def loop(*x: Tensor) -> list[Tensor]:
            of_each = (subject.kind.apply_all(component, *one) for one in zip(*x, strict=True))
            return [torch.stack(each) for each in zip(*of_each, strict=True)]

        mapped = torch.vmap(lambda *x: subject.kind.apply_all(component, *x))
        expected, received = (values_and_gradients_of(f, batch) for f in (loop, mapped))
        require(
            close(received, expected),
            expected="the values and gradients of a loop",
            received=difference(received, expected),
            mend="reduce only over the axes of one element, numbered as if there were no batch",
        )


@builds_on("vmap", "batch", "random_state", "leftovers", "diagrams")
def compilation(subject: Subject) -> None:
    """`torch.compile(fullgraph=True)` gives the eager values and gradients.

    `topoloss.outside` is left out of every graph, so a component that calls it is compiled
    without `fullgraph`. This rule discards everything that the process has compiled; torch
    compiles each function again at its next call.
    """
    component = subject.make()
    example = subject.kind.generic(component, subject.seed)
    with on(example.name, mend=_TORCH_ONLY):
        with mock.patch.object(_outside, "_apply", wraps=_outside._apply) as leaves_torch:
            eager = values_and_gradients(subject, component, example)
        torch.compiler.reset()
        compiled = torch.compile(
            lambda *x: subject.kind.apply_all(component, *x),
            fullgraph=not leaves_torch.called,
            backend="aot_eager",
        )
        with _unchecked_signatures(), _unlogged(), warnings.catch_warnings():
            # The compiler itself makes instances of autograd functions.
            warnings.filterwarnings("ignore", ".*should not be instantiated", DeprecationWarning)
            # At a graph break it reads .grad of all tensors that the next graph takes.
            warnings.filterwarnings("ignore", "The .grad attribute of a Tensor", UserWarning)
            received = values_and_gradients_of(compiled, example)
        require(
            close(received, eager),
            expected="the eager values and gradients",
            received=difference(received, eager),
            mend=_TORCH_ONLY,
        )


@contextmanager
def _unlogged() -> Iterator[None]:
    """Drop the compiler's log, which describes each graph break in dozens of lines.

    Where a break matters the rule compiles with `fullgraph`, and it is an error.
    """
    log = logging.getLogger("torch._dynamo")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


@contextmanager
def _unchecked_signatures() -> Iterator[None]:
    """Switch off the run-time shape checks of jaxtyping, which do not compile."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)
