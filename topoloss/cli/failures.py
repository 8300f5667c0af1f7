"""Turn whatever goes wrong in a command into one message and one exit status.

0: success. 1: the command ran and found a fault, such as a broken rule. 2: the command failed.
130: it was interrupted. 141: nobody reads its output any more.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from traceback import format_exception

from topoloss import owners
from topoloss.errors import TopolossError

__all__ = ["FAILED", "INTERRUPTED", "WRONG", "status_of"]

WRONG, FAILED, INTERRUPTED, _UNREAD = 1, 2, 130, 141
_TRACEBACK = "TOPOLOSS_TRACEBACK"


def status_of(command: Callable[[], object]) -> int:
    """Run a command, say on stderr what went wrong, and return the exit status."""
    try:
        status = command()
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except BrokenPipeError:
        return _unread()
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):
            return _unread()
        if not owners.is_of_others(stop):
            raise  # shell completion exits this way
        return _failed(stop)
    except Exception as error:
        if type(error).__name__ == "Abort":  # raised by the parser of the command line
            _say("interrupted")
            return INTERRUPTED
        return _failed(error)


def _unread() -> int:
    # At exit Python flushes standard output (file 1), and would complain that nobody reads it.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return _UNREAD


def _failed(error: BaseException) -> int:
    if os.environ.get(_TRACEBACK):
        print("".join(format_exception(error)), file=sys.stderr)
    if hasattr(error, "format_message"):  # a usage error
        usage = error.format_message().strip()
        context = getattr(error, "ctx", None)
        if usage.startswith("Usage:"):  # no command was given, so this is the help
            print(usage, file=sys.stderr)
            return FAILED
        path = context.command_path if context else "topoloss"
        _say(f"{_small(usage)} Try '{path} --help'.", "error")
        return FAILED
    owners.note(error)
    notes = getattr(error, "__notes__", ())
    _say("\n".join((_message(error), *notes)), "error")
    return FAILED


def _message(error: BaseException) -> str:
    if isinstance(error, TopolossError):
        return str(error)
    if isinstance(error, OSError) and not owners.is_of_others(error):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}."
    said = f"{type(error).__name__}: {error}".rstrip(": ")
    if owners.has_note(error):
        return said
    return (
        f"{said}\nThis is probably a bug in topoloss. Please report it, with the traceback that "
        f"the same command prints if {_TRACEBACK}=1 is set."
    )


def _small(text: str) -> str:
    """Make the first letter lower-case, because the text follows "error:"."""
    return text[:1].lower() + text[1:]


def warn(message: Warning | str, *rest: object) -> None:
    """Print a warning; this replaces :func:`warnings.showwarning`."""
    _say(str(message), "warning")


def _say(text: str, what: str = "") -> None:
    colour = {"error": "\033[1;31m", "warning": "\033[1;33m"}.get(what)
    if what:
        coloured = colour and sys.stderr.isatty() and not os.environ.get("NO_COLOR")
        text = f"{colour}{what}:\033[0m {text}" if coloured else f"{what}: {text}"
    print(text, file=sys.stderr)
