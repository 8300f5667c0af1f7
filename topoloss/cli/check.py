"""The command ``topoloss check``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from topoloss.cli.failures import WRONG
from topoloss.cli.options import MOST_SEED, AsJson
from topoloss.cli.screen import Screen
from topoloss.cli.words import HOOKS, check_name_of_any, check_word, completing, components
from topoloss.errors import OptionError

if TYPE_CHECKING:
    from topoloss.testing.checks import Case

__all__ = ["check"]

_KINDS = (*HOOKS.values(), "plugin")


@dataclass(frozen=True)
class _Outcome:
    """The outcome of one rule."""

    kind: str
    subject: str
    rule: str
    outcome: str
    detail: str = ""
    follows_from: str | None = None


def check(
    component: Annotated[
        str,
        typer.Argument(
            metavar="NAME|MODULE:OBJECT",
            help="A plugin, or a component, which may have options: 't1[reduction=mean]'.",
            autocompletion=completing(components),
        ),
    ],
    kind: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            autocompletion=completing(_KINDS),
            help="Check it only as a filtration, persistence, loss, regulariser, sampler or "
            "plugin.  [default: every kind that it is]",
        ),
    ] = None,
    expected: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION", help="A slow, obvious implementation to compare it with."
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=MOST_SEED, metavar="N", help="Seed of all generated examples.")
    ] = 0,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Show only broken rules and the counts.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check a component, or a plugin and all that it offers, against the rules of its kind.

    If one failure probably follows from another, the command says so and shows only the other in
    full. The exit status is 1 if a rule is broken.
    """
    if kind is not None:
        check_word("--kind", kind, _KINDS)
    check_name_of_any(component)
    from topoloss.testing.cases import cases, kinds_of

    screen = Screen(quiet, as_json)
    kinds = kinds_of(component) if kind is None else [kind]
    definition = _definition(expected, kinds)
    checks = {each: cases(each, component, expected=definition, seed=seed) for each in kinds}
    found = []
    for each, of_kind in checks.items():
        screen.say(f"{component} as a {each}")
        for outcome in _outcomes(each, of_kind):
            screen.say(_line(outcome), _STYLES[outcome.outcome])
            found.append(outcome)
    counts = {name: sum(one.outcome == name for one in found) for name in _STYLES}
    for one in found:
        if one.outcome == "FAILED" and one.follows_from is None:
            screen.result(f"\n{one.detail}")
    screen.result("\n" + ", ".join(f"{count} {name}" for name, count in counts.items()))
    screen.json(
        {
            "component": component,
            "counts": {name.lower(): count for name, count in counts.items()},
            "rules": [asdict(one) | {"outcome": one.outcome.lower()} for one in found],
        }
    )
    if counts["FAILED"]:
        raise typer.Exit(WRONG)


_STYLES = {"passed": "green", "skipped": "dim", "FAILED": "bold red"}


def _line(one: _Outcome) -> str:
    reason = f": {one.detail}" if one.outcome == "skipped" else ""
    follows = f", probably follows from {one.follows_from}" if one.follows_from else ""
    return f"  {one.subject:<28} {one.rule:<20} {one.outcome}{reason}{follows}"


def _definition(reference: str | None, kinds: list[str]) -> Any:
    """The function that the component is compared with."""
    from topoloss import objects

    if reference is None:
        return None
    if len(kinds) > 1:
        raise OptionError(
            f"--expected {reference} implements one kind of component, but several kinds have "
            f"this name: {', '.join(kinds)}. Choose one with --kind."
        )
    return objects.find(reference, "expected", "function")


def _outcomes(kind: str, of_kind: Iterable[Case]) -> Iterable[_Outcome]:
    """Run the checks of a kind."""
    from topoloss.testing import CheckFailed
    from topoloss.testing.checks import NotApplicable

    for case in of_kind:
        named = (kind, case.subject.label, case.rule)
        try:
            case()
        except NotApplicable as reason:
            yield _Outcome(*named, "skipped", str(reason))
        except CheckFailed as failure:
            yield _Outcome(*named, "FAILED", str(failure), failure.root)
        else:
            yield _Outcome(*named, "passed")
