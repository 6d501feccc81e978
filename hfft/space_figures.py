"""Curves and figures as the Space's widgets take them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import gradio as gr
from PIL import Image

from hfft.figures import BLUE, GREEN, VERMILION

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {"training loss": VERMILION, "validation loss": BLUE, "accuracy": GREEN}


def curve_plot(title: str, colour_by: str, visible: bool = True) -> gr.LinePlot:
    """Return a line plot of `hfft.space_handlers.curve_table`, one line per series or per run."""
    return gr.LinePlot(
        x="epoch",
        y="value",
        color=colour_by,
        color_map=_COLOURS if colour_by == "series" else None,
        title=title,
        x_title="epoch",
        y_title=" ",
        height=260,
        tooltip="axis",
        visible=visible,
    )


def figure_image(figure: Figure) -> Image.Image:
    """Return a matplotlib figure as an image."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    stream.seek(0)
    return Image.open(stream)
