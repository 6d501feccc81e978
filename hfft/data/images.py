"""An ImageSet: labelled images that stay files or bytes until one of them is looked at."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from hfft.data.content import file_digests
from hfft.data.grey import span_of
from hfft.data.layout import FORMATS
from hfft.errors import DataError
from hfft.tasks.contract import Targets, Task
from hfft.tasks.single_label import SINGLE_LABEL

if TYPE_CHECKING:
    import datasets

MAX_PIXELS = 89_000_000
"""Most pixels of an image that is decoded, anywhere; just below what Pillow warns of."""
MAX_ASPECT = 20
"""Most pixels of an image's longer side per pixel of its shorter side."""
READING = 3
"""Raised whenever `upright_rgb` gives other pixels for the same file: cached activations belong to the pixels."""
IMAGE_COLUMN = "image"
NO_IMAGE = "not an image of a format that hfft reads"
_BATCH = 1000
EXIF_ORIENTATION = 0x0112
_WAYS = ["FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90"]
_TURNS: dict[Any, Image.Transpose] = {
    orientation: Image.Transpose[way] for orientation, way in enumerate(_WAYS, start=2)
}
_TOLD_BY = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
"""Where an image's `info` holds its orientation."""


@dataclass(frozen=True)
class ImageSet:
    """Rows of images and labels, in a fixed order.

    Args:
        dataset: one column ``image`` of type ``datasets.Image(decode=False)``.
        labels: of each row as its task encodes them, first dimension the rows: label numbers, or a number per output.
        name: what errors and reports call the set.
        root: the folder that file names are given relative to; None where images are bytes.
        groups: which images belong together, shape (rows,), so that a split keeps them on one side; None where each
            stands for itself.
        task: what the labels mean.
        file: the table that lists them or the archive that holds them, as it was given; None for folders.
        rows: of each image in the data set it was read from, shape (rows,), by which images without a path are named;
            None where all are here.
    """

    dataset: datasets.Dataset
    labels: Targets
    name: str
    root: Path | None = None
    groups: NDArray[np.str_] | None = None
    task: Task = SINGLE_LABEL
    file: Path | None = None
    rows: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: Sequence[int] | NDArray[np.int64]) -> ImageSet:
        """The set of these rows, in this order."""
        indices = np.asarray(rows, dtype=np.int64)
        groups = None if self.groups is None else self.groups[indices]
        rows = indices if self.rows is None else self.rows[indices]
        dataset = self.dataset.select(indices)
        return replace(self, dataset=dataset, labels=self.labels[indices], groups=groups, rows=rows)

    @property
    def strata(self) -> NDArray[np.int64]:
        """The stratum of each row, shape (rows,): a sample keeps their shares."""
        return self.task.strata(self.labels)

    @property
    def place(self) -> str:
        """Where the images are, for errors: the file, the folder, or the name of the set."""
        return str(self.file or self.root or self.name)

    @cached_property
    def files(self) -> list[str]:
        """A name for each row: its path below `root`, or the name of the set and the row in the whole of it."""
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
            return f"{self.name}#{row if self.rows is None else self.rows[row]}"
        return path if self.root is None else path.removeprefix(f"{self.root}{os.sep}").replace(os.sep, "/")


def concatenated(sets: Sequence[ImageSet]) -> ImageSet:
    """Return the images of several labelled sets as one, whose files have whole paths where their folders differ.

    Args:
        sets: at least one.
    """
    if len(sets) == 1:
        return sets[0]
    import datasets
    import pyarrow as pa
    from datasets.table import InMemoryTable

    # One table: of tables that `datasets` itself puts together, a column within a column cannot be selected.
    table = pa.concat_tables([images.dataset.with_format("arrow")[:] for images in sets])
    info = datasets.DatasetInfo(features=sets[0].dataset.features)
    groups = [images.groups for images in sets if images.groups is not None]
    return replace(
        sets[0],
        dataset=datasets.Dataset(InMemoryTable(table), info),
        labels=np.concatenate([images.labels for images in sets]),
        root=sets[0].root if len({images.root for images in sets}) == 1 else None,
        file=sets[0].file if len({images.file for images in sets}) == 1 else None,
        groups=np.concatenate(groups) if len(groups) == len(sets) else None,
        rows=None,
    )


_LEAVE_OUT = "leave it out (in training --on_bad_image skip does)"


class UnreadableImageError(DataError):
    """An image is missing, damaged or not an image.

    Attributes:
        reason: why, without advice, which depends on who asks.
    """

    reason: str = ""


class BoundsError(DataError):
    """An image has too many pixels to be decoded."""

    problem: ClassVar[str] = "bomb"


class TooLongError(BoundsError):
    """An image is too long to be scaled to a model's input."""

    problem: ClassVar[str] = "too_long"


