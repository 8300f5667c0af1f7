"""How pages show formulas and commands: without a network, and ready to be pasted."""

from __future__ import annotations

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.errors import SphinxError

SHELL_CELL = "%%sh\n"


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer(
        "mathml", inline_renderers=(inline, None), block_renderers=(block, None)
    )
    app.connect("doctree-read", show_commands)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def inline(writer, node: nodes.math) -> None:
    writer.body.append(mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def block(writer, node: nodes.math_block) -> None:
    formula = mathml(node.astext(), "block")
    writer.body.append(f'<div style="overflow: auto hidden">{formula}</div>')
    raise nodes.SkipNode


def mathml(formula: str, display: str) -> str:
    """Turn a formula into MathML, which browsers draw by themselves."""
    made = convert(formula, display=display)
    if "\\" in made:  # the converter leaves what it does not know as it is
        raise SphinxError(f"the formula {formula} has a command that latex2mathml does not know.")
    return made


def show_commands(app: Sphinx, document: nodes.document) -> None:
    """Show a cell of commands as they are typed: the line that hands it to a shell is left out."""
    for code in document.findall(nodes.literal_block):
        if code.astext().startswith(SHELL_CELL):
            commands = code.astext().removeprefix(SHELL_CELL)
            code.replace_self(nodes.literal_block(commands, commands, language="sh"))
