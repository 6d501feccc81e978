"""Text and tables in Markdown that show what they are given, whatever it holds."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence


def escape(text: str) -> str:
    """Return a text on one line that Markdown and HTML show as it is, inside a table as well."""
    line = re.sub(r"[\s\x00-\x1f\x7f]+", " ", text).strip()
    marked = re.sub(r"([\\`*_{}\[\]#|~$])", r"\\\1", line)
    marked = marked.replace("://", r":\//").replace("www.", r"www\.")  # else shown as links
    return html.escape(marked, quote=False)


def code(text: str) -> str:
    """Return a text that may stand between backticks inside a table."""
    return re.sub(r"[`|\s]+", " ", text).strip()


def number(value: float) -> str:
    """Return a loss or a share with four decimals."""
    return f"{value:.4f}"


def percent(part: float, whole: float) -> str:
    """Return a share as a percentage; ``none`` of nothing."""
    return f"{part / whole:.1%}" if whole else "none"


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table whose cells are Markdown already."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
