"""The command ``topoloss plugins``."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import typer

from topoloss.cli.failures import WRONG
from topoloss.cli.options import AsJson
from topoloss.cli.screen import Screen

__all__ = ["plugins"]


def plugins(as_json: AsJson = False) -> None:
    """List the installed plugins, what each offers, and what failed and why.

    The exit status is 1 if a plugin failed, or if several offer the same name.
    """
    from topoloss.errors import PluginWarning
    from topoloss.plugins import clashes, installed_plugins

    screen = Screen(as_json=as_json)
    with warnings.catch_warnings():
        # The table below says the same, and more.
        warnings.simplefilter("ignore", PluginWarning)
        infos = installed_plugins()
    clashing = clashes()
    for source in dict.fromkeys(info.source for info in infos):
        of_source = [info for info in infos if info.source == source]
        screen.table(
            ("plugin", "status", "offers"),
            [(info.name, info.status, _offers(info.offers)) for info in of_source],
            title=source,
            notes=[f"{info.name} failed: {info.reason}" for info in of_source if info.reason],
        )
    if not infos:
        screen.result("No plugin is installed. In a bare checkout run: pip install -e .")
    for clash in clashing:
        screen.result(clash)
    screen.json(
        {
            "plugins": [
                {
                    "name": info.name,
                    "distribution": info.source,
                    "status": info.status,
                    "offers": {kind: list(names) for kind, names in info.offers.items()},
                    "reason": info.reason,
                }
                for info in infos
            ],
            "clashes": clashing,
        }
    )
    if clashing or any(info.status == "failed" for info in infos):
        raise typer.Exit(WRONG)


def _offers(offers: Mapping[str, tuple[str, ...]]) -> str:
    return "\n".join(f"{kind}: {', '.join(names)}" for kind, names in offers.items())
