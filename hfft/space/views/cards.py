"""The cards of the classes that are to be trained: a name, a count, a few of the images, and a word of warning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from hfft.space.views import html as views
from hfft.wording import count_of

FEW = 10
"""Images of a class below which its card warns."""

_MOST = 50  # cards


@dataclass(frozen=True)
class ClassCard:
    """One class.

    Args:
        label: its name.
        counts: images by split.
        pictures: a few of them as addresses of data.
    """

    label: str
    counts: Mapping[str, int]
    pictures: Sequence[str] = ()


def class_cards(cards: Sequence[ClassCard]) -> str:
    """Return the cards as a list; without any, what to do about it."""
    if not cards:
        return views.empty("No images yet: add a zip, files or pictures below, or take the small set.")
    more = f"<li>and {len(cards) - _MOST} classes more</li>" if len(cards) > _MOST else ""
    items = "".join(map(_card, cards[:_MOST]))
    return f'<ul class="hf-classes" tabindex="0" aria-label="Classes">{items}{more}</ul>'


def _card(card: ClassCard) -> str:
    train = card.counts.get("train", 0)
    others = "".join(f", {count} for {split}" for split, count in card.counts.items() if split != "train" and count)
    few = f' <span class="few">only {train}: {FEW} or more are better</span>' if train < FEW else ""
    thumbs = "".join(f'<img src="{picture}" alt="">' for picture in card.pictures)
    count = f"{count_of(train, 'image')}{others}"
    return (
        f"<li><b>{escape(card.label)}</b> <small>{count}</small>{few}"
        f'<div class="hf-thumbs" aria-hidden="true">{thumbs}</div></li>'
    )
