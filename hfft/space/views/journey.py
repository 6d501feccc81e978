"""What the journey of an image shows: ``journey.js`` draws it, and asks again only where the picture is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hfft.explain.gradcam import heat_image
from hfft.explain.journey import Change, Journey, Layer, Stop
from hfft.space.pictures import address_of
from hfft.space.views.evidence import doubt
from hfft.tasks.contract import Score

_MOST_CROP = 0.9
_SIDE = 448  # pixels of the picture's longer side


def journey_value(
    found: Journey, note: str = "", fresh: bool = True, fields: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Return what the journey draws.

    Args:
        found: the journey.
        note: which image it is of, where the visitor did not choose it.
        fresh: whether nothing was changed in the picture, so that the controls go back to where they began.
        fields: by part, the side of what a cell sees, in shares of the picture's side.
    """
    if found.seen is None:
        return no_journey("This model's input is not a picture, so nothing can be laid over it.")
    return {
        "seen": address_of(found.seen, "JPEG", _SIDE),
        "stops": [
            _picture(found),
            *(_stop(stop) | {"sees": (fields or {}).get(stop.part)} for stop in found.stops),
            _answer(found),
        ],
        "answers": [_score(score) for score in found.scores],
        "doubt": _given(found) + doubt(found.unknown_score, found.untold),
        "note": note,
        "fresh": fresh,
        "why": "",
    }


def _given(found: Journey) -> str:
    marked = any(score.mark is not None for score in found.scores)
    return "A label is given from its orange mark on. " if marked else ""


def no_journey(why: str) -> dict[str, Any]:
    """Return what the journey draws where there is none: a sentence."""
    return {"seen": "", "stops": [], "answers": [], "doubt": "", "note": "", "fresh": True, "why": why}


def change_of(asked: Mapping[str, Any]) -> Change:
    """Return the change that a page asks for; what is out of bounds is brought within them.

    Args:
        asked: ``crop``, ``turn`` (degrees), ``dark`` and ``cover`` (four shares, or nothing), as `Change` has them.
    """
    cover = asked.get("cover")
    square = tuple(_within(value, 0, 1) for value in cover[:4]) if isinstance(cover, list) and len(cover) >= 4 else None
    return Change(
        crop=_within(asked.get("crop"), 0, _MOST_CROP),
        turn=_within(asked.get("turn"), -180, 180),
        dark=_within(asked.get("dark"), 0, 1),
        cover=square,  # type: ignore[arg-type]  # four of them
    )


def _within(value: Any, low: float, high: float) -> float:
    number = float(value) if isinstance(value, int | float) else 0.0
    return min(max(number, low), high) if number == number else low


def _picture(found: Journey) -> dict[str, Any]:
    shape = found.stops[0].shape_in if found.stops else ()
    return _place("picture", "plain", (), shape, "What the model sees: resized, cut and normalised.")


def _stop(stop: Stop) -> dict[str, Any]:
    kind = "trained" if stop.trained else "frozen"
    state = "frozen" if not stop.trained else "trained" if stop.trained > 0.995 else f"{stop.trained:.0%} trained"
    text = f"{stop.part}, {state}."
    if stop.cells is None:
        text += " Its output does not lie on the picture any more."
    elif stop.trained and not stop.base:
        text += " The base model cannot be shown beside it."
    place = _place(stop.part, kind, stop.shape_in, stop.shape_out, text)
    return {
        **place,
        "cells": list(stop.cells) if stop.cells else None,
        "maps": _layers(stop.maps),
        "base": _layers(stop.base),
    }


def _answer(found: Journey) -> dict[str, Any]:
    text = f"Where the {found.evidence.name} lies." if found.evidence else "What the model answers."
    shape = found.stops[-1].shape_out if found.stops else ()
    place = _place("answer", "plain", shape, (), text)
    return {**place, "maps": _layers([found.evidence] if found.evidence else [])}


def _place(part: str, kind: str, given: Sequence[int], made: Sequence[int], text: str) -> dict[str, Any]:
    shapes = (" x ".join(map(str, shape)) for shape in (given, made))
    return {"part": part, "kind": kind, "in": next(shapes), "out": next(shapes), "text": text} | {
        "cells": None,
        "maps": [],
        "base": [],
    }


def _layers(layers: Sequence[Layer]) -> list[dict[str, str]]:
    return [{"name": layer.name, "picture": address_of(heat_image(layer.values))} for layer in layers]


def _score(score: Score) -> dict[str, Any]:
    share = None if score.share is None else round(score.share, 4)
    return {"label": score.label, "share": share, "said": score.said, "least": score.mark}
