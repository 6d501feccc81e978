"""Which images are blurred, dark or nearly uniform, by what a probe measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hfft.data.probe import ImageProbe

DARK = 64
"""Grey level, 0 to 255, that 99 of 100 pixels of a dark image stay below."""
UNIFORM = 6.0
"""Standard deviation of red, green and blue, 0 to 255, that a nearly uniform image stays below."""
BLURRED = 0.02
"""Sharpness that a blurred image stays below; and below `BLURRED_SHARE` of the set's median."""
BLURRED_SHARE = 0.2

Measured = list[tuple[int, str]]
"""Rows with reasons, the clearest case first."""


def blurred(probes: Sequence[ImageProbe]) -> Measured:
    """Return the images that are far less sharp than most of the set, and not for lack of contrast."""
    sharpness = np.array([probe.sharpness for probe in probes])
    told = ~np.isnan(sharpness) & (np.array([probe.spread for probe in probes]) >= UNIFORM)
    if not told.any():
        return []
    usual = float(np.median(sharpness[told]))
    rows = np.flatnonzero(told & (sharpness < min(BLURRED, BLURRED_SHARE * usual)))
    return [
        (int(row), f"sharpness {sharpness[row]:.4f}, usually {usual:.4f}") for row in rows[np.argsort(sharpness[rows])]
    ]


def dark(probes: Sequence[ImageProbe]) -> Measured:
    """Return the images whose brightest pixels are dark, those of one colour left out."""
    rows = [row for row, probe in enumerate(probes) if _is_dark(probe)]
    rows.sort(key=lambda row: probes[row].brightest)
    return [(row, f"99 of 100 pixels stay below grey level {probes[row].brightest:.0f} of 255") for row in rows]


def uniform(probes: Sequence[ImageProbe]) -> Measured:
    """Return the images of nearly one colour, dark ones left out."""
    rows = [row for row, probe in enumerate(probes) if probe.spread < UNIFORM and not _is_dark(probe)]
    rows.sort(key=lambda row: probes[row].spread)
    return [(row, f"colours deviate by {probes[row].spread:.1f} of 255") for row in rows]


def _is_dark(probe: ImageProbe) -> bool:
    return probe.brightest < DARK and not probe.flat
