"""The command ``topoloss``: its errors on one line, and what to install when it cannot start."""

import sys
import warnings
from pathlib import Path

from topoloss.errors import TopolossError
from topoloss.extras import needs_extra


def main() -> None:
    # The user's own modules in the current folder are importable, as they are for python -m.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        with needs_extra("cli"):
            from topoloss.cli import app
        with warnings.catch_warnings():
            warnings.showwarning = _print_warning  # type: ignore[assignment]
            app()
    except TopolossError as error:
        print("\n".join((f"error: {error}", *getattr(error, "__notes__", ()))), file=sys.stderr)
        sys.exit(1)


def _print_warning(message: Warning | str, *rest: object) -> None:
    print(f"warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
