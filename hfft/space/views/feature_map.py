"""What the map of features draws: images as points, before and after fine-tuning; ``feature_map.js`` draws it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfft.metrics import wilson_interval
from hfft.report.plots import CLASS_COLOURS, class_colour
from hfft.trust.feature_map import FeatureMap, Side

_SIDE = 1000  # units of a panel's side
_MARGIN = 40  # units that are left free around the points

Star = tuple[NDArray[np.float32] | None, NDArray[np.float32], str]
"""Where a new photograph lies before and after, shape (2,) each, and what is said of it."""


def map_value(found: FeatureMap, labels: Sequence[str], star: Star | None = None) -> dict[str, Any]:
    """Return what the map draws.

    Args:
        found: the map of a run.
        labels: the classes' names.
        star: a new photograph; None for none.
    """
    places = (None, None) if star is None else star[:2] if found.before is not None else star[1:2]
    return {
        "sides": [
            {"title": title} | _side(side, place) for (title, side), place in zip(found.sides, places, strict=False)
        ],
        "train": found.labels["train"].tolist(),
        "validation": found.labels["validation"].tolist(),
        "said": found.said.tolist(),
        "labels": list(labels),
        "colours": [class_colour(label) for label in range(len(labels))],
        "told": len(labels) <= len(CLASS_COLOURS),
        "star": "" if star is None else star[2],
        "note": _note(found),
        "why": "",
    }


def no_map(why: str) -> dict[str, Any]:
    """Return what the map draws where there is none: a sentence."""
    return {"sides": [], "train": [], "validation": [], "said": [], "labels": [], "colours": [], "told": False} | {
        "star": "",
        "note": "",
        "why": why,
    }


def _side(side: Side, star: NDArray[np.float32] | None) -> dict[str, Any]:
    """Return a panel's points in whole units from its left upper corner, all on one scale."""
    rows = [side.points["train"], side.points["validation"], *([] if star is None else [star[None]])]
    points = np.concatenate(rows)
    low, high = points.min(axis=0), points.max(axis=0)
    scale = (_SIDE - 2 * _MARGIN) / max(float((high - low).max()), 1e-9)

    def placed(values: NDArray[np.float32]) -> list[list[int]]:
        shown = (values - (low + high) / 2) * (scale, -scale) + _SIDE / 2
        return np.rint(shown).astype(int).tolist()  # type: ignore[no-any-return]

    return {
        "train": placed(side.points["train"]),
        "validation": placed(side.points["validation"]),
        "star": None if star is None else placed(star[None])[0],
        "share": f"{side.plane.share:.0%} of the variance lies in this plane",
    }


def _note(found: FeatureMap) -> str:
    train, images = len(found.labels["train"]), len(found.labels["validation"])

    def counted(side: Side) -> str:
        low, high = wilson_interval(side.alike, images)
        return f"{side.alike:,} of {images:,} (95 % interval {low:.0%} to {high:.0%})"

    before = "" if found.before is None else f"{counted(found.before)} before fine-tuning, "
    return (
        f"{train:,} training images (small) and {images:,} validation images (large; a cross is a mistake). In all "
        "features, and not in this plane alone, the nearest training image is of the right class for "
        f"{before}{counted(found.after)} after it."
    )
