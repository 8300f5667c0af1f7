"""Rules that hold for several kinds of component alike."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import jaxtyping
import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from topoloss.testing.checks import Given, NotApplicable, Subject, on, require

__all__ = [
    "compilation",
    "construction",
    "cuda",
    "deepcopy",
    "determinism",
    "finite",
    "finite_gradients",
    "gradient",
    "graph",
    "input_unchanged",
    "module_state",
    "pickling",
    "precision",
    "random_state",
    "second_gradient",
    "state_dict",
    "vmap",
]

_TORCH_ONLY = (
    "use torch operations that neither branch on the values of tensors nor call .item(); wrap "
    "other code in a torch.library.custom_op"
)


def construction(subject: Subject) -> None:
    """The factory needs no options and makes a component of its kind."""
    base = subject.kind.base
    with on("the factory", "begin __init__ with super().__init__(); give every option a default"):
        component = subject.make()
        require(
            isinstance(component, base),
            expected=f"a topoloss.{base.__name__}",
            received=repr(component),
            mend=f"derive the class from topoloss.{base.__name__}",
        )


def shapes(subject: Subject) -> None:
    """The value has shape (), whatever the size of the problem."""
    component = subject.make()
    special = subject.kind.special(component)
    for given in (subject.kind.generic(component, subject.seed), *special):
        with on(given.name):
            (value,) = subject.kind.apply(component, *given.tensors)
            require(
                value.shape == (),
                expected="one number, of shape ()",
                received=f"shape {tuple(value.shape)}",
                mend="sum or average over neurons, pairs or points",
            )


def input_unchanged(subject: Subject) -> None:
    """The tensors that a component is given are not written to."""
    component = subject.make()
    given = subject.kind.generic(component, subject.seed)
    with on(given.name):
        _assert_unchanged(lambda *x: subject.kind.apply(component, *x), given.tensors)


def determinism(subject: Subject) -> None:
    """The same input gives the same values and gradients, bit for bit."""
    component = subject.make()
    given = subject.kind.generic(component, subject.seed)
    with on(given.name):
        first = values_and_gradients(subject, component, given)
        second = values_and_gradients(subject, component, given)
        require(
            same(first, second),
            expected="the same from both of two calls",
            received=difference(first, second),
            mend="keep no state between calls, and draw from no random source",
        )


def random_state(subject: Subject) -> None:
    """The global random states of torch and numpy are neither used nor set."""
    component = subject.make()
    given = subject.kind.generic(component, subject.seed)
    with on(given.name), _random_states_set_aside():
        before = _random_states()
        subject.kind.apply(component, *given.tensors)
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
    given = subject.kind.generic(component, subject.seed)
    with on(given.name):
        assert_module_unchanged(component, lambda: subject.kind.apply(component, *given.tensors))


def finite(subject: Subject) -> None:
    """Ties, duplicates, constants and the smallest sizes have finite values."""
    component = subject.make()
    for given in subject.kind.special(component):
        with on(given.name):
            for value in subject.kind.apply(component, *given.tensors):
                require(
                    torch.isfinite(value).all(),
                    expected="finite values",
                    received=value,
                    mend="guard the division or the root before it is taken, with torch.where "
                    "on its argument",
                )


def finite_gradients(subject: Subject) -> None:
    """Ties, duplicates, constants and the smallest sizes have finite gradients."""
    component = subject.make()
    for given in subject.kind.special(component):
        with on(given.name):
            for g in gradients(subject, component, given):
                require(
                    torch.isfinite(g).all(),
                    expected="finite gradients",
                    received=g,
                    mend="guard the argument of the division or root with torch.where, and not "
                    "only its result: zero times infinity is NaN in the backward pass",
                )


def graph(subject: Subject) -> None:
    """A value that depends on the input carries a graph to it."""
    component = subject.make()
    here, there = (subject.kind.generic(component, subject.seed + k) for k in (0, 1))
    with on(here.name):
        values = subject.kind.apply(component, *_leaves(here.tensors))
        others = subject.kind.apply(component, *there.tensors)
        for value, other in zip(values, others, strict=True):
            require(
                value.requires_grad or torch.equal(value, other),
                expected="a value with a gradient",
                received="a value that changes with the input, without a graph",
                mend="do not detach, leave torch, or work under no_grad on the way to the value",
            )


def gradient(subject: Subject) -> None:
    """Gradients are those of finite differences, in float64 at a generic point."""
    _check_derivative(subject, gradcheck)


def second_gradient(subject: Subject) -> None:
    """Second derivatives are those of finite differences, in float64 at a generic point."""
    _check_derivative(subject, gradgradcheck)


def precision(subject: Subject) -> None:
    """Every floating dtype works, and gets at least half of its digits right.

    The comparison is with float64 on the same, rounded input. Half of the digits is what
    a root leaves where its argument cancels; a filtration or loss without roots does better.
    """
    component = subject.make()
    given = subject.kind.generic(component, subject.seed)
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        with on(f"{given.name} in {dtype}", mend="promote half precision to float32 first"):
            rounded = [x.to(dtype) for x in given.tensors]
            exact = subject.kind.apply(component.double(), *(x.double() for x in rounded))
            values = subject.kind.apply(component.to(dtype), *rounded)
            allowed = (dtype,) if dtype.itemsize > 2 else (dtype, torch.float32)
            for value, target in zip(values, exact, strict=True):
                require(
                    value.dtype in allowed,
                    expected=f"values of {' or '.join(map(str, allowed))}",
                    received=f"values of {value.dtype}",
                    mend="compute in the dtype of the input, half precision in float32",
                )
                scale = target.abs().amax() if target.numel() else 0
                bound = torch.finfo(dtype).eps ** 0.5 * scale
                error = (value.double() - target).abs()
                require(
                    (error <= bound).all(),
                    expected=f"{target} within {bound:.2g}",
                    received=value,
                    mend="compute in at least float32, and avoid the difference of nearly equal "
                    "numbers",
                )


def vmap(subject: Subject) -> None:
    """`torch.vmap` over problems gives what a loop over them gives."""
    component = subject.make()
    problems = [subject.kind.generic(component, subject.seed + k) for k in (0, 1)]
    with on(f"{problems[0].name} and {problems[1].name}", mend=_TORCH_ONLY):
        looped = [subject.kind.apply(component, *problem.tensors) for problem in problems]
        stacked = [torch.stack(each) for each in zip(*(p.tensors for p in problems), strict=True)]
        mapped = torch.vmap(lambda *x: subject.kind.apply(component, *x))(*stacked)
        expected = [torch.stack(each) for each in zip(*looped, strict=True)]
        require(
            close(mapped, expected),
            expected="the values of a loop",
            received=difference(mapped, expected),
            mend="reduce over the axes of one problem only, counted as if there were no batch",
        )


def compilation(subject: Subject) -> None:
    """`torch.compile(fullgraph=True)` gives the eager values and gradients.

    All that was compiled earlier in this process is compiled anew when it is next called.
    """
    component = subject.make()
    given = subject.kind.generic(component, subject.seed)
    with on(given.name, mend=_TORCH_ONLY):
        eager = values_and_gradients(subject, component, given)
        torch.compiler.reset()
        compiled = torch.compile(
            lambda *x: subject.kind.apply(component, *x), fullgraph=True, backend="aot_eager"
        )
        with _unchecked_signatures(), warnings.catch_warnings():
            # The compiler itself makes instances of autograd functions.
            warnings.filterwarnings("ignore", ".*should not be instantiated", DeprecationWarning)
            received = _values_and_gradients(compiled, given)
        require(
            close(received, eager),
            expected="the eager values and gradients",
            received=difference(received, eager),
            mend=_TORCH_ONLY,
        )


def pickling(subject: Subject) -> None:
    """A component can be pickled, and is the same afterwards."""
    component = subject.make()
    mend = "define classes at the top of a module, and keep no open file, lock or lambda"
    with on("pickle.loads(pickle.dumps(component))", mend):
        copied = pickle.loads(pickle.dumps(component))
        _assert_same_component(subject, component, copied)


def deepcopy(subject: Subject) -> None:
    """A component can be copied deeply, and is the same afterwards."""
    component = subject.make()
    with on("copy.deepcopy(component)", mend="keep no open file, lock or non-leaf tensor"):
        _assert_same_component(subject, component, copy.deepcopy(component))


def state_dict(subject: Subject) -> None:
    """The state_dict holds all that makes two components of the same options differ."""
    component = subject.make()
    with on("another component, after load_state_dict(component.state_dict())"):
        with torch.no_grad():
            for p in component.parameters():
                p.add_(1)
        fresh = replace(subject, seed=subject.seed + 1).make()
        fresh.load_state_dict(component.state_dict())
        _assert_same_component(subject, component, fresh)


def cuda(subject: Subject) -> None:
    """On a CUDA device the values are those of the CPU, and stay on the device."""
    if not torch.cuda.is_available():
        raise NotApplicable("there is no CUDA device here")
    component = subject.make()
    given = subject.kind.generic(component, subject.seed)
    with on(f"{given.name} on cuda", mend="make new tensors on the device of the input"):
        expected = subject.kind.apply(subject.make(), *given.tensors)
        if isinstance(component, nn.Module):
            component.cuda()
        received = subject.kind.apply(component, *(x.cuda() for x in given.tensors))
        require(
            all(x.is_cuda for x in received),
            expected="values on cuda",
            received=[x.device for x in received],
            mend="make new tensors on the device of the input",
        )
        received = [x.cpu() for x in received]
        require(
            close(received, expected),
            expected="the values of the CPU",
            received=difference(received, expected),
            mend="use the same algorithm on both devices",
        )


# Tools of the rules


def assert_module_unchanged(module: nn.Module, call: Callable[[], object]) -> None:
    """Hold modes, parameters and buffers over a call, in training and in evaluation mode."""
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


def values_and_gradients(subject: Subject, component: Any, given: Given) -> list[Tensor]:
    """What the component makes of tensors, and the gradients of its weighted sum."""
    return _values_and_gradients(lambda *x: subject.kind.apply(component, *x), given)


def gradients(subject: Subject, component: Any, given: Given) -> list[Tensor]:
    """Gradients of a weighted sum of what the component makes of tensors."""
    leaves = _leaves(given.tensors)
    return _gradients(subject.kind.apply(component, *leaves), leaves)


def same(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Whether tensors are equal, bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def close(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Whether tensors of float64 are equal up to sums in another order, integers exactly."""
    return all(
        a.shape == b.shape and torch.allclose(a, b, rtol=1e-9, atol=1e-12)
        for a, b in zip(first, second, strict=True)
    )


