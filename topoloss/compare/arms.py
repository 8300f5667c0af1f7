"""The arms of a comparison: what an arm consists of, and how it is written.

An arm is a sum of terms. A term is a regulariser with its weight in the loss, or a treatment, such
as dropout, with its strength::

    arm  = term {"+" term}
    term = name ["[" options "]"] ["=" strength {"," strength}]

as in ``t1=1e-3,1e-2+batch-norm`` or ``dropout=0.5``. The first term may have several strengths, of
which the comparison chooses one on each split; each further term has exactly one. ``none`` and
``batch-norm`` have no strength.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from topoloss import components
from topoloss.compare.names import LARGEST_WEIGHT
from topoloss.compare.paper.protocols import WEIGHTS
from topoloss.compare.records import Arm, exactly
from topoloss.compare.treatments import TREATMENTS, Treatment, has_strength
from topoloss.errors import OptionError
from topoloss.expressions import parse as parse_expression
from topoloss.expressions import parse_start
from topoloss.regularisers import refuse_labels

__all__ = ["Recipe", "parse", "recipe"]


@dataclass(frozen=True)
class Recipe:
    """What an arm trains with.

    Attributes
    ----------
    penalties : tuple of (str, float)
        Regularisers by name, and their weights in the loss.
    treatment : Treatment
    """

    penalties: tuple[tuple[str, float], ...]
    treatment: Treatment


def parse(text: str) -> tuple[str, tuple[float, ...]]:
    """Split an arm into the name that tables and files show, and the strengths to try.

    The name omits the strengths of the first term and lists further terms in alphabetical order.

    Raises
    ------
    OptionError, UnknownNameError
        If the text is not an arm, or a name in it is unknown.

    Examples
    --------
    >>> from topoloss.compare.arms import parse
    >>> parse("t1=1e-3,1e-2+batch-norm")
    ('t1+batch-norm', (0.001, 0.01))
    >>> parse("dropout=0.5")
    ('dropout', (0.5,))
    """
    (first, listed), *others = _terms(text)
    strengths = _strengths(first, listed, text)
    names = [first, *(name for name, _ in others)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise OptionError(f"{text!r} has the term {twice} twice; give it once.")
    if "none" in names and others:
        raise OptionError(
            f"{text!r} adds something to none; remove the term none, or use it alone."
        )
    arm = "+".join([first, *sorted(_written(name, listed, text) for name, listed in others)])
    for strength in strengths:
        recipe(Arm(arm, strength))  # raises if the strength is out of range
    return arm, strengths


def recipe(arm: Arm) -> Recipe:
    """Return what an arm trains with.

    Examples
    --------
    >>> from topoloss.compare.arms import recipe
    >>> from topoloss.compare.records import Arm
    >>> made = recipe(Arm("t1+dropout=0.5", 1e-3))
    >>> made.penalties, made.treatment.dropout
    ((('t1', 0.001),), 0.5)
    """
    (first, _), *others = _terms(arm.regulariser)
    terms = {first: arm.weight}
    terms |= {name: _only_strength(name, listed, str(arm)) for name, listed in others}
    return Recipe(
        tuple(term for term in terms.items() if term[0] not in TREATMENTS),
        Treatment.of({name: terms[name] for name in terms if name in TREATMENTS}),
    )


def _terms(text: str) -> list[tuple[str, str]]:
    """The names of the terms, each with its strengths as they are written."""
    found, rest = [], text
    while True:
        expression, rest = parse_start(rest)
        if rest and rest[0] not in "=+":
            parse_expression(text)  # raises, and shows where the text stops making sense
        name, strengths = str(expression), ""
        if rest.startswith("="):
            strengths, rest = _until_plus(rest[1:])
        found.append((name, strengths))
        if not rest:
            return found
        rest = rest[1:]


def _until_plus(text: str) -> tuple[str, str]:
    """Split before the first plus sign that is not a part of a number such as 1e+3."""
    sign = re.search(r"(?<![\d.][eE])\+", text)
    return (text, "") if sign is None else (text[: sign.start()], text[sign.start() :])


def _strengths(name: str, listed: str, text: str) -> tuple[float, ...]:
    """Read the strengths of a term, and check its name."""
    if name not in TREATMENTS:
        refuse_labels(components.regulariser(name))
    if name == "none" or (name in TREATMENTS and not has_strength(name)):
        if listed and set(listed.split(",")) != {"0"}:
            raise OptionError(
                f"{text!r} gives {name} the strength {listed}, but {name} takes none."
            )
        return (0.0,)
    what = "strength" if name in TREATMENTS else "weight"
    if not listed:
        paper = "" if name in TREATMENTS else f", or {name}=paper"
        raise OptionError(
            f"{text!r} has no {what}; write {name}={what.upper()}[,{what.upper()}...], for example "
            f"{name}=0.001,0.01{paper}."
        )
    if listed == "paper" and name not in TREATMENTS:
        return WEIGHTS
    return tuple(_strength(one, what, text) for one in listed.split(","))


def _strength(one: str, what: str, text: str) -> float:
    try:
        strength = float(one)
    except ValueError:
        strength = -1.0
    if not 0 <= strength <= LARGEST_WEIGHT:
        raise OptionError(
            f"{text!r}: the {what} {one!r} is not a number between 0 and {LARGEST_WEIGHT:g}."
        )
    return strength


def _only_strength(name: str, listed: str, text: str) -> float:
    strengths = _strengths(name, listed, text)
    if len(strengths) > 1:
        raise OptionError(
            f"{text!r} has {len(strengths)} strengths of {name}; only the first term of an arm may "
            "have several. Give one, or write an arm for each."
        )
    return strengths[0]


def _written(name: str, listed: str, text: str) -> str:
    strength = _only_strength(name, listed, text)
    return f"{name}={exactly(strength)}" if listed else name
