"""How words and tables are laid out: in the width of a terminal, or in a pipe whole lines."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from swiftalign.problems import printable

if TYPE_CHECKING:
    from rich.progress import BarColumn

_ENDLESS = 10_000  # columns of a pipe or a file: what is long stays in one line, which grep finds
_NUMERIC = (
    *("rows", "steps", "epochs", "step", "rank", "loss", "eval_loss"),
    *("expected", "found", "moved", "max change"),
    *("total", "trainable", "share", "tensors", "parameters", "rate", "weight decay"),
    *("weights GiB", "trained GiB", "batch GiB", "peak GiB", "largest batch", "s per step", "epoch", "rows/s"),
)
_NARROWEST = 30  # columns in which a sentence can be read


def open_console(*, stderr: bool = False) -> Console:
    console = Console(stderr=stderr, highlight=False)
    return console if console.file.isatty() else Console(stderr=stderr, highlight=False, width=_ENDLESS)


def tell(console: Console, text: str | Text, *, hang: int = 2, style: str = "") -> None:
    """Print words. A terminal's lines break between words, never within a path or a name.

    Args:
        hang: blanks before the second and all further lines of what is broken.
    """
    for line in Text.assemble(text, style=style).split("\n", allow_blank=True):
        breaks, start, room = [], 0, console.width
        for word in re.finditer(r"\S+", line.plain):
            if cell_len(line.plain[start : word.end()]) > room and line.plain[start : word.start()].strip():
                breaks.append(start := word.start())
                room = console.width - hang
        first, *rest = line.divide(breaks) if breaks else [line]
        for shown in (first, *(Text(" " * hang) + each for each in rest)):
            if breaks:
                shown.rstrip()
            console.print(shown, overflow="ignore", crop=False)


def bar_column(console: Console) -> BarColumn:
    """A bar that leaves room for the words beside it."""
    from rich.progress import BarColumn

    return BarColumn(bar_width=min(40, max(4, console.width - 64)))


def new_table(*columns: str, texts: int | None = None) -> Table:
    """A table without lines; numbers are set to the right.

    Args:
        texts: the first so many columns hold texts, and all others numbers; by default, headings tell.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        numeric = column in _NUMERIC if texts is None else number >= texts
        table.add_column(Text(printable(column)), justify="right" if numeric else "left", overflow="fold")
    return table


def print_table(table: Table, console: Console) -> None:
    """A table; where it is wider than the terminal, its last column is wrapped, or each row gets lines of its own."""
    *others, last = _widths(table, console)
    room = console.width - sum(others) - 2 * len(others)
    longest = max((len(word) for cell in table.columns[-1].cells for word in _plain(cell).split()), default=0)
    if room < last and (table.columns[-1].justify != "left" or room < max(longest, _NARROWEST)):
        _print_rows(table, console)
        return
    for column, width in zip(table.columns[:-1], others, strict=True):
        column.min_width = width
    with console.capture() as capture:
        console.print(table)
    # rich fills every line up to the table's width; a file or a pipe is better off without.
    lines = (line if console.is_terminal else line.rstrip() for line in capture.get().splitlines())
    console.out("\n".join(lines), highlight=False)


def fits(table: Table, console: Console) -> bool:
    """Whether no cell would have to be wrapped."""
    widths = _widths(table, console)
    return sum(widths) + 2 * (len(widths) - 1) <= console.width


def _widths(table: Table, console: Console) -> list[int]:
    whole = console.options.update(width=_ENDLESS)
    return [
        max(Measurement.get(console, whole, cell).maximum for cell in (column.header, *column.cells))
        for column in table.columns
    ]


def _print_rows(table: Table, console: Console) -> None:
    """For each row of a table its first cell, and below it the others, each after the heading of its column."""
    first, *others = ([_plain(cell) for cell in column.cells] for column in table.columns)
    headings = [_plain(column.header) for column in table.columns[1:]]
    for name, *cells in zip(first, *others, strict=True):
        if name:
            tell(console, Text(name, style="bold"))
        told = [f"{heading} {cell}".strip() for heading, cell in zip(headings, cells, strict=True) if cell]
        if told:
            tell(console, f"  {', '.join(told)}")


def _plain(cell: Any) -> str:
    return cell.plain if isinstance(cell, Text) else Text.from_markup(str(cell)).plain
