"""Fonts for names in any script: which of the machine's have their letters, and what is shown where none has.

Matplotlib looks for each letter in a list of families, one after the other. Where no family has a letter, it draws a
box, and two names of boxes look the same: such names are shown by number.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

DEFAULT = "DejaVu Sans"  # comes with matplotlib
_PLACEHOLDERS = "Last Resort"  # a font of boxes, which has every letter
_LONGEST = 22  # characters of a class's name that a figure shows


def families(texts: Iterable[str]) -> list[str]:
    """Return the font families that have the letters of some texts, matplotlib's own one first."""
    chosen = [DEFAULT]
    for letter in sorted(set().union(*texts)):
        if not any(_has(family, letter) for family in chosen):
            chosen += [found] if (found := _family_with(letter)) else []
    return chosen


def class_names(labels: Sequence[str], word: str = "label") -> list[str]:
    """Return what a figure shows for each class: its name on one line, or its number where no font has the letters.

    A long name is cut; where that makes it another one's equal, its number stands behind it.
    """
    names = [_drawn(label) or f"{word} {number}" for number, label in enumerate(labels)]
    short = [shorten(name, _LONGEST) for name in names]
    uses = Counter(short)
    return [
        each if uses[each] == 1 else shorten(name, _LONGEST - len(end := f" ({number})")) + end
        for number, (name, each) in enumerate(zip(names, short, strict=True))
    ]


def shorten(text: str, length: int) -> str:
    """Cut the middle out of a long text, since long names often differ at their ends."""
    if len(text) <= length:
        return text
    tail = max((length - 3) // 2, 0)
    return text[: length - 3 - tail] + "..." + text[len(text) - tail :]


def escaped(text: str) -> str:
    """Return a text with those letters that no font has as escapes: a backslash, a ``u`` and the letter's number."""
    return "".join(
        letter if _family_with(letter) else letter.encode("unicode_escape", "surrogatepass").decode()
        for letter in text
        if _family_with(letter) or not _ignorable(letter)
    )


def shown_by_number(labels: Sequence[str], word: str = "classes") -> str:
    """Say which labels, called by `word`, figures show by number; empty where they show all by name."""
    lost = [label for label in labels if label.split() and _drawn(label) is None]
    if not lost:
        return ""
    first = f"{lost[0]!r}{' and others' if len(lost) > 1 else ''}"
    return (
        f"Plots show {len(lost):,} of {len(labels):,} {word} by number: no font here has the letters of {first}. "
        "Install one that has them, Noto for example, and run hfft evaluate."
    )


def _drawn(text: str) -> str | None:
    """The text on one line, without what nobody sees; None where a letter would be a box, or where nothing is left."""
    kept = "".join(letter for letter in " ".join(text.split()) if _family_with(letter) or not _ignorable(letter))
    return kept if kept and all(map(_family_with, kept)) else None


def _ignorable(letter: str) -> bool:
    """Whether a letter only joins or varies its neighbours."""
    return unicodedata.category(letter) == "Cf" or "VARIATION SELECTOR" in unicodedata.name(letter, "")


@cache
def _family_with(letter: str) -> str | None:
    return next((family for family in _installed() if _has(family, letter)), None)


def _installed() -> Iterator[str]:
    """All font families, those without serifs first; at last those that were installed since matplotlib looked."""
    known = _listed()
    yield from known
    _look_again()
    yield from (family for family in _listed() if family not in known)


def _listed() -> list[str]:
    from matplotlib.font_manager import fontManager

    regular = [entry.name for entry in fontManager.ttflist if (entry.style, entry.weight) == ("normal", 400)]
    found = {name for name in regular if not name.startswith(_PLACEHOLDERS)}
    return sorted(found, key=lambda name: (name != DEFAULT, "Sans" not in name, name))


@cache
def _look_again() -> None:
    """Add the fonts that matplotlib's own list, which it keeps from one process to the next, lacks."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    known = {entry.fname for entry in fontManager.ttflist}
    for file in findSystemFonts():
        if file not in known:
            _add(file)


def _add(file: str) -> None:
    from matplotlib.font_manager import fontManager

    try:
        fontManager.addfont(file)
    except Exception:  # FreeType and matplotlib refuse damaged fonts, and those of bitmaps, in several ways
        return


@cache
def _has(family: str, letter: str) -> bool:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    try:
        return bool(get_font(findfont(FontProperties(family=[family]))).get_char_index(ord(letter)))
    except Exception:  # a font that was listed and cannot be read any more
        return False
