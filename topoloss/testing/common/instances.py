"""How a component is made, copied, pickled and restored."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from typing import Any

import torch

from topoloss.testing.checks import Subject, builds_on, foundation, on, require
from topoloss.testing.comparing import difference, same, values_and_gradients

__all__ = ["construction", "deepcopy", "pickling", "state_dict"]


@foundation
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


def pickling(subject: Subject) -> None:
    """A component can be pickled, and the copy gives the same results."""
    component = subject.make()
    mend = "define classes at the top of a module, and keep no open file, lock or lambda"
    with on("pickle.loads(pickle.dumps(component))", mend):
        copied = pickle.loads(pickle.dumps(component))
        _require_same_component(subject, component, copied)


@builds_on("pickling")
def deepcopy(subject: Subject) -> None:
    """A component can be deep-copied, and the copy gives the same results."""
    component = subject.make()
    with on("copy.deepcopy(component)", mend="keep no open file, lock or non-leaf tensor"):
        _require_same_component(subject, component, copy.deepcopy(component))


def state_dict(subject: Subject) -> None:
    """The state_dict holds everything in which two components with the same options differ."""
    component = subject.make()
    with on("another component, after load_state_dict(component.state_dict())"):
        with torch.no_grad():
            for p in component.parameters():
                p.add_(1)
        fresh = replace(subject, seed=subject.seed + 1).make()
        fresh.load_state_dict(component.state_dict())
        mend = (
            "register whatever the values depend on as a parameter, or with register_buffer; "
            "a state_dict holds no other attributes"
        )
        _require_same_component(subject, component, fresh, mend)


def _require_same_component(
    subject: Subject,
    component: Any,
    copied: Any,
    mend: str = "keep whatever the values depend on in attributes, parameters or buffers",
) -> None:
    example = subject.kind.generic(component, subject.seed)
    first = values_and_gradients(subject, component, example)
    second = values_and_gradients(subject, copied, example)
    require(
        same(first, second),
        expected="the values and gradients of the original",
        received=difference(second, first),
        mend=mend,
    )
