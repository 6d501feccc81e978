"""The most confident mistakes: what the model is most confident of and gets wrong, as rows and as an image sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from hfft.data.images import ImageSet
from hfft.errors import HfftError
from hfft.files import cannot_write
from hfft.report.fonts import class_names, families

MOST = 20  # mistakes on a sheet
_COLUMNS = 5
_SIDE = 160  # pixels of each picture
_WIDTH = 2.0  # inches of each column
_ROOM = 1.85  # of them for a caption


@dataclass(frozen=True)
class Mistake:
    """One image that the model labelled wrongly.

    Args:
        row: of the image in its set.
        file: the image's file.
        label: what it is.
        prediction: what the model said.
        probability: that the model gave to what it said, 0 to 1.
    """

    row: int
    file: str
    label: str
    prediction: str
    probability: float


def find_mistakes(
    images: ImageSet, labels: Sequence[str], probabilities: NDArray[Any], most: int | None = MOST
) -> list[Mistake]:
    """Return the mistakes, the most confident first.

    Args:
        images: the evaluated set.
        labels: names of the classes.
        probabilities: that the model gives, shape (images, labels).
        most: how many to return at most; None for all.
    """
    chosen, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(chosen != images.labels)
    ranked = wrong[np.argsort(-sure[wrong], kind="stable")][:most]
    return [
        Mistake(int(row), images.files[row], labels[images.labels[row]], labels[chosen[row]], float(sure[row]))
        for row in ranked
    ]


def write_mistakes(path: Path, images: ImageSet, labels: Sequence[str], mistakes: Sequence[Mistake]) -> bool:
    """Write a PNG with each mistaken image over its true and its predicted label; without mistakes, none.

    Args:
        path: of the PNG.
        images: the evaluated set.
        labels: names of all classes.
        mistakes: of `find_mistakes`.

    Returns:
        Whether there was a mistake; where there was none, an older sheet is removed.

    Raises:
        OutputError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    try:
        if not mistakes:
            path.unlink(missing_ok=True)
            return False
        rows = -(-len(mistakes) // _COLUMNS)
        figure = Figure(figsize=(_WIDTH * _COLUMNS, 2.5 * rows + 0.5), dpi=110, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        figure.suptitle(f"The {len(mistakes)} most confident mistakes" if len(mistakes) > 1 else "The one mistake")
        for axes in figure.subplots(rows, _COLUMNS, squeeze=False).flat:
            axes.set_axis_off()
        names = dict(zip(labels, class_names(labels), strict=True))
        fonts = families(names.values())
        for axes, mistake in zip(figure.axes, mistakes, strict=False):
            axes.imshow(_picture(images, mistake.row))
            title = axes.set_title(_caption(mistake, names), fontsize=8, parse_math=False, family=fonts)
            title.set_fontsize(8 * min(1.0, _ROOM * figure.dpi / title.get_window_extent().width))
        # Whoever is sent the picture has no business with the folders.
        ends = [PurePath(each.file.replace("\\", "/")).name for each in mistakes[:3]]
        told = zip(ends, mistakes, strict=False)
        text = "; ".join(f"{name}: {each.label}, called {each.prediction}" for name, each in told)
        description = f"The most confident mistakes: {text}".encode(errors="replace").decode()
        figure.savefig(path, format="png", metadata={"Description": description})
    except OSError as error:
        raise cannot_write(path, error) from error
    return True


def _caption(mistake: Mistake, names: Mapping[str, str]) -> str:
    return f"is {names[mistake.label]}\nsaid {names[mistake.prediction]} ({mistake.probability:.2f})"


def _picture(images: ImageSet, row: int) -> Image.Image:
    """The image within a grey square; an image that has gone since is the square alone."""
    try:
        return ImageOps.pad(images.image(row), (_SIDE, _SIDE), color=(235, 235, 235))
    except HfftError:
        return Image.new("RGB", (_SIDE, _SIDE), (235, 235, 235))
