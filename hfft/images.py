"""An ImageSet: labelled images that stay files or bytes until one of them is looked at."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from hfft.content import file_digests
from hfft.errors import DataError

IMAGE_COLUMN = "image"
_BATCH = 1000


@dataclass(frozen=True)
class ImageSet:
    """Rows of images and labels, in a fixed order.

    Args:
        dataset: one column ``image`` of type ``datasets.Image(decode=False)``.
        labels: class index of each row, shape (rows,).
        name: what errors and reports call the set.
        root: the folder that file names are given relative to; None where images are bytes.
    """

    dataset: datasets.Dataset
    labels: NDArray[np.int64]
    name: str
    root: Path | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: Sequence[int] | NDArray[np.int64]) -> ImageSet:
        """The set of these rows, in this order."""
        indices = np.asarray(rows, dtype=np.int64)
        return ImageSet(self.dataset.select(indices), self.labels[indices], self.name, self.root)

    @property
    def place(self) -> str:
        """Where the images are, for errors: the folder, or the name of the set."""
        return self.name if self.root is None else str(self.root)

    @cached_property
    def files(self) -> list[str]:
        """A name for each row: its path below `root`, or the name of the set and the row."""
        # Flattened, so that paths are read without the images' bytes beside them.
        paths = self.dataset.flatten().select_columns([f"{IMAGE_COLUMN}.path"])[:][f"{IMAGE_COLUMN}.path"]
        return [self._display(path, row) for row, path in enumerate(paths)]

    def image(self, row: int) -> Image.Image:
        """The first frame of a row's image, upright, in RGB.

        Raises:
            DataError: the file is missing, damaged or no image.
        """
        value = self.dataset[int(row)][IMAGE_COLUMN]
        name = self._display(value["path"], row)
        source = value["path"] if value["bytes"] is None else io.BytesIO(value["bytes"])
        return open_image(source, name)

    def contents(self) -> list[str]:
        """SHA-256 of each image's bytes, as 64 hexadecimal digits: what an image is, whatever its name.

        Raises:
            DataError: a file is missing.
        """
        return self._contents

    @cached_property
    def _contents(self) -> list[str]:
        # Kept, since a file that vanishes after it was trained on must not cost the results.
        digests, files = [], {}
        for row, value in enumerate(self.values()):
            content = value["bytes"]
            digests.append("" if content is None else hashlib.sha256(content).hexdigest())
            if content is None:
                files[row] = value["path"]
        for row, digest in zip(files, file_digests(list(files.values())), strict=True):
            digests[row] = digest
        return digests

    def fingerprint(self) -> str:
        """SHA-256 over the contents of the images in order, without names and labels.

        Raises:
            DataError: a file is missing.
        """
        return hashlib.sha256("".join(self.contents()).encode()).hexdigest()

    def values(self) -> Iterator[dict[str, Any]]:
        """Yield each row as a mapping of ``path`` and ``bytes``, one of which may be None."""
        for start in range(0, len(self), _BATCH):
            yield from self.dataset[start : start + _BATCH][IMAGE_COLUMN]

    def _display(self, path: str | None, row: int) -> str:
        if not path:
            return f"{self.name}#{row}"
        return path if self.root is None else path.removeprefix(f"{self.root}{os.sep}").replace(os.sep, "/")


def open_image(source: str | os.PathLike[str] | io.BytesIO, name: str) -> Image.Image:
    """The first frame of an image file, turned upright as its EXIF data says, in RGB.

    Args:
        source: a path, or the file's bytes.
        name: what an error calls the image.

    Raises:
        DataError: the file is missing, damaged or no image.
    """
    try:
        with Image.open(source) as opened:
            opened.load()
            return upright_rgb(opened)
    except Exception as error:  # Pillow's decoders raise a dozen types for damaged files.
        reason = "no image that Pillow knows" if isinstance(error, UnidentifiedImageError) else str(error)
        advice = "repair the file, or leave it out as --on_bad_image skip does"
        raise DataError(f"cannot read the image {name}: {reason}; {advice}") from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """A copy of an open image, turned upright as its EXIF data says, in RGB."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        # 16-bit grey, which Pillow would clip at 255 instead of scaling.
        pixels = np.asarray(image).astype(np.int64) >> 8
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
