"""What pages show of a terminal is what the command prints, at 80 columns."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from topoloss.__main__ import main

ROOT = Path(__file__).parents[1]
SESSIONS = [
    pytest.param(command, shown, id=f"{path.stem}: {command}")
    for path in sorted((ROOT / "docs").glob("*.md"))
    for block in re.findall(
        r"^```console\n(.*?)^```$", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
]


def printed(command, monkeypatch, capsys):
    program, *arguments = shlex.split(command)
    assert program == "topoloss"
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", ["topoloss", *arguments])
    with pytest.raises(SystemExit):
        main()
    told = capsys.readouterr()
    return told.out + told.err


def without_blanks_at_the_end(text):
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())


def test_there_are_sessions():
    assert len(SESSIONS) > 9


@pytest.mark.parametrize(("command", "shown"), SESSIONS)
def test_a_page_shows_what_the_command_prints(command, shown, monkeypatch, capsys):
    found = printed(command, monkeypatch, capsys)
    assert without_blanks_at_the_end(found) == without_blanks_at_the_end(shown)
