"""An ImageSet: labelled images that stay files or bytes until one of them is looked at."""

from __future__ import annotations

import hashlib
import io
import json
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

    def image(self, row: int, least: int | None = None) -> Image.Image:
        """The first frame of a row's image, upright, in RGB.

        Args:
            row: its row.
            least: as for `open_image`.

        Raises:
            DataError: the file is missing, damaged or no image.
        """
        value = self.dataset[int(row)][IMAGE_COLUMN]
        name = self._display(value["path"], row)
        source = value["path"] if value["bytes"] is None else io.BytesIO(value["bytes"])
        return open_image(source, name, least)

    def fingerprint(self) -> str:
        """SHA-256 over the images in order, without the labels.

        An image in memory counts by its bytes, a file by its relative path, size and time of change.

        Raises:
            DataError: a file is missing.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        # Kept, since a file that vanishes after it was trained on must not cost the results.
        digest = hashlib.sha256()
        for value in self.values():
            part = value["bytes"] if value["bytes"] is not None else self._stamp(value["path"])
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
        return digest.hexdigest()

    def values(self) -> Iterator[dict[str, Any]]:
        """Yield each row as a mapping of ``path`` and ``bytes``, one of which may be None."""
        for start in range(0, len(self), _BATCH):
            yield from self.dataset[start : start + _BATCH][IMAGE_COLUMN]

    def _display(self, path: str | None, row: int) -> str:
        if not path:
            return f"{self.name}#{row}"
        return path if self.root is None else path.removeprefix(f"{self.root}{os.sep}").replace(os.sep, "/")

    def _stamp(self, path: str) -> bytes:
        try:
            status = os.stat(path)
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}; put the file back or leave it out") from error
        return json.dumps([self._display(path, 0), status.st_size, status.st_mtime_ns]).encode()


def open_image(source: str | os.PathLike[str] | io.BytesIO, name: str, least: int | None = None) -> Image.Image:
    """The first frame of an image file, turned upright as its EXIF data says, in RGB.

    Args:
        source: a path, or the file's bytes.
        name: what an error calls the image.
        least: pixels that both sides must keep; a JPEG may then be decoded at a half, a quarter or an eighth of its
            size, which its format gives for less work than the whole. None for the whole.

    Raises:
        DataError: the file is missing, damaged or no image.
    """
    try:
        with Image.open(source) as opened:
            if least is not None:
                opened.draft(None, (least, least))
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
