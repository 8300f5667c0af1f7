"""What a check is: one rule for one component, and a failure message that explains itself."""

from __future__ import annotations

import contextlib
import inspect
import unittest
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
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
    "builds_on",
    "foundation",
    "on",
    "on_definition",
    "require",
]

_LONGEST_REPORT = 1500


class CheckFailed(AssertionError):  # noqa: N818
    """A component breaks a rule; the message names the rule and the example, and proposes a fix.

    Attributes
    ----------
    rule : str
        The name of the rule.
    component : str
    seed : int
        The same seed gives the same failure again.
    root : str or None
        The broken rule that probably causes this failure; None if no other broken rule does.
    """

    def __init__(
        self, message: str, rule: str, component: str, seed: int, root: str | None = None
    ) -> None:
        super().__init__(message, rule, component, seed, root)
        self.rule = rule
        self.component = component
        self.seed = seed
        self.root = root

    def __str__(self) -> str:
        return str(self.args[0])


class NotApplicable(unittest.SkipTest):
    """A rule does not apply to this component, or cannot run on this machine; pytest skips it."""


class Violation(Exception):  # noqa: N818
    """A fault that a rule found; `Case` turns it into a `CheckFailed`.

    Attributes
    ----------
    expected, received, mend, where : str
    calls : tuple of str
        Lines of Python that reproduce the fault with the component itself.
    """

    def __init__(
        self,
        expected: str,
        received: object,
        mend: str,
        where: str = "",
        calls: Sequence[str] = (),
    ) -> None:
        super().__init__(expected, received, mend, where, calls)
        self.expected, self.received, self.mend, self.where = expected, str(received), mend, where
        self.calls = tuple(calls)


@dataclass(frozen=True)
class Kind:
    """How a kind of component is used, and the rules for it.

    Attributes
    ----------
    base : type
        The class that components derive from.
    generic : callable
        Maps a component and a seed to an example at which the component should be smooth.
    special : callable
        Maps a component to examples with ties, duplicates, constants and the smallest sizes.
    apply : callable
        Maps a component and the tensors of an example to the values that the component computes
        from them; the rules check the precision and the derivatives of these values.
    rules : tuple of Rule
        In the order in which they are checked: a rule comes after the rules it builds on.
    large : callable
        Maps a component and a seed to examples with many neurons or points.
    in_domain : callable
        Maps tensors near those of an example to valid input of the component.
    beside : callable
        Maps a component and the tensors of an example to the component's other results.
    """

    base: type[Any]
    generic: Callable[[Any, int], Example]
    special: Callable[[Any], Sequence[Example]]
    apply: Callable[..., list[Tensor]]
    rules: tuple[Rule, ...]
    large: Callable[[Any, int], Sequence[Example]] = lambda component, seed: ()
    in_domain: Callable[..., tuple[Tensor, ...]] = lambda *tensors: tensors
    beside: Callable[..., list[Tensor]] = lambda component, *tensors: []

    def apply_all(self, component: Any, *tensors: Tensor) -> list[Tensor]:
        """Return all results of a component for the tensors of an example."""
        return [*self.apply(component, *tensors), *self.beside(component, *tensors)]


@dataclass(frozen=True)
class Subject:
    """A component under check.

    Attributes
    ----------
    label : str
        The component's name in reports.
    factory : callable
        Makes the component.
    kind : Kind
    seed : int
        Seed of all generated examples.
    expected : callable, optional
        A slow, obvious definition to compare with.
    broken : dict
        For each rule checked so far, whether the component breaks it.
    """

    label: str
    factory: Callable[..., Any]
    kind: Kind
    seed: int = 0
    expected: Callable[..., Any] | None = None
    broken: dict[Rule, bool] = field(default_factory=dict, init=False, compare=False, repr=False)

    def make(self, **options: Any) -> Any:
        """Make a new component, the same each time, with any parameters in float64."""
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would leave the generators of other devices seeded.
            torch.default_generator.manual_seed(self.seed)
            component = self.factory(**options)
        return component.double() if isinstance(component, nn.Module) else component