@dataclass(frozen=True)
class Bounds:
    """How large an image may be, by the header alone.

    A processor scales the shorter side to the model's input, T pixels, and cuts the middle out of the result, which
    has aspect times T x T pixels: at most 20 times the input's area here. 16,000 x 1 pixels would take 3 GB.

    Args:
        pixels: width times height.
        aspect: longer side over shorter side.
    """

    pixels: int = MAX_PIXELS
    aspect: float = MAX_ASPECT

    def check(self, size: tuple[int, int]) -> None:
        """Hold a size against the bounds.

        Args:
            size: width and height in pixels.

        Raises:
            BoundsError: it has too many pixels, or as `TooLongError` is too long.
        """
        shown = f"{size[0]} x {size[1]} pixels"
        if size[0] * size[1] > self.pixels:
            raise self.too_large(shown)
        if max(size) > self.aspect * min(size):
            raise TooLongError(
                f"too long ({shown}): the longer side may be at most {self.aspect:g} times the shorter one, which is "
                "scaled to the model's input; crop it"
            )

    def too_large(self, shown: str) -> BoundsError:
        """Return the error of too many pixels, given how many there are in words."""
        return BoundsError(f"too large ({shown}): at most {self.pixels / 1e6:g} megapixels are allowed; scale it down")


BOUNDS = Bounds()


@contextmanager
def opened(source: str | os.PathLike[str] | io.BytesIO, bounds: Bounds = BOUNDS) -> Iterator[Image.Image]:
    """Open an image file whose header has been held against the bounds; no pixel is decoded.

    The content decides the format, and a format whose reading would start another program is none: PostScript under
    the name of a JPEG would run in Ghostscript.

    Raises:
        BoundsError: it is too large or too long.
        OSError: it is missing or no image; Pillow raises other types as well.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of what is refused here.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(source, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise bounds.too_large("more than Pillow opens") from error
    with image:
        bounds.check(image.size)
        yield image


def held(value: dict[str, Any], file: str) -> dict[str, Any]:
    """Return a row of images as it is stored by itself: with its bytes and a name, which files of two classes share.

    So the name keeps folders: those below the data set's, or that which the file lies in.

    Args:
        value: the row.
        file: its name, as of `ImageSet.files`.

    Raises:
        OSError: the file cannot be read.
    """
    content = value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()
    name = "/".join(Path(file).parts[-2:]) if os.path.isabs(file) else file
    return {"bytes": content, "path": name if value["path"] else None}


def open_image(
    source: str | os.PathLike[str] | io.BytesIO, name: str, least: int | None = None, bounds: Bounds = BOUNDS
) -> Image.Image:
    """The first frame of an image file, turned upright as its EXIF data says, in RGB.

    Args:
        source: a path, or the file's bytes.
        name: what an error calls the image.
        least: pixels that both sides must keep; a JPEG may then be decoded at a half, a quarter or an eighth of its
            size, which its format gives for less work than the whole. None for the whole.
        bounds: of its size, held against the header before anything is decoded.

    Raises:
        BoundsError: the image is too large or too long.
        UnreadableImageError: the file is missing, damaged or not an image.
    """
    try:
        with opened(source, bounds) as image:
            shrink(image, least)
            return upright_rgb(image)
    except BoundsError as error:
        raise type(error)(f"the image {name} is {error}, or {_LEAVE_OUT}") from error
    except Exception as error:  # Pillow's decoders raise a dozen types for damaged files.
        reason = NO_IMAGE if isinstance(error, UnidentifiedImageError) else str(error)
        unreadable = UnreadableImageError(f"cannot read the image {name}: {reason}; repair the file, or {_LEAVE_OUT}")
        unreadable.reason = reason
        raise unreadable from error


def shrink(image: Image.Image, least: int | None) -> None:
    """Let an open JPEG be decoded at a fraction at which both sides keep `least` pixels; other formats stay whole."""
    if least is not None:
        image.draft(None, (least, least))


def upright_rgb(image: Image.Image) -> Image.Image:
    """A copy of an open image, turned upright as its EXIF data says, in RGB.

    Grey of more than 8 bits is scaled as `hfft.data.grey` says.

    Raises:
        BoundsError: it is too large or too long.
    """
    BOUNDS.check(image.size)
    image.load()
    span = span_of(image)
    # Pillow's own exif_transpose writes the other tags anew, and fails where one of them is not of its type.
    turn = _TURNS.get(image.getexif().get(EXIF_ORIENTATION))
    image = image.copy() if turn is None else image.transpose(turn)
    for name in _TOLD_BY:
        image.info.pop(name, None)  # else what is upright would be turned again
    if span is not None:
        return span.apply(image).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
