"""A component is a function: it changes nothing, and gives the same each time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from topoloss.testing.checks import Subject, on, require
from topoloss.testing.comparing import difference, same, values_and_gradients

__all__ = [
    "determinism",
    "input_unchanged",
    "module_state",
    "random_state",
]


def input_unchanged(subject: Subject) -> None:
    """The tensors that a component is given are not written to."""
    component = subject.make()
    example = subject.kind.generic(component, subject.seed)
    with on(example.name):
        _require_unchanged(lambda *x: subject.kind.apply(component, *x), example.tensors)


def determinism(subject: Subject) -> None:
    """The same input gives the same values and gradients, bit for bit."""
    component = subject.make()
    example = subject.kind.generic(component, subject.seed)
    with on(example.name):
        first = values_and_gradients(subject, component, example)
        second = values_and_gradients(subject, component, example)
        require(
            same(first, second),
            expected="the same from both of two calls",
            received=difference(first, second),
            mend="keep no state between calls, and draw from no random source",
        )


def random_state(subject: Subject) -> None:
    """The global random states of torch and numpy are neither used nor set."""
    component = subject.make()
    example = subject.kind.generic(component, subject.seed)
    with on(example.name), _random_states_set_aside():
        before = _random_states()
        subject.kind.apply(component, *example.tensors)
        changed = [name for name, state in _random_states().items() if state != before[name]]
        require(
            not changed,
            expected="the global random states as before the call",
            received=f"changed: {', '.join(changed)}",
            mend="draw from a torch.Generator of the component's own",
        )


def module_state(subject: Subject) -> None:
    """A call leaves training modes, parameters and buffers as they are."""
    component = subject.make()
    example = subject.kind.generic(component, subject.seed)
    with on(example.name):
        _require_unchanged_module(
            component, lambda: subject.kind.apply(component, *example.tensors)
        )


def _require_unchanged_module(module: nn.Module, call: Callable[[], object]) -> None:
    """Require that a call changes no mode, parameter or buffer, in training and evaluation."""
    for training in (True, False):
        module.train(training)
        state = {key: value.clone() for key, value in module.state_dict().items()}
        call()
        modes = {name: part.training for name, part in module.named_modules()}
        require(
            all(mode is training for mode in modes.values()),
            expected=f"training={training} in every module",
            received=modes,
            mend="do not call train() or eval() in a component",
        )
        after = module.state_dict()
        require(
            after.keys() == state.keys() and same(list(after.values()), list(state.values())),
            expected=f"the state_dict {state}",
            received=after,
            mend="keep running statistics out of the component: a penalty is a function",
        )


def _require_unchanged(function: Callable[..., object], tensors: Sequence[Tensor]) -> None:
    copies = [x.clone() for x in tensors]
    function(*copies)
    require(
        same(copies, tensors),
        expected="the input as it was",
        received=f"an input that was written to: {difference(copies, tensors)}",
        mend="replace operations in place (x -= m, x.relu_()) by new tensors (x - m)",
    )


@contextmanager
def _random_states_set_aside() -> Iterator[None]:
    """Use random states that no seed gives, and restore the caller's at the end."""
    numpy_state = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        torch.rand(3)
        np.random.random(3)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002


def _random_states() -> dict[str, object]:
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": repr(np.random.get_state(legacy=False)),  # noqa: NPY002
    }
