"""The command ``topoloss``: its errors on one line, and what to install when it cannot start."""

import sys
import warnings

from topoloss.errors import TopolossError
from topoloss.extras import needs_extra


def main() -> None:
    try:
        with needs_extra("cli"):
            from topoloss.cli import app
        with warnings.catch_warnings():
            warnings.showwarning = _print_warning  # type: ignore[assignment]
            app()
    except TopolossError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _print_warning(message: Warning | str, *rest: object) -> None:
    print(f"warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
