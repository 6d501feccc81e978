"""Figures of a run, drawn without a display and without matplotlib's global state.

Each figure has a function that returns it and one that writes it as a PNG. Colours are those of Okabe and
Ito (2008), which colour-blind readers tell apart; line styles and markers differ as well.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hfft.files import cannot_write
from hfft.metrics import WORDS, Words
from hfft.report.fonts import class_names, escaped, families, shorten
from hfft.report.trace import PROBE, EpochRow, kept_row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hfft.metrics import Reliability


BLUE, VERMILION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
CLASS_COLOURS = (
    *(BLUE, VERMILION, GREEN, "#CC79A7", "#E69F00", "#56B4E9"),
    *("#6A3D9A", "#8C564B", "#B2DF00", "#004D40", "#F564E3", "#7F7F7F"),
)
"""Of classes in a map: those of Okabe and Ito first, then others that differ from them in lightness."""
DPI = 150  # dots per inch
_NAMED = 40  # up to so many classes each has its name on both axes
_COUNTED = 25  # up to so many classes each cell has room for its count
_CELLS = 250  # so many cells per side are drawn at most
_TARGETS = 6  # so many targets are drawn side by side at most
_TOLD = len(CLASS_COLOURS)  # up to so many classes a map says which colour is which


@dataclass(frozen=True)
class Panel:
    """Images as points of a plane.

    Args:
        title: of the panel.
        train: the training images, shape (images, 2).
        train_labels: their classes.
        points: images that were not trained on, shape (others, 2).
        labels: their classes.
    """

    title: str
    train: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    points: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class MapPlot:
    """Panels of the same images, and which of the images that were not trained on the model has wrong.

    Args:
        panels: side by side.
        wrong: shape (others,).
        split: which images those are that were not trained on, as a word before "images".
    """

    panels: Sequence[Panel]
    wrong: NDArray[np.bool_]
    split: str = ""


def curves_figure(rows: Sequence[EpochRow], path: str | Path, kept: float | None = None) -> None:
    """Write `curves` as a PNG.

    Raises:
        OutputError: the file cannot be written.
    """
    row, which = kept_row(rows, kept)
    word = _words(rows).name
    reached = f"{which} {word} {row.score:.3f} after epoch {row.epoch:g}" if row else f"no {word}"
    _save(curves(rows, kept), path, f"Losses and validation {word} over {len(rows)} epochs; {reached}.")


def confusion_figure(matrix: NDArray[np.int64], labels: Sequence[str], path: str | Path) -> None:
    """Write `confusion_matrix` as a PNG.

    Raises:
        OutputError: the file cannot be written.
    """
    right, total = int(np.trace(matrix)), int(matrix.sum())
    text = f"Confusion matrix of {len(labels)} classes: {right} of {total} images lie on the diagonal."
    _save(confusion_matrix(matrix, labels), path, text)


def reliability_figure(bins: Reliability, path: str | Path) -> None:
    """Write `reliability_diagram` as a PNG.

    Raises:
        OutputError: the file cannot be written.
    """
    text = f"Accuracy over confidence; the expected calibration error is {bins.error:.3f}."
    _save(reliability_diagram(bins), path, text)


def curves(rows: Sequence[EpochRow], kept: float | None = None) -> Figure:
    """Draw the losses and the accuracy (or other score) of each epoch, one above the other.

    A phase that follows another begins at a dotted line; the epoch whose weights were kept is marked: the last one
    where none was chosen. No line leads from a linear probe to a training that did not begin with it.
    """
    figure = _figure(7.5, 6.0)
    upper, lower = figure.subplots(2, 1, sharex=True)
    style: dict[str, Any] = {"markersize": 5 if len(rows) <= 40 else 0, "linewidth": 1.8}
    beside = [row for row in rows if row.phase == PROBE]
    for part in (beside, rows[len(beside) :]):
        epochs, names = [row.epoch for row in part], part is not beside
        upper.plot(
            epochs,
            [row.train_loss for row in part],
            "o--",
            color=VERMILION,
            label="training" if names else None,
            **style,
        )
        upper.plot(
            epochs, [row.eval_loss for row in part], "s-", color=BLUE, label="validation" if names else None, **style
        )
        lower.plot(epochs, [row.score for row in part], "s-", color=BLUE, **style)
    upper.set(ylabel=_words(rows).loss)
    upper.set_title("Loss", pad=20 if _changes(rows) else 6)
    lower.set(ylabel=_words(rows).meaning, xlabel="epoch")
    _mark_kept(rows, kept, lower)
    _set_limits(rows, upper, lower)
    _mark_phases(rows, upper, lower)
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    upper.legend(frameon=False)
    return figure


def confusion_matrix(matrix: NDArray[np.int64], labels: Sequence[str]) -> Figure:
    """Draw how the images of each class (rows) were labelled (columns), shaded by the share of the row.

    Args:
        matrix: counts, shape (labels, labels).
        labels: the classes' names; where they are too many to read, some of their numbers are shown.
    """
    from matplotlib.colors import PowerNorm

    size = len(labels)
    names = class_names(labels) if size <= _NAMED else []
    longest = max(map(_width, names), default=4)
    side = min(max(0.42 * size, 3.0), 8.0)
    figure = _figure(side + 1.7 + 0.09 * longest, side + 1.0 + 0.09 * longest)
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    pooled, step = _pool(shares)
    # Where no counts are written, a square-root scale keeps rare confusions visible.
    norm = PowerNorm(1.0 if size <= _COUNTED else 0.5, vmin=0, vmax=1)
    edges = (-0.5, len(pooled) * step - 0.5)
    image = axes.imshow(pooled, cmap="Blues", norm=norm, interpolation="nearest", extent=(*edges, *edges[::-1]))
    bar = figure.colorbar(image, cax=axes.inset_axes((1.03, 0, 0.04, 1)))
    bar.set_label("share of the true class" if step == 1 else f"largest share among {step} x {step} cells")
    _class_axes(axes, names, size)
    if size <= _COUNTED:
        _write_counts(axes, matrix, shares)
    axes.set_title(f"Confusion matrix\n{int(np.trace(matrix))} of {int(matrix.sum())} images right", fontsize=11)
    return figure


def reliability_diagram(bins: Reliability) -> Figure:
    """Draw accuracy over confidence, bin by bin, above how many images each bin holds (Guo et al., 2017)."""
    figure = _figure(5.5, 6.0)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    edges = np.linspace(0, 1, len(bins.counts) + 1)
    centres, width = (edges[1:] + edges[:-1]) / 2, edges[1] - edges[0]
    upper.plot([0, 1], [0, 1], "--", color=GREY, label="perfectly calibrated")
    upper.bar(centres, np.nan_to_num(bins.accuracy), width * 0.94, color=BLUE, alpha=0.85, label="accuracy")
    upper.plot(bins.confidence, bins.accuracy, "D", color=VERMILION, markersize=5, label="mean confidence")
    upper.set(title=f"Reliability\nexpected calibration error {bins.error:.3f}", ylabel="share of images right")
    upper.set(xlim=(0, 1), ylim=(0, 1.02))
    upper.legend(frameon=False, loc="upper left")
    lower.bar(centres, bins.counts, width * 0.94, color=GREY)
    lower.set(xlabel="confidence", ylabel="images")
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def predicted_figure(values: NDArray[Any], truth: NDArray[Any], targets: Sequence[str], path: str | Path) -> None:
    """Write a plot of predicted against true numbers for each target, side by side, as a PNG.

    Args:
        values: what the model says, shape (images, targets).
        truth: what is true, of the same shape.
        targets: their names; of many the first `_TARGETS` are drawn.
        path: of the PNG.

    Raises:
        OutputError: the file cannot be written.
    """
    names = class_names(targets, "target")[:_TARGETS]
    figure = _figure(4.6 * len(names), 4.6)
    for place, (axes, name) in enumerate(zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True)):
        found, right = values[:, place], truth[:, place]
        ends = [min(found.min(), right.min()), max(found.max(), right.max())]
        axes.plot(ends, ends, "--", color=GREY)
        axes.plot(right, found, "o", color=BLUE, markersize=4, alpha=0.6)
        axes.set_title(name, parse_math=False, family=families([name]))
        axes.set(xlabel="true", ylabel="predicted")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    shown = f"{len(names)} of {len(targets)} targets" if len(names) < len(targets) else ", ".join(targets)
    description = f"Predicted against true values of {len(truth)} images: {shown}."
    _save(figure, path, description.encode(errors="replace").decode())


def sweep_figure(runs: Sequence[tuple[str, float, tuple[float, float] | None]], metric: str, path: str | Path) -> None:
    """Write a dot for each run's metric on the validation images, with its interval, as a PNG.

    Args:
        runs: name, metric and its interval, if there is one, of each run, best first.
        metric: what it is called.
        path: of the PNG.

    Raises:
        OutputError: the file cannot be written.
    """
    figure = _figure(8, 1.2 + 0.28 * len(runs))
    axes = figure.subplots()
    places = range(len(runs), 0, -1)
    scores = [score for _, score, _ in runs]
    ends = [interval or (score, score) for _, score, interval in runs]
    reach = [[score - low, high - score] for score, (low, high) in zip(scores, ends, strict=True)]
    axes.errorbar(scores, places, xerr=np.clip(reach, 0, None).T, fmt="o", color=BLUE, capsize=3)
    names = [shorten(escaped(name), 60) for name, _, _ in runs]
    axes.set_yticks(list(places), names, family=families(names), parse_math=False)
    axes.set_xlabel(f"validation {metric}, 95% interval")
    axes.grid(True, alpha=0.3)
    _save(figure, path, f"Validation {metric} of {len(runs)} runs, best first: {runs[0][0]} with {runs[0][1]:.3f}.")


def depth_figure(parts: Sequence[tuple[str, float, tuple[float, float]]], path: str | Path) -> None:
    """Write accuracy over depth as a PNG.

    Args:
        parts: name, accuracy and its interval, from the first part to the last.
        path: of the PNG.

    Raises:
        OutputError: the file cannot be written.
    """
    figure = _figure(max(5.0, 0.8 * len(parts)), 4)
    axes = figure.subplots()
    names, values = [name for name, _, _ in parts], [value for _, value, _ in parts]
    reach = [[value - low for _, value, (low, _) in parts], [high - value for _, value, (_, high) in parts]]
    axes.errorbar(range(len(parts)), values, reach, fmt="o-", color=BLUE, capsize=3)
    axes.set_xticks(range(len(parts)), names, rotation=45, ha="right")
    axes.set_ylabel("accuracy of a linear probe, 95% interval")
    axes.set_ylim(0, 1.02)
    axes.grid(True, alpha=0.3)
    _save(figure, path, f"Accuracy of linear probes over depth: {', '.join(f'{n} {v:.3f}' for n, v, _ in parts)}.")


def rates_figure(tried: Sequence[float], losses: Sequence[float], chosen: float, path: str | Path) -> None:
    """Write the curve of a learning-rate range test as a PNG.

    Args:
        tried: rising learning rates.
        losses: smoothed training loss at each of them.
        chosen: the learning rate that training takes.
        path: of the PNG.

    Raises:
        OutputError: the file cannot be written.
    """
    figure = _figure(8, 4)
    axes = figure.subplots()
    axes.semilogx(tried, losses, color=BLUE)
    axes.axvline(chosen, color=VERMILION, linestyle="--", label=f"chosen: {chosen:.2g}")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("smoothed training loss")
    axes.grid(True, alpha=0.3)
    axes.legend()
    _save(figure, path, f"Training loss over {len(tried)} rising learning rates; {chosen:.2g} is chosen.")


def feature_map_figure(plot: MapPlot, labels: Sequence[str], path: str | Path) -> None:
    """Write `feature_map` as a PNG.

    Raises:
        OutputError: the file cannot be written.
    """
    wrong = int(plot.wrong.sum())
    text = f"What the head reads, as points of a plane; {wrong} of {len(plot.wrong)} {plot.split}images are mistakes."
    _save(feature_map(plot, labels), path, text)


def feature_map(plot: MapPlot, labels: Sequence[str]) -> Figure:
    """Draw images as points of a plane, coloured by class, mistakes as crosses, one panel beside the other.

    Args:
        plot: the panels.
        labels: the classes' names, which are told where they are few enough.
    """
    figure = _figure(5.2 * len(plot.panels), 5.8)
    for axes, panel in zip(np.atleast_1d(figure.subplots(1, len(plot.panels))), plot.panels, strict=True):
        axes.set_title(panel.title)
        axes.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
        _scatter(axes, panel, plot.wrong)
    _name_classes(figure, plot, labels)
    return figure


def _scatter(axes: Axes, panel: Panel, wrong: NDArray[np.bool_]) -> None:
    """Draw training images as faint dots, the others as dots on them, and mistakes as crosses."""
    beneath = np.array([class_colour(label) for label in panel.train_labels], object)
    colours = np.array([class_colour(label) for label in panel.labels], object)
    _dots(axes, panel.train, beneath, s=8, alpha=0.4, linewidths=0)
    _dots(axes, panel.points[~wrong], colours[~wrong], s=24, edgecolors="white", linewidths=0.6)
    _dots(axes, panel.points[wrong], np.full(int(wrong.sum()), "black"), s=52, marker="x", linewidths=3.4)
    _dots(axes, panel.points[wrong], colours[wrong], s=44, marker="x", linewidths=1.6)


def _dots(axes: Axes, points: NDArray[np.float32], colours: NDArray[Any], **style: Any) -> None:
    axes.scatter(points[:, 0], points[:, 1], c=colours.tolist(), **style)


def _name_classes(figure: Figure, plot: MapPlot, labels: Sequence[str]) -> None:
    """Write above the panels which colour is which class, and below them how many crosses there are."""
    from matplotlib.lines import Line2D

    notes = []
    images = f"{len(plot.wrong):,} {plot.split}images"
    if count := int(plot.wrong.sum()):
        notes.append(f"crosses: {count:,} mistakes of the model among {images}")
    elif plot.split:
        notes.append(f"no mistake of the model among {images}")
    if len(labels) > _TOLD:
        notes.append(f"{len(labels):,} classes share {_TOLD} colours")
    if notes:
        figure.supxlabel("; ".join(notes), fontsize=10)
    if len(labels) > _TOLD:
        return
    names = class_names(labels)
    dots = [
        Line2D([], [], marker="o", linestyle="", color=class_colour(label), label=name)
        for label, name in enumerate(names)
    ]
    # Inches of an entry: the dot and the spaces around it, and so much for a wide letter.
    entry = 0.6 + 0.1 * max(map(_width, names))
    columns = max(1, min(5 * len(plot.panels), int(figure.get_figwidth() / entry)))
    legend = figure.legend(handles=dots, loc="outside upper center", ncols=columns, frameon=False)
    for text in legend.get_texts():
        text.set(family=families(names), parse_math=False, fontsize=9)


def class_colour(label: int) -> str:
    """Return the colour of a class in a map, as CSS writes it; after a dozen classes they repeat. -1 is of no class."""
    return GREY if label < 0 else CLASS_COLOURS[label % len(CLASS_COLOURS)]


def _figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches whose layout keeps every text inside."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="compressed", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: str | Path, description: str) -> None:
    try:
        figure.savefig(path, format="png", metadata={"Description": description})
    except OSError as error:
        raise cannot_write(path, error) from error


def _words(rows: Sequence[EpochRow]) -> Words:
    return WORDS[rows[0].metric if rows else "accuracy"]


def _changes(rows: Sequence[EpochRow]) -> list[int]:
    return [index for index in range(1, len(rows)) if rows[index].phase != rows[index - 1].phase]


def _mark_phases(rows: Sequence[EpochRow], upper: Axes, lower: Axes) -> None:
    """Draw a line where a phase follows another, and write each phase's name above its stretch."""
    changes = _changes(rows)
    if not changes:
        return
    borders = [(rows[index - 1].epoch + rows[index].epoch) / 2 for index in changes]
    for place in borders:
        for axes in (upper, lower):
            axes.axvline(place, color=GREY, linestyle=":", linewidth=1.2)
    left, right = upper.get_xlim()
    starts = [left, *borders]
    for index, start, end in zip([0, *changes], starts, [*borders, right], strict=True):
        room = int((end - start) / (right - left) * 90)  # so many small letters are as wide as the axes
        text = shorten(rows[index].phase, room) if room >= 4 else ""
        upper.text(
            start,
            1.02,
            text,
            transform=upper.get_xaxis_transform(),
            parse_math=False,
            fontsize=8,
            color=GREY,
        )


