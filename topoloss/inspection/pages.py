"""Turn a recorded run into one HTML page, which loads nothing from the network."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from dataclasses import asdict
from importlib import resources
from pathlib import Path

from topoloss.files import write_whole
from topoloss.inspection.reading import Run
from topoloss.inspection.recording import spaced
from topoloss.palette import COLOURS, NEUTRAL

__all__ = ["page", "write"]

# With this many epochs of 1000 neurons a page has about 2 MB.
MOST_EPOCHS = 60


def write(run: Run, path: Path) -> Path:
    """Write the page of a run; an error leaves the file as it was."""
    return write_whole(path, lambda partial: partial.write_text(page(run), encoding="utf-8"))


def page(run: Run) -> str:
    """Return the page of a run as HTML.

    Of more than 60 epochs, evenly spaced ones are shown, and always the one that training kept.
    """
    shown = set(spaced(len(run.snapshots), MOST_EPOCHS))
    shown |= {k for k, each in enumerate(run.snapshots) if each.epoch == run.kept}
    found = asdict(run) | {
        "snapshots": [asdict(run.snapshots[k]) for k in sorted(shown)],
        "recorded": len(run.snapshots),
    }
    # A name may contain anything: a "</script>" in it must not end the script that holds the data.
    data = json.dumps(found, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    style, script = _part("page.css") + _colours(), _part("page.js")
    filled = {
        "title": html.escape(run.title or "a run"),
        "style": style,
        "style_hash": _hash(style),
        "script": script,
        "script_hash": _hash(script),
        "data": data,
        "ink": ",".join(str(int(COLOURS["blue"][k : k + 2], 16)) for k in (1, 3, 5)),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda slot: filled[slot[1]], _part("page.html"))


def _colours() -> str:
    return (
        f":root {{ --before: {NEUTRAL}; --now: {COLOURS['vermilion']}; "
        f"--neuron: {COLOURS['blue']}; }}\n"
    )


def _part(name: str) -> str:
    return resources.files("topoloss.inspection").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """The hash by which the page's content security policy allows only its own script and style."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
