"""Curves and figures as the Space's widgets take them."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import pandas as pd
from PIL import Image

from hfft.inference.runs import FinishedRun
from hfft.metrics import WORDS
from hfft.report.card_metadata import BASELINE_NAMES
from hfft.report.plots import BLUE, CLASS_COLOURS, GREEN, VERMILION
from hfft.report.trace import EpochRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure


LOSSES = {"training loss": VERMILION, "validation loss": BLUE}
_COLOURS = {**LOSSES, **{words.name: GREEN for words in WORDS.values()}}


def curve_plot(title: str) -> gr.LinePlot:
    """Return a line plot of `curve_table`, one line per series; it is hidden until it is filled."""
    return gr.LinePlot(
        x="epoch",
        y="value",
        color="series",
        color_map=_COLOURS,
        title=title,
        x_title="epoch",
        y_title=" ",
        y_lim=[0, 1] if "ccuracy" in title else [None, None],
        height=260,
        tooltip="axis",
        visible=False,
        label=title,
        show_label=False,
    )


def plot_update(table: pd.DataFrame, title: str) -> Any:
    """Return a plot filled with a table, under a title.

    It is hidden where there is no line to draw, which one epoch does not make. Epochs are categories on their axis,
    since a scale of numbers has ticks between them.
    """
    order = sorted(table["epoch"].unique(), key=lambda text: float(text.partition(":")[0]))
    whole = not (table["series"].isin(LOSSES) | (table["value"] < 0)).any()  # an R2 has no least value
    limits = [0, 1] if whole else [None, None]
    return gr.update(value=table, sort=order, visible=len(order) > 1, y_lim=limits, title=title, label=title)


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


def curve_table(epochs: Sequence[EpochRow]) -> pd.DataFrame:
    """Return a run's epochs in long form: epoch (as text), value, series (a loss, or the metric that decides)."""
    rows = [
        (f"{row.epoch:g}", value, series)
        for row in epochs
        for series, value in (
            ("training loss", row.train_loss),
            ("validation loss", row.eval_loss),
            (row.word, row.score),
        )
        if math.isfinite(value)
    ]
    return pd.DataFrame(rows, columns=["epoch", "value", "series"])


def split_curves(rows: Sequence[EpochRow]) -> tuple[Any, Any]:
    """Return what a plot of a run's losses and one of the metric that decides are filled with.

    The values are as in `curve_table`; the first epoch of each of several phases is marked with the phase's name.
    """
    table = curve_table(rows)
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


# Runs in one plot ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One line of a plot.

    Args:
        name: what the legend says.
        points: epochs with their values, in order.
        level: whether it is a value that others are held against, the same in every epoch.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    level: bool = False


def compared(runs: Sequence[FinishedRun]) -> str:
    """Return what became of runs on their validation images, epoch by epoch: the metric that decides, and the loss.

    Nothing is drawn of runs of one epoch, which makes no line.
    """
    word = WORDS[runs[0].record.solved.metric]
    scores = [Line(run.name, _points((row.epoch, row.score) for row in run.rows)) for run in runs]
    losses = [Line(run.name, _points((row.epoch, row.eval_loss) for row in run.rows)) for run in runs]
    epochs = sorted({epoch for line in scores for epoch, _ in line.points})
    ends = epochs[:1] + epochs[-1:]
    levels = [Line(name, tuple((end, value) for end in ends), True) for name, value in baselines(runs).items()]
    drawn = (
        lines_drawn(f"Validation {word.name}", [*scores, *levels], share=word.name != "R2"),
        lines_drawn(f"Validation loss: {word.loss}", losses),
    )
    return f'<div class="hf-lines">{"".join(drawn)}</div>' if any(drawn) else ""


