"""The command ``topoloss``: its errors on one line, and what to install when it cannot start."""

import sys

from topoloss.errors import TopolossError
from topoloss.extras import needs_extra


def main() -> None:
    try:
        with needs_extra("cli"):
            from topoloss.cli import app
        app()
    except TopolossError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