def difference(first: Sequence[Tensor], second: Sequence[Tensor]) -> str:
    """Describe where tensors differ most."""
    if [x.shape for x in first] != [x.shape for x in second]:
        return f"shapes {[tuple(x.shape) for x in first]}, not {[tuple(x.shape) for x in second]}"
    largest = max(
        ((a - b).abs().max().item() for a, b in zip(first, second, strict=True) if a.numel()),
        default=0.0,
    )
    return f"values that differ by up to {largest:.3g}: {list(first)}, not {list(second)}"


def _values_and_gradients(function: Callable[..., list[Tensor]], given: Given) -> list[Tensor]:
    leaves = _leaves(given.tensors)
    values = function(*leaves)
    return [*(value.detach() for value in values), *_gradients(values, leaves)]


def _gradients(values: Sequence[Tensor], leaves: Sequence[Tensor]) -> list[Tensor]:
    terms = [
        (value * torch.linspace(1, 2, value.numel(), dtype=value.dtype).view_as(value)).sum()
        for value in values
        if value.requires_grad
    ]
    if not terms:
        return []
    return list(torch.autograd.grad(torch.stack(terms).sum(), leaves, materialize_grads=True))


def _leaves(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [x.detach().clone().requires_grad_(x.is_floating_point()) for x in tensors]


def _check_derivative(subject: Subject, check: Callable[..., bool]) -> None:
    component = subject.make()
    given = subject.kind.generic(component, subject.seed)
    mend = (
        "detach no part of the value; where a backward is written by hand, compare it with the "
        "forward formula, sign included, and write it in torch operations"
    )
    with on(given.name, mend):
        leaves = _leaves(given.tensors)
        values = subject.kind.apply(component, *leaves)
        if not any(value.requires_grad for value in values):
            raise NotApplicable("the value does not depend on the input")

        def differentiable(*x: Tensor) -> tuple[Tensor, ...]:
            return tuple(v for v in subject.kind.apply(component, *x) if v.requires_grad)

        check(differentiable, leaves)


def _assert_unchanged(function: Callable[..., object], tensors: Sequence[Tensor]) -> None:
    copies = [x.clone() for x in tensors]
    function(*copies)
    require(
        same(copies, tensors),
        expected="the input as it was",
        received=f"an input that was written to: {difference(copies, tensors)}",
        mend="replace operations in place (x -= m, x.relu_()) by new tensors (x - m)",
    )


def _assert_same_component(subject: Subject, component: Any, copied: Any) -> None:
    given = subject.kind.generic(component, subject.seed)
    first = values_and_gradients(subject, component, given)
    second = values_and_gradients(subject, copied, given)
    require(
        same(first, second),
        expected="the values of the original",
        received=difference(second, first),
        mend="keep what the values depend on in attributes, parameters and buffers",
    )


@contextmanager
def _unchecked_signatures() -> Iterator[None]:
    """Shapes checked by jaxtyping's import hook are not made for compilers."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


@contextmanager
def _random_states_set_aside() -> Iterator[None]:
    """States in the middle of a sequence, where no seed puts them; the caller's come back."""
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
