"""A component written as text: its name and options, or the three stages of a pipeline.

The whole grammar::

    expression = part | part "/" part "/" part
    part       = name ["[" [option {"," option}] "]"]
    option     = word "=" value
    value      = number | "true" | "false" | "none" | text

A name stands for a component (``t1``), a component of a certain plugin (``decorrelation:t1``), or
an object of the user's own (``package.module:object``). It contains no plus sign: in a comparison,
plus signs join the terms of an arm. A value that is neither a number nor one of the three words is
text; single or double quotes turn any value into text. Text without quotes may contain quotes,
commas and equals signs only inside brackets of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from topoloss.errors import OptionError, shown

__all__ = ["Expression", "Part", "is_writable", "parse", "parse_start"]

_NAME = re.compile(r"[^\[\]/=,+\"']+")
_WORD = re.compile(r"\s*([^\W\d]\w*)\s*=\s*")
_QUOTED = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|inf|nan)")
# Python refuses to read an integer of more than 4,300 digits.
_WHOLE = re.compile(r"[+-]?\d{1,4000}")
_WORDS: dict[str, Any] = {"true": True, "false": False, "none": None}


@dataclass(frozen=True)
class Part:
    """One component: a name, and options in alphabetical order.

    ``str()`` gives the text again, without needless blanks and quotes.
    """

    name: str
    options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        listed = ",".join(f"{option}={_written(value)}" for option, value in self.options)
        return f"{self.name}[{listed}]" if listed else self.name


@dataclass(frozen=True)
class Expression:
    """One part, or the three parts of a pipeline.

    ``str()`` gives the form used in tables and files: texts with the same names and the same
    options have the same form.
    """

    parts: tuple[Part, ...]

    def __str__(self) -> str:
        return "/".join(map(str, self.parts))


def parse(text: str) -> Expression:
    """Read an expression that is the whole text.

    Raises
    ------
    OptionError
        Showing where the text stops making sense, and what was expected there.

    Examples
    --------
    >>> from topoloss.expressions import parse
    >>> parse("t2[alpha=0.5]").parts[0].options
    (('alpha', 0.5),)
    >>> [part.name for part in parse("cosine[constant=drop]/mst/t1").parts]
    ['cosine', 'mst', 't1']
    >>> str(parse(" t2 [ beta = 0, alpha = 'half' ]"))
    't2[alpha=half,beta=0]'
    """
    expression, rest = parse_start(text)
    if rest:
        raise _error(text, rest, "'[', '/' or the end")
    return expression


def parse_start(text: str) -> tuple[Expression, str]:
    """Read the expression at the start of a text, and return it with the rest of the text.

    Examples
    --------
    >>> from topoloss.expressions import parse_start
    >>> parse_start("t1[reduction=mean]=1e-3")
    (Expression(parts=(Part(name='t1', options=(('reduction', 'mean'),)),)), '=1e-3')
    """
    part, rest = _part(text, text)
    parts = [part]
    while rest.startswith("/"):
        part, rest = _part(text, rest[1:])
        parts.append(part)
    if len(parts) not in (1, 3):
        raise OptionError(
            f"{shown(text)} has {len(parts)} parts; a pipeline has three, as in "
            "'correlation/mst/t1': filtration/persistence/loss."
        )
    return Expression(tuple(parts)), rest


def is_writable(name: str) -> bool:
    """Whether a component of this name can be written as text."""
    return re.fullmatch(r"[^\s\[\]/=,+:\"']+", name) is not None


def _part(text: str, rest: str) -> tuple[Part, str]:
    name = _NAME.match(rest)
    if name is None or not name[0].strip():
        raise _error(text, rest, "a name")
    rest = rest[name.end() :]
    options: dict[str, Any] = {}
    if rest.startswith("["):
        options, rest = _options(text, rest[1:])
        rest = rest.lstrip()
    return Part(name[0].strip(), tuple(sorted(options.items()))), rest


def _options(text: str, rest: str) -> tuple[dict[str, Any], str]:
    """Read the options after an opening bracket, and the closing bracket."""
    options: dict[str, Any] = {}
    if rest.lstrip().startswith("]"):
        return options, rest.lstrip()[1:]
    while True:
        word = _WORD.match(rest)
        if word is None:
            raise _error(text, rest, "an option, as in [reduction=mean]")
        option, rest = word[1], rest[word.end() :]
        if option in options:
            raise OptionError(f"{shown(text)} gives the option {option!r} twice; give it once.")
        options[option], rest = _value(text, rest)
        rest = rest.lstrip()
        if rest.startswith("]"):
            return options, rest[1:]
        if not rest.startswith(","):
            raise _error(text, rest, "',' or ']'")
        rest = rest[1:]


def _value(text: str, rest: str) -> tuple[Any, str]:
    quoted = _QUOTED.match(rest)
    if quoted is not None:
        return re.sub(r"\\(.)", r"\1", quoted[0][1:-1], flags=re.DOTALL), rest[quoted.end() :]
    length = _bare_length(rest)
    bare = rest[:length].strip()
    if not bare:
        raise _error(text, rest, "a value")
    return _meaning(bare), rest[length:]


def _bare_length(rest: str) -> int:
    """The length of the text without quotes at the start, which may contain pairs of brackets."""
    depth = 0
    for position, sign in enumerate(rest):
        depth += (sign == "[") - (sign == "]")
        if depth < 0 or (depth == 0 and sign in ",=\"'"):
            return position
    return len(rest)


def _meaning(bare: str) -> Any:
    """The value that text without quotes stands for."""
    if _WHOLE.fullmatch(bare):
        return int(bare)
    if _NUMBER.fullmatch(bare):
        return float(bare)
    # Both "true", as in the documentation, and "True", as in Python.
    return _WORDS.get(bare[0].lower() + bare[1:], bare)


def _written(value: Any) -> str:
    for word, meaning in _WORDS.items():
        if value is meaning:
            return word
    if not isinstance(value, str):
        return repr(value)
    # Leave out the quotes if the text reads the same without them.
    try:
        if value and _value(value, f"{value}]") == (value, "]"):
            return value
    except OptionError:
        pass
    escaped = re.sub(r"([\\'])", r"\\\1", value)
    return f"'{escaped}'"


def _error(text: str, rest: str, expected: str) -> OptionError:
    found = f"{shown(rest)} follows" if rest else "the text ends"
    read = text[: len(text) - len(rest)]
    return OptionError(
        f"{shown(text)} cannot be read: after {shown(read)} {found}; expected {expected}. Write a "
        "name, a name with options as in 't1[reduction=mean]', or three of them as in "
        "'correlation/mst/t1'."
    )
