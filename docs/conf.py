"""How the pages are built: every cell is run, and anything odd is an error."""

import logging
import os
import sys
from pathlib import Path

import topoloss

sys.path.insert(0, str(Path(__file__).parent))

project = "topoloss"
author = "the topoloss authors"
version = release = topoloss.__version__
html_title = f"topoloss {version}"
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_show_copyright = False
exclude_patterns = ["_build", "examples"]

extensions = [
    "myst_nb",
    "numpydoc",
    "rendering",  # ours, beside this file
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
]
html_math_renderer = "mathml"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

# Cells run afresh in every build, in a folder of their own; an error, or a word on stderr,
# fails the build.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 1200  # seconds a cell: a busy machine of two cores is slow
nb_output_stderr = "error"
logging.getLogger("traitlets").setLevel("WARNING")  # it tells of every page otherwise
nb_merge_streams = True
nb_render_markdown_format = "myst"
os.environ |= {
    # Cells train small networks: threads that wait for one another on a busy machine take minutes.
    "OMP_NUM_THREADS": "1",
    # The cells' shell finds the commands of the environment that builds the pages.
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    "PYTHONSTARTUP": str(Path(__file__).parent / "startup.py"),
    "COLUMNS": "100",
    "NO_COLOR": "1",
    "TTY_COMPATIBLE": "0",  # a notebook's shell says that it can colour; pages cannot
}

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
# Shapes and types stand in the docstrings; jaxtyping's annotations are unreadable here.
autodoc_typehints = "none"
numpydoc_show_class_members = False

# Pages of other projects are not fetched: the build works without a network.
nitpick_ignore_regex = [("py:.*", r"torch\..*")]
