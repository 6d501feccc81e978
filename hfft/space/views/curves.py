"""Curves and figures as the Space's widgets take them."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr
import pandas as pd
from PIL import Image

from hfft.report.plots import BLUE, GREEN, VERMILION
from hfft.report.trace import EpochRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_COLOURS = {"training loss": VERMILION, "validation loss": BLUE, "accuracy": GREEN}


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
    """Return a plot filled with a table; it is hidden where there is no line to draw, which one epoch does not make.

    Epochs are categories on their axis, since a scale of numbers has ticks between them.
    """
    order = sorted(table["epoch"].unique(), key=lambda text: float(text.partition(":")[0]))
    return gr.update(value=table, sort=order, visible=len(order) > 1)


def figure_image(figure: Figure) -> Image.Image:
    """Return a matplotlib figure as an image."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    stream.seek(0)
    return Image.open(stream)


def curve_table(runs: Sequence[tuple[str, Sequence[EpochRow]]]) -> pd.DataFrame:
    """Return the epochs of runs in long form: epoch (as text), value, series (loss or accuracy), run."""
    rows = []
    for name, epochs in runs:
        for row in epochs:
            for series, value in (
                ("training loss", row.train_loss),
                ("validation loss", row.eval_loss),
                ("accuracy", row.score),
            ):
                if math.isfinite(value):
                    rows.append((f"{row.epoch:g}", value, series, name))
    return pd.DataFrame(rows, columns=["epoch", "value", "series", "run"])


def split_curves(rows: Sequence[EpochRow]) -> tuple[Any, Any]:
    """Return what a plot of a run's losses and one of its accuracy are filled with.

    The values are as in `curve_table`; the first epoch of each of several phases is marked with the phase's name.
    """
    table = curve_table([("", rows)])
    table["epoch"] = table["epoch"].replace(_phase_marks(rows))
    accuracy = table["series"] == "accuracy"
    return plot_update(table[~accuracy]), plot_update(table[accuracy])


def _phase_marks(rows: Sequence[EpochRow]) -> dict[str, str]:
    """Return by epoch, as text, what it is called where a phase begins; nothing where there is but one phase."""
    marks: dict[str, str] = {}
    for before, row in zip((None, *rows), rows, strict=False):
        if before is None or before.phase != row.phase:
            marks[f"{row.epoch:g}"] = f"{row.epoch:g}: {row.phase}"
    return marks if len(marks) > 1 else {}
