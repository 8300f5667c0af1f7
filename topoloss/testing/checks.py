"""What a check is: one rule for one component, and a failure that tells everything."""

from __future__ import annotations

import inspect
import unittest
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from topoloss.testing.examples import Example

__all__ = [
    "Case",
    "CheckFailed",
    "Kind",
    "NotApplicable",
    "Rule",
    "Subject",
    "Violation",
    "on",
    "require",
]

_LONGEST_REPORT = 1500


class CheckFailed(AssertionError):  # noqa: N818
    """A component breaks a rule; the message says which rule, on which example, and the mend.

    Attributes
    ----------
    rule : str
        The name of the rule.
    component : str
    seed : int
        The same seed gives the same failure again.
    """

    def __init__(self, message: str, rule: str, component: str, seed: int) -> None:
        super().__init__(message, rule, component, seed)
        self.rule = rule
        self.component = component
        self.seed = seed

    def __str__(self) -> str:
        return str(self.args[0])


class NotApplicable(unittest.SkipTest):
    """A rule says nothing about this component, or not on this machine; pytest shows a skip."""


class Violation(Exception):  # noqa: N818
    """What a rule found; `Case` turns it into a `CheckFailed`."""

    def __init__(self, expected: str, received: object, mend: str, where: str = "") -> None:
        super().__init__(expected, received, mend, where)
        self.expected, self.received, self.mend, self.where = expected, str(received), mend, where


@dataclass(frozen=True)
class Kind:
    """How a kind of component is used, and the rules for it.

    Attributes
    ----------
    base : type
        The class that components derive from.
    generic : callable
        From a component and a seed to an example at which the component should be smooth.
    special : callable
        From a component to examples with ties, duplicates, constants and the smallest sizes.
    apply : callable
        From a component and the tensors of an example to what the component makes of them.
    rules : tuple of Rule
        In the order in which they are checked: a rule comes after the rules it builds on.
    """

    base: type[Any]
    generic: Callable[[Any, int], Example]
    special: Callable[[Any], Sequence[Example]]
    apply: Callable[..., list[Tensor]]
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class Subject:
    """A component under check.

    Attributes
    ----------
    label : str
        What the component is called in reports.
    factory : callable
        Makes the component.
    kind : Kind
    seed : int
        Seed of all generated examples.
    expected : callable, optional
        A slow, obvious definition to compare with.
    """

    label: str
    factory: Callable[..., Any]
    kind: Kind
    seed: int = 0
    expected: Callable[..., Any] | None = None

    def make(self, **options: Any) -> Any:
        """Make the component afresh, the same each time, with any parameters in float64."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            component = self.factory(**options)
        return component.double() if isinstance(component, nn.Module) else component


Rule: TypeAlias = Callable[[Subject], None]


@dataclass(frozen=True)
class Case:
    """One rule for one component: call it to check.

    Raises
    ------
    CheckFailed
        If the component breaks the rule.
    NotApplicable
        If the rule says nothing about the component.
    """

    check: Rule
    subject: Subject

    @property
    def rule(self) -> str:
        return self.check.__name__

    def __call__(self) -> None:
        __tracebackhide__ = True  # pytest then shows the message alone
        try:
            with on(f"seed={self.subject.seed}"):
                self.check(self.subject)
        except Violation as violation:
            raise self._failure(violation) from violation.__cause__

    def _failure(self, violation: Violation) -> CheckFailed:
        subject = self.subject
        statement = inspect.cleandoc(self.check.__doc__ or "").partition("\n")[0]
        message = (
            f"{subject.label} breaks the rule {self.rule!r}: {statement}\n"
            f"  on        {violation.where}\n"
            f"  expected  {violation.expected}\n"
            f"  received  {violation.received[:_LONGEST_REPORT]}\n"
            f"  mend      {violation.mend}\n"
            f"  again     with seed={subject.seed}"
        )
        return CheckFailed(message, self.rule, subject.label, subject.seed)


@contextmanager
def on(where: str, mend: str = "accept this input; the error above says where") -> Iterator[None]:
    """Say on which example the code inside works; an exception inside breaks the rule too."""
    try:
        yield
    except NotApplicable:
        raise
    except Violation as violation:
        violation.where = violation.where or where
        raise
    except Exception as error:
        received = f"{type(error).__name__}: {error}"
        raise Violation("no exception", received, mend, where) from error


def require(holds: bool | Tensor, *, expected: str, received: object, mend: str) -> None:
    """Raise a `Violation` unless the condition holds."""
    if not holds:
        raise Violation(expected, received, mend)