Rule: TypeAlias = Callable[[Subject], None]


def foundation(rule: Rule) -> Rule:
    """Mark a rule that every later one builds on: if it is broken, any later rule may fail."""
    rule.is_foundation = True  # type: ignore[attr-defined]
    return rule


def builds_on(*names: str) -> Callable[[Rule], Rule]:
    """Name the rules whose failures may make this rule fail; a kind need not have all of them."""

    def mark(rule: Rule) -> Rule:
        rule.builds_on = names  # type: ignore[attr-defined]
        return rule

    return mark


@dataclass(frozen=True)
class Case:
    """One rule for one component: call it to check.

    Raises
    ------
    CheckFailed
        If the component breaks the rule.
    NotApplicable
        If the rule does not apply to the component.
    """

    check: Rule
    subject: Subject

    @property
    def rule(self) -> str:
        return self.check.__name__

    def __call__(self) -> None:
        __tracebackhide__ = True  # pytest then shows the message alone
        try:
            self._run()
        except Violation as violation:
            raise self._failure(violation) from violation.__cause__

    def _run(self) -> None:
        broken = self.subject.broken
        broken[self.check] = False
        try:
            # Gradients are on for each rule, whatever the caller or an earlier rule has set.
            with on(f"seed={self.subject.seed}"), torch.enable_grad():
                self.check(self.subject)
        except Violation:
            broken[self.check] = True
            raise

    def _is_broken(self) -> bool:
        if self.check not in self.subject.broken:
            with contextlib.suppress(Violation, NotApplicable):
                self._run()
        return self.subject.broken[self.check]

    def _failure(self, violation: Violation) -> CheckFailed:
        subject, root = self.subject, self._root()
        statement = inspect.cleandoc(self.check.__doc__ or "").partition("\n")[0]
        lines = [
            f"{subject.label} breaks the rule {self.rule!r}: {statement}",
            f"  on        {violation.where}",
            f"  expected  {violation.expected}",
            f"  received  {violation.received[:_LONGEST_REPORT]}",
            f"  fix       {violation.mend}",
            f"  repeat    with seed={subject.seed}",
        ]
        if violation.calls:
            lines[-1] += ", or with the component itself:"
            lines += [f"            {line}" for line in violation.calls]
        if root is not None:
            lines.insert(
                1,
                f"  follows   probably from the rule {root!r}, which is broken too: fix it first",
            )
        return CheckFailed("\n".join(lines), self.rule, subject.label, subject.seed, root)

    def _root(self) -> str | None:
        """Find the first broken rule among those that this one builds on."""
        for rule in _grounds(self.check, self.subject.kind.rules):
            if Case(rule, self.subject)._is_broken():
                return rule.__name__
        return None


def _grounds(rule: Rule, rules: Sequence[Rule]) -> list[Rule]:
    """Return the rules that a rule builds on, directly or indirectly, in the order of `rules`."""
    found: list[Rule] = []
    for earlier in reversed(rules[: rules.index(rule)]):
        needed = any(
            earlier.__name__ in getattr(later, "builds_on", ()) for later in (rule, *found)
        )
        if needed or getattr(earlier, "is_foundation", False):
            found.append(earlier)
    return found[::-1]


@contextmanager
def on(where: str, mend: str = "make the component accept this input") -> Iterator[None]:
    """Name the example that the block uses; any exception in the block breaks the rule."""
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


def on_definition(where: str) -> AbstractContextManager[None]:
    """Name the example on which the definition given as ``expected`` is called."""
    return on(where, "fix the definition given as expected=: it must return a valid value here")


def require(
    holds: bool | Tensor,
    *,
    expected: str,
    received: object,
    mend: str,
    calls: Sequence[str] = (),
) -> None:
    """Raise a `Violation` unless the condition holds."""
    if not holds:
        raise Violation(expected, received, mend, calls=calls)