def _points(values: Iterable[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    return tuple((epoch, value) for epoch, value in values if math.isfinite(value))


_WIDE, _HIGH, _LEFT, _RIGHT, _TOP, _FOOT = 640, 240, 48, 12, 12, 24
_DASHES = ("none", "12 6", "3 5", "18 5 3 5")
_THIN, _STEP = 2.0, 1.5  # width of the uppermost line, and what each below it is wider


def lines_drawn(title: str, lines: Sequence[Line], share: bool = False) -> str:
    """Return a plot of lines over epochs with its legend, nothing where no line has two epochs.

    A line is broader than those that are drawn over it, and those are dashed, so that equal ones are all seen; which
    ones are equal is said.

    Args:
        title: of the plot.
        lines: in the order of the legend.
        share: whether values are shares, drawn from 0 to 1.
    """
    lines = [line for line in lines if line.points]
    values = [value for line in lines for _, value in line.points]
    epochs = sorted({epoch for line in lines for epoch, _ in line.points})
    if len(epochs) < 2:
        return ""
    top, low = (1.0 if share else max(*values, 0.0) or 1.0), min(*values, 0.0)

    def place(epoch: float, value: float) -> tuple[float, float]:
        across = (epoch - epochs[0]) / (epochs[-1] - epochs[0])
        up = (value - low) / (top - low)
        return _LEFT + across * (_WIDE - _LEFT - _RIGHT), _HIGH - _FOOT - up * (_HIGH - _FOOT - _TOP)

    body = "".join(_drawn(line, _style(lines, line), place) for line in lines)
    alt = escape("; ".join((title, *(f"{line.name}: {line.points[-1][1]:.3f} at the end" for line in lines))))
    legend = "".join(f"<li>{_sample(_style(lines, line))} {escape(line.name)}</li>" for line in lines)
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg role="img" aria-label="{alt}" viewBox="0 0 {_WIDE} '
        f'{_HIGH}">{_axes(epochs, (low, top), place, share)}{body}</svg><ul>{legend}</ul>{_said_equal(lines)}</figure>'
    )


def _style(lines: Sequence[Line], line: Line) -> tuple[str, float, str]:
    """Return a line's colour, width and dashes."""
    if line.level:
        return "currentColor", _THIN, ("6 3 1 3", "1 3")[[each for each in lines if each.level].index(line) % 2]
    number = lines.index(line)
    over = sum(not each.level for each in lines) - 1 - number
    return CLASS_COLOURS[number % len(CLASS_COLOURS)], _THIN + _STEP * over, _DASHES[number % len(_DASHES)]


def _drawn(line: Line, style: tuple[str, float, str], place: Callable[[float, float], tuple[float, float]]) -> str:
    colour, width, dashes = style
    points = [place(*point) for point in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    text = f'<polyline points="{path}" stroke="{colour}" stroke-width="{width:g}" stroke-dasharray="{dashes}"/>'
    if line.level:
        return text
    told = [escape(f"{line.name}, epoch {epoch:g}: {value:.3f}") for epoch, value in line.points]
    return text + "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{width + 1:g}" fill="{colour}"><title>{said}</title></circle>'
        for (x, y), said in zip(points, told, strict=True)
    )


def _sample(style: tuple[str, float, str]) -> str:
    colour, width, dashes = style
    return (
        f'<svg viewBox="0 0 40 12" aria-hidden="true"><line x1="0" x2="40" y1="6" y2="6" stroke="{colour}" '
        f'stroke-width="{width:g}" stroke-dasharray="{dashes}"/></svg>'
    )


def _axes(
    epochs: Sequence[float],
    ends: tuple[float, float],
    place: Callable[[float, float], tuple[float, float]],
    share: bool,
) -> str:
    """Return three level lines with their values, and the whole epochs, as many as there is room for."""
    low, top = ends
    text = ""
    for value in (low, (low + top) / 2, top):
        (left, y), (right, _) = place(epochs[0], value), place(epochs[-1], value)
        named = f"{value:.0%}" if share else f"{value:.2g}"
        text += f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        text += f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{named}</text>'
    whole = [epoch for epoch in epochs if epoch == int(epoch)] or [epochs[0], epochs[-1]]
    for epoch in whole[:: math.ceil(len(whole) / 12)]:
        x, _ = place(epoch, low)
        text += f'<text x="{x:.1f}" y="{_HIGH - 6}" text-anchor="middle">{epoch:g}</text>'
    return text


def _said_equal(lines: Sequence[Line]) -> str:
    """Return a line on those that lie on one another from end to end; nothing where none do."""
    by_points: dict[tuple[tuple[float, float], ...], list[str]] = {}
    for line in lines:
        by_points.setdefault(line.points, []).append(line.name)
    equal = [" and ".join(names) for names in by_points.values() if len(names) > 1]
    return f'<p class="hf-note">Equal in every epoch: {escape("; ".join(equal))}.</p>' if equal else ""
