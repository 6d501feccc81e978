"""Numbers with their nouns, as lines for people have them."""

from __future__ import annotations

from collections.abc import Mapping


def count_of(number: float, one: str, many: str = "") -> str:
    """Return a number with its noun: ``1 image``, ``1,200 images``, ``0.5 epochs``.

    Args:
        number: a whole number, or a part of one.
        one: the noun for one of them.
        many: for any other number; by default `one` with an s.
    """
    digits = f"{int(number):,}" if number == int(number) else f"{number:g}"
    return f"{digits} {one if number == 1 else many or f'{one}s'}"


def images_of(counts: Mapping[str, int]) -> str:
    """Return how many images each split has: ``200 train, 40 validation images``."""
    told = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    return f"{told} image{'s' * (list(counts.values()) != [1])}"
