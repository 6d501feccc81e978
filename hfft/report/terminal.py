"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from io import StringIO

_WIDE = 10_000  # columns: a terminal breaks lines by itself, and what reads from a pipe wants them whole


def in_a_line(text: str) -> str:
    """Write out what would end a line or move a terminal's cursor, as names of files and classes may hold it."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def can_encode(text: str, encoding: str | None) -> bool:
    """Whether a stream has codes for all of a text; one whose encoding is not known has those of ASCII."""
    try:
        text.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def aligned(head: Sequence[str], rows: Iterable[Sequence[str]], words: Collection[int] = (0,)) -> list[str]:
    """Return the lines of a table, aligned by the width that characters take in a terminal.

    Args:
        head: names of the columns.
        rows: cells of each row.
        words: columns that are aligned to the left; the others hold numbers.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, name in enumerate(head):
        table.add_column(name, justify="left" if place in words else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(in_a_line(cell)) for cell in row))  # a cell's brackets are its own, not rich's markup
    console = Console(file=StringIO(), width=_WIDE, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return [line.rstrip() for line in captured.get().splitlines()]


def tail(text: str, width: int) -> str:
    """Return the end of a text that is wider than that, which tells files of one folder apart."""
    return text if len(text) <= width else "..." + text[3 - width :]
