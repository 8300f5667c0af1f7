"""The command ``topoloss``."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from topoloss.cli.failures import status_of, warn
from topoloss.extras import needs_extra


def main() -> None:
    # The user's own modules in the current folder are importable, as they are for python -m.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # show "?" for letters that a terminal lacks
            stream.reconfigure(errors="replace")
    sys.exit(status_of(_command))


def _command() -> object:
    with needs_extra("cli"):
        from topoloss.cli.app import app
    with warnings.catch_warnings():
        warnings.showwarning = warn  # type: ignore[assignment]
        return app(prog_name="topoloss", standalone_mode=False)


if __name__ == "__main__":
    main()
