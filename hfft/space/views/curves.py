"""Curves and figures as the Space's widgets take them."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import gradio as gr
import pandas as pd
from PIL import Image

from hfft.report.plots import BLUE, GREEN, VERMILION
from hfft.report.trace import EpochRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_COLOURS = {"training loss": VERMILION, "validation loss": BLUE, "accuracy": GREEN}

_PHASE = "#888888"


def curve_plot(title: str, colour_by: str, visible: bool = True) -> gr.LinePlot:
    """Return a line plot of `curve_table`, one line per series or per run."""
    return gr.LinePlot(
        x="epoch",
        y="value",
        color=colour_by,
        color_map=_COLOURS if colour_by == "series" else None,
        title=title,
        x_title="epoch",
        y_title=" ",
        y_lim=[0, 1] if "ccuracy" in title else [None, None],
        height=260,
        tooltip="axis",
        visible=visible,
        label=title,
        show_label=False,
    )


def plot_update(table: pd.DataFrame) -> Any:
    """Return a plot filled with a table; it is hidden where there is no line to draw, which one epoch does not make."""
    return gr.update(value=table, visible=table["epoch"].nunique() > 1)


def figure_image(figure: Figure) -> Image.Image:
    """Return a matplotlib figure as an image."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    stream.seek(0)
    return Image.open(stream)


def curve_table(runs: Sequence[tuple[str, Sequence[EpochRow]]]) -> pd.DataFrame:
    """Return the epochs of runs in long form: epoch, value, series (loss or accuracy), run."""
    rows = []
    for name, epochs in runs:
        for row in epochs:
            for series, value in (
                ("training loss", row.train_loss),
                ("validation loss", row.eval_loss),
                ("accuracy", row.accuracy),
            ):
                if math.isfinite(value):
                    rows.append((row.epoch, value, series, name))
    return pd.DataFrame(rows, columns=["epoch", "value", "series", "run"])


def split_curves(rows: Sequence[EpochRow]) -> tuple[Any, Any]:
    """Return what a plot of a run's losses and one of its accuracy are filled with.

    The values are as in `curve_table`, with an upright line where a phase begins.
    """
    table = curve_table([("", rows)])
    accuracy = table["series"] == "accuracy"
    return tuple(_filled(table[chosen], rows) for chosen in (~accuracy, accuracy))


def _filled(table: pd.DataFrame, rows: Sequence[EpochRow]) -> Any:
    marked = _with_phases(table, rows)
    phases = set(marked["series"]) - set(_COLOURS)
    return gr.update(value=marked, color_map=_COLOURS | dict.fromkeys(phases, _PHASE), visible=len(rows) > 1)


def _with_phases(table: pd.DataFrame, rows: Sequence[EpochRow]) -> pd.DataFrame:
    """Add two points, one above the other, for each change of phase; a line plot joins them."""
    if table.empty:
        return table
    low, high = table["value"].min(), table["value"].max()
    changes = [
        (before.epoch, value, f"{now.phase} begins", "")
        for before, now in pairwise(rows)
        if before.phase != now.phase
        for value in (low, high)
    ]
    return pd.concat([table, pd.DataFrame(changes, columns=table.columns)]) if changes else table
