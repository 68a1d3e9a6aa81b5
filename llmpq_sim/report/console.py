"""Lines and tables on a console, and answers as JSON.

Every text is shown as it is, never as markup.
"""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from textwrap import fill
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from llmpq_sim.io.files import json_text
from llmpq_sim.report.formatting import folded

WIDTH = 88
"""Columns that tables are made for."""

LABEL_WIDTH = 10


def answer_console() -> Console:
    """Return the console for tables: as wide as the terminal, as COLUMNS says, or 88 columns."""
    width = int(os.environ["COLUMNS"]) if os.environ.get("COLUMNS", "").isdigit() else None
    return Console(width=width or (None if sys.stdout.isatty() else WIDTH), highlight=False)


def print_json(content: dict[str, Any]) -> None:
    """Write one JSON object to stdout, in ASCII where its encoding is too narrow."""
    text = json_text(content)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = "".join(char if char.isascii() else json.dumps(char)[1:-1] for char in text)
    sys.stdout.write(text)


def width_of(console: Console) -> int:
    """Return the columns to draw in."""
    return min(console.width, WIDTH)


def plain(text: str, style: str = "") -> Text:
    """Return text to show, with what a terminal might obey (in a name, say) made visible."""
    shown = "".join(char if char.isprintable() or char == "\n" else "�" for char in text)
    return Text(shown, style=style)


class Trimmed:
    """What is drawn without blanks at the end of lines, so that it can be pasted and compared."""

    def __init__(self, drawn: RenderableType) -> None:
        self.drawn = drawn

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines of what is drawn, each without its last blanks."""
        for line in console.render_lines(self.drawn, options, pad=False):
            while line and not line[-1].text.strip():
                line.pop()
            if line:
                yield from line[:-1]
                yield Segment(line[-1].text.rstrip(), line[-1].style)
            yield Segment.line()


def print_to(console: Console, *parts: RenderableType) -> None:
    """Write renderables one below the other, wrapped at the width; nothing is an empty line."""
    for part in parts or ("",):
        console.print(Trimmed(part), width=width_of(console))


def paragraph(text: str, width: int) -> Text:
    """Return sentences in lines that never part a number from its per cent sign."""
    joined = fill(text.replace(" %", "\N{NO-BREAK SPACE}%"), max(width, 1))
    return plain(joined.replace("\N{NO-BREAK SPACE}%", " %"))


def folded_lines(parts: Sequence[str], width: int, style: str = "") -> Text:
    """Return parts as lines that break between them."""
    return plain("\n".join(folded(parts, width)), style)


def labelled(rows: Iterable[tuple[str, Sequence[str]]], width: int) -> Table:
    """Return labels, each with its parts in lines beside it."""
    grid = Table.grid(padding=0)
    grid.add_column(width=LABEL_WIDTH)
    grid.add_column()
    for label, parts in rows:
        grid.add_row(plain(label, "dim"), folded_lines(parts, width - LABEL_WIDTH))
    return grid


def new_table(*headings: str, right: Iterable[str] = ()) -> Table:
    """Return an empty table; columns named in ``right`` are aligned to the right."""
    aligned = set(right)
    table = Table(
        box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim"
    )
    for heading in headings:
        table.add_column(heading, justify="right" if heading in aligned else "left")
    return table