def _mark_kept(rows: Sequence[EpochRow], kept: float | None, axes: Axes) -> None:
    row, which = kept_row(rows, kept)
    word = _words(rows).name
    title = f"{word[0].upper() if word.islower() else word[0]}{word[1:]} on the validation images"
    if row is not None:
        axes.plot([row.epoch], [row.score], "*", color=GREEN, markersize=15, zorder=5, clip_on=False)
        title += f"; {which} (star): {row.score:.3f} after epoch {row.epoch:g}"
    axes.set_title(title, fontsize=11)


def _set_limits(rows: Sequence[EpochRow], upper: Axes, lower: Axes) -> None:
    """Start losses at 0, keep accuracy within 0 and 1 (R2 may be below 0), and put ticks on whole epochs."""
    from matplotlib.ticker import MaxNLocator

    lower.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
    losses = [value for row in rows for value in (row.train_loss, row.eval_loss) if math.isfinite(value)]
    highest = max(losses, default=1.0) or 1.0
    upper.set_ylim(-0.02 * highest, 1.08 * highest)  # below 0 there is room for half a marker
    accuracies = [row.score for row in rows if math.isfinite(row.score)] or [0.0, 1.0]
    margin = max(0.02, 0.1 * (max(accuracies) - min(accuracies)))
    lowest = min(accuracies) - margin
    lower.set_ylim(max(0.0, lowest) if min(accuracies) >= 0 else lowest, min(1.0, max(accuracies) + margin))
    if rows:
        first, last = rows[0].epoch, rows[-1].epoch
        margin = max(0.5, 0.03 * (last - first))
        lower.set_xlim(first - margin, last + margin)


