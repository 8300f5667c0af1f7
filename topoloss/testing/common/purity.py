"""Rules that a component is a pure function: it changes nothing and repeats its results."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from topoloss.testing.checks import Subject, foundation, on, require
from topoloss.testing.comparing import difference, leaves, same, values_and_gradients

__all__ = [
    "determinism",
    "input_unchanged",
    "leftovers",
    "memory",
    "module_state",
    "random_state",
]


@foundation
def input_unchanged(subject: Subject) -> None:
    """A component does not write to the tensors that it is given."""
    component = subject.make()
    example = subject.kind.generic(component, subject.seed)
    with on(example.name):
        _require_unchanged(lambda *x: subject.kind.apply_all(component, *x), example.tensors)


@foundation
def determinism(subject: Subject) -> None:
    """The same input gives the same values and gradients, bit for bit."""
    component = subject.make()
    example = subject.kind.generic(component, subject.seed)
    with on(example.name):
        first = values_and_gradients(subject, component, example)
        second = values_and_gradients(subject, component, example)
        require(
            same(first, second),
            expected="the same result from two calls",
            received=difference(first, second),
            mend="keep no state between calls, and draw from no random source",
        )


@foundation
def memory(subject: Subject) -> None:
    """The result for an input does not depend on earlier inputs."""
    first, second = (subject.kind.generic(subject.make(), subject.seed + k) for k in (0, 1))
    with on(f"{second.name}, after {first.name}"):
        expected = values_and_gradients(subject, subject.make(), second)
        component = subject.make()
        # First the same tensors with other numbers in them, then other tensors of the same shape.
        tensors = leaves(first.tensors)
        subject.kind.apply_all(component, *tensors)
        with torch.no_grad():
            for x, y in zip(tensors, second.tensors, strict=True):
                x.copy_(y)
        written_over = [value.detach() for value in subject.kind.apply_all(component, *tensors)]
        received = values_and_gradients(subject, component, second)
        require(
            same(written_over, expected[: len(written_over)]) and same(received, expected),
            expected="the value that a new component gives",
            received=difference(received, expected)
            if not same(received, expected)
            else difference(written_over, expected[: len(written_over)]),
            mend="keep nothing from one call to the next, or look it up by all the numbers of the "
            "input, not by its shape or address",
        )


def random_state(subject: Subject) -> None:
    """A call neither draws from torch's or numpy's global generator, nor seeds these or Python's.

    Drawing from Python's is allowed because run-time type checks do it; a draw that affects the
    result breaks `determinism`.
    """
    component = subject.make()
    example = subject.kind.generic(component, subject.seed)
    with on(example.name), _random_states_set_aside():
        before = _random_states()
        subject.kind.apply_all(component, *example.tensors)
        changed = [name for name, state in _random_states().items() if state != before[name]]
        left = random.getstate()
        random.seed()
        subject.kind.apply(component, *example.tensors)
        changed += ["Python"] if random.getstate() == left else []
        require(
            not changed,
            expected="the global random states as before the call",
            received=f"changed: {', '.join(changed)}",
            mend="draw from a torch.Generator that the component owns, and call no global seed()",
        )


def module_state(subject: Subject) -> None:
    """A call leaves training modes, parameters and buffers as they are."""
    component = subject.make()
    example = subject.kind.generic(component, subject.seed)
    with on(example.name):
        _require_unchanged_module(
            component, lambda: subject.kind.apply_all(component, *example.tensors)
        )


def leftovers(subject: Subject) -> None:
    """A call adds no hook, and leaves `.grad` and the gradient mode as they are."""
    component = subject.make()
    example = subject.kind.generic(component, subject.seed)
    with on(example.name):
        inputs = leaves(example.tensors)
        owners = [x for x in (*inputs, *component.parameters()) if x.requires_grad]
        for x in owners:
            x.grad = torch.ones_like(x)
        # Hooks that are added once, at the first call, may stay.
        subject.kind.apply_all(component, *inputs)
        hooks = _hooks(component, owners)
        subject.kind.apply_all(component, *inputs)
        require(
            _hooks(component, owners) == hooks,
            expected=f"{hooks} hooks after each call",
            received=f"{_hooks(component, owners)} after one more call",
            mend="add hooks in __init__, or remove each with handle.remove()",
        )
        require(
            all(x.grad is not None and bool((x.grad == 1).all()) for x in owners),
            expected="the contents of .grad from before the call",
            received="a .grad that was cleared or written to",
            mend="take gradients with torch.autograd.grad, which leaves .grad alone",
        )
        require(
            torch.is_grad_enabled(),
            expected="gradients on, as before the call",
            received="gradients still off after the call",
            mend="switch them off with `with torch.no_grad():`, which switches them on again",
        )


def _hooks(component: nn.Module, tensors: Sequence[Tensor]) -> int:
    """Count the hooks on each module, on all modules globally, and on tensors."""
    holders = [*map(vars, component.modules()), vars(nn.modules.module)]
    of_modules = sum(
        len(found)
        for holder in holders
        for name, found in holder.items()
        if name.endswith("_hooks") and isinstance(found, dict)
    )
    names = ("_backward_hooks", "_post_accumulate_grad_hooks")
    return of_modules + sum(len(getattr(x, name, None) or ()) for x in tensors for name in names)


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
            mend="keep no running statistics: the value must depend on the present input alone",
        )


def _require_unchanged(function: Callable[..., object], tensors: Sequence[Tensor]) -> None:
    copies = [x.clone() for x in tensors]
    function(*copies)
    require(
        same(copies, tensors),
        expected="the input as it was",
        received=f"an input that was written to: {difference(copies, tensors)}",
        mend="replace in-place operations (x -= m, x.relu_()) by new tensors (x - m)",
    )


@contextmanager
def _random_states_set_aside() -> Iterator[None]:
    """Move the random states to where no seed puts them, and restore the caller's at the end."""
    numpy_state = np.random.get_state()  # noqa: NPY002
    python_state = random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.rand(3)
        np.random.random(3)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)


def _random_states() -> dict[str, object]:
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": repr(np.random.get_state(legacy=False)),  # noqa: NPY002
    }
