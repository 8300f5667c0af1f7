"""Runs before the cells of each page."""

import subprocess
import sys

from IPython.core.magic import register_cell_magic


@register_cell_magic
def sh(line: str, cell: str) -> None:
    """Run a cell in the shell; the first command that fails, fails the build.

    IPython's own magic looks at the last command alone, and prints in pieces.
    """
    ran = subprocess.run(["sh", "-e", "-c", cell], capture_output=True, text=True)
    sys.stdout.write(ran.stdout)
    sys.stderr.write(ran.stderr)
    ran.check_returncode()