def _pool(shares: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """Return blocks' maxima and the blocks' side, so that no cell is smaller than a few dots of the figure."""
    step = math.ceil(len(shares) / _CELLS)
    if step <= 1:
        return shares, 1
    padded = np.pad(shares, (0, -len(shares) % step))
    blocks = len(padded) // step
    return padded.reshape(blocks, step, blocks, step).max(axis=(1, 3)), step


def _class_axes(axes: Axes, names: Sequence[str], size: int) -> None:
    """Label both axes with the names, or, without names, with some of the labels' numbers."""
    axes.set(xlabel="predicted", ylabel="true")
    if not names:
        step = 10 ** math.floor(math.log10(size / 4))
        axes.set_xticks(range(0, size, step))
        axes.set_yticks(range(0, size, step))
        axes.set(xlabel="predicted label, by number", ylabel="true label, by number")
        return
    font = 9 if size <= 25 else 7
    style: dict[str, Any] = {"fontsize": font, "family": families(names), "parse_math": False}
    axes.set_xticks(range(size), names, rotation=45 if size > 2 else 0, **style)
    axes.set_yticks(range(size), names, **style)
    if size > 2:
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")


def _write_counts(axes: Axes, matrix: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    font = 10 if len(matrix) <= 12 else 7
    for row, column in zip(*np.nonzero(matrix), strict=True):
        colour = "white" if shares[row, column] > 0.55 else "black"
        text = f"{matrix[row, column]}"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=font - (len(text) > 4))


def _width(text: str) -> int:
    """Return how wide a text is, in Latin letters; Chinese, Japanese and Korean ones are twice as wide."""
    return sum(1 + (unicodedata.east_asian_width(letter) in "FW") for letter in text)
