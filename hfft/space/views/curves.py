"""Curves and figures as the Space's widgets take them."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import pandas as pd
from PIL import Image

from hfft.inference.runs import FinishedRun
from hfft.metrics import WORDS
from hfft.report.card_metadata import BASELINE_NAMES
from hfft.report.plots import BLUE, GREEN, VERMILION
from hfft.report.trace import EpochRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure


LOSSES = {"training loss": VERMILION, "validation loss": BLUE}
_COLOURS = {**LOSSES, **{words.name: GREEN for words in WORDS.values()}}


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


def plot_update(table: pd.DataFrame, title: str | None = None) -> Any:
    """Return a plot filled with a table, perhaps under another title.

    It is hidden where there is no line to draw, which one epoch does not make. Epochs are categories on their axis,
    since a scale of numbers has ticks between them.
    """
    order = sorted(table["epoch"].unique(), key=lambda text: float(text.partition(":")[0]))
    named = {} if title is None else {"title": title, "label": title}
    whole = not (table["series"].isin(LOSSES) | (table["value"] < 0)).any()  # an R2 has no least value
    limits = [0, 1] if whole else [None, None]
    return gr.update(value=table, sort=order, visible=len(order) > 1, y_lim=limits, **named)


def figure_image(figure: Figure) -> Image.Image:
    """Return a matplotlib figure as an image."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    stream.seek(0)
    return Image.open(stream)


def baselines(runs: Sequence[FinishedRun]) -> dict[str, float]:
    """Return by name what runs are held against, by the metric that decides, where it is of the same images."""
    contents = {run.record.data.sha256.get("validation") for run in runs}
    if len(contents) > 1 or None in contents:
        return {}
    found, several = {}, len({run.record.base.id for run in runs}) > 1
    for run in runs:
        known = run.record.baselines if run.record.per_class_split == "validation" else {}
        metric = run.record.solved.metric
        for name in (name for name in BASELINE_NAMES if metric in known.get(name, {})):
            base = f" ({Path(run.record.base.id).name})" if several and name == "linear_probe" else ""
            found[BASELINE_NAMES[name] + base] = known[name][metric]
    return found


def curve_table(
    runs: Sequence[tuple[str, Sequence[EpochRow]]], lines: Mapping[str, float] | None = None
) -> pd.DataFrame:
    """Return the epochs of runs in long form: epoch (as text), value, series (a loss, or the metric that decides), run.

    Args:
        runs: name and epochs of each.
        lines: values of that metric that are drawn as level lines beside them, by name.
    """
    word = next((row.word for _, epochs in runs for row in epochs), "accuracy")
    rows = [
        (f"{epoch:g}", value, word, name)
        for name, value in (lines or {}).items()
        for epoch in sorted({row.epoch for _, epochs in runs for row in epochs})
    ]
    for name, epochs in runs:
        for row in epochs:
            for series, value in (
                ("training loss", row.train_loss),
                ("validation loss", row.eval_loss),
                (row.word, row.score),
            ):
                if math.isfinite(value):
                    rows.append((f"{row.epoch:g}", value, series, name))
    return pd.DataFrame(rows, columns=["epoch", "value", "series", "run"])


def split_curves(rows: Sequence[EpochRow]) -> tuple[Any, Any]:
    """Return what a plot of a run's losses and one of the metric that decides are filled with.

    The values are as in `curve_table`; the first epoch of each of several phases is marked with the phase's name.
    """
    table = curve_table([("", rows)])
    table["epoch"] = table["epoch"].replace(_phase_marks(rows))
    losses, words = table["series"].isin(LOSSES), WORDS[rows[0].metric if rows else "accuracy"]
    return plot_update(table[losses], f"Loss: {words.loss}"), plot_update(table[~losses], words.title)


def _phase_marks(rows: Sequence[EpochRow]) -> dict[str, str]:
    """Return by epoch, as text, what it is called where a phase begins; nothing where there is but one phase."""
    marks: dict[str, str] = {}
    for before, row in zip((None, *rows), rows, strict=False):
        if before is None or before.phase != row.phase:
            marks[f"{row.epoch:g}"] = f"{row.epoch:g}: {row.phase}"
    return marks if len(marks) > 1 else {}
