"""What one image is, found by opening it: whether it can be read, and what is unusual about it."""

from __future__ import annotations

import hashlib
import io
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image, ImageStat, UnidentifiedImageError

from hfft.data.grey import span_of
from hfft.data.images import EXIF_ORIENTATION, IMAGE_COLUMN, NO_IMAGE, BoundsError, ImageSet, opened, upright_rgb
from hfft.errors import one_line
from hfft.machine import worker_processes

if TYPE_CHECKING:
    from torch.utils.data import Dataset

PROBLEMS = ("missing", "empty", "not_an_image", "bomb", "too_long", "damaged")
"""Why an image cannot be used, as `ImageProbe.problem` says it."""
FLAT_LEVELS = 4
"""Most levels of 256 between the darkest and the brightest value of each channel of an image of one colour."""
_BATCH = 32
_TONE_SIDE = 256  # pixels of the shorter side that brightness and sharpness are measured at, at most


@dataclass(frozen=True)
class ImageProbe:
    """What opening one image found.

    Args:
        row: of the image in its set.
        problem: one of `PROBLEMS`; empty where the image can be read.
        reason: of the problem, in words.
        size: width and height in pixels, as stored.
        mode: Pillow's name for the pixel format, as stored.
        rotated: EXIF data turns the image.
        animated: it has more than one frame.
        content: digest of the upright RGB pixels, or of the file where only its header was read; empty where unknown.
        shape: perceptual hash of 8 bytes; empty where only the header was read.
        colour: mean red, green and blue, 0 to 255.
        grey: how grey of more than 8 bits was read, see `hfft.data.grey`; empty for other images.
        flat: it comes out as one colour.
        brightest: grey level, 0 to 255, that one pixel in a hundred is above; NaN where nothing was decoded.
        spread: standard deviation of red, green or blue, the largest of the three; NaN likewise.
        sharpness: variance of the Laplacian over that of the grey levels, which contrast does not change, at a shorter
            side of 256 pixels at most; NaN likewise, and where all is grey alike.
    """

    row: int
    problem: str = ""
    reason: str = ""
    size: tuple[int, int] = (0, 0)
    mode: str = ""
    rotated: bool = False
    animated: bool = False
    content: bytes = b""
    shape: bytes = b""
    colour: tuple[int, int, int] = (0, 0, 0)
    grey: str = ""
    flat: bool = False
    brightest: float = math.nan
    spread: float = math.nan
    sharpness: float = math.nan


def probe_image(source: str | io.BytesIO, row: int, decode: bool = True) -> ImageProbe:
    """Read one image, or its header alone.

    Args:
        source: a path, or the file's bytes.
        row: which one this is.
        decode: read all pixels; without it a damaged rest of the file goes unseen.
    """
    try:
        if _length(source) == 0:
            return ImageProbe(row, "empty", "the file has no content")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow warns of is found below, or bites nobody
            with opened(source) as image:
                return _inspect(image, row, decode)
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        return ImageProbe(row, "missing", error.strerror or "it cannot be opened")
    except UnidentifiedImageError:
        return ImageProbe(row, "not_an_image", NO_IMAGE)
    except BoundsError as error:
        return ImageProbe(row, error.problem, str(error))
    except Image.DecompressionBombError as error:  # of an image within an icon
        return ImageProbe(row, "bomb", str(error))
    except Exception as error:  # Pillow's decoders raise a dozen types for damaged files.
        return ImageProbe(row, "damaged", one_line(error))


def probe_images(
    images: ImageSet, rows: Sequence[int] | None = None, decode: bool = True, workers: int | None = None
) -> Iterator[ImageProbe]:
    """Look at the images of a set, in order, with all cores.

    Args:
        images: the set.
        rows: which of them; by default all.
        decode: as for `probe_image`.
        workers: processes to use where there are many images; 0 for this one alone, as a server with threads needs it.
    """
    chosen = range(len(images)) if rows is None else rows
    probes = _Probes(images, chosen, decode)
    workers = worker_processes(probes, workers) if decode else 0
    if not workers:
        yield from (probes[index] for index in range(len(probes)))
        return
    from torch.utils.data import DataLoader  # few images do not wait for torch

    loader: DataLoader[ImageProbe] = DataLoader(
        cast("Dataset[ImageProbe]", probes), batch_size=_BATCH, collate_fn=list, num_workers=workers
    )
    for batch in loader:
        yield from batch


class _Probes:
    """The probes of chosen rows, computed in worker processes."""

    def __init__(self, images: ImageSet, rows: Sequence[int], decode: bool) -> None:
        self.images, self.rows, self.decode = images, rows, decode

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> ImageProbe:
        row = int(self.rows[index])
        value = self.images.dataset[row][IMAGE_COLUMN]
        return probe_image(value["path"] if value["bytes"] is None else io.BytesIO(value["bytes"]), row, self.decode)


def _length(source: str | io.BytesIO) -> int:
    return os.stat(source).st_size if isinstance(source, str) else len(source.getbuffer())


def _inspect(image: Image.Image, row: int, decode: bool) -> ImageProbe:
    facts: dict[str, Any] = {
        "mode": image.mode,
        "rotated": _is_turned(image),
        "animated": bool(getattr(image, "is_animated", False)),
    }
    if not decode:
        return ImageProbe(row, size=image.size, **facts)
    upright = upright_rgb(image)
    span = span_of(image)
    facts |= {"size": image.size, "grey": span.words if span else ""}
    return ImageProbe(row, **facts, **_content(upright))


def _is_turned(image: Image.Image) -> bool:
    # The base class's, since that of a PNG decodes all pixels to find EXIF data behind them.
    return Image.Image.getexif(image).get(EXIF_ORIENTATION) in range(2, 9)  # whatever else is there turns nothing


def _content(upright: Image.Image) -> dict[str, Any]:
    """What is found from the upright RGB pixels."""
    channels = ImageStat.Stat(upright)  # of a histogram: a tenth of the time of reductions over the pixels
    return {
        "content": hashlib.blake2b(f"{upright.size} ".encode() + upright.tobytes(), digest_size=16).digest(),
        "shape": _perceptual_hash(upright),
        "colour": tuple(round(value) for value in channels.mean),
        "flat": all(high - low <= FLAT_LEVELS for low, high in channels.extrema),
        **_tone(upright),
    }


def _tone(upright: Image.Image) -> dict[str, float]:
    """Measure brightness and sharpness (Pech-Pacheco et al., 2000) on grey levels of a size that is alike for all."""
    small = upright
    if min(small.size) > _TONE_SIDE:
        scale = _TONE_SIDE / min(small.size)
        size = (round(small.width * scale), round(small.height * scale))
        small = small.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    grey = small.convert("L")
    levels, counted = np.asarray(grey, np.float32), ImageStat.Stat(grey)
    variance = counted.var[0]
    inner = levels[1:-1, 1:-1]
    around = levels[:-2, 1:-1] + levels[2:, 1:-1] + levels[1:-1, :-2] + levels[1:-1, 2:]
    told = variance > 0 and inner.size > 0
    return {
        "brightest": _percentile(counted.h, 99),
        "spread": max(ImageStat.Stat(small).stddev),
        "sharpness": float((around - 4 * inner).var()) / variance if told else math.nan,
    }


def _percentile(counts: Sequence[int], percent: float) -> float:
    """Return what `numpy.percentile` does of values 0, 1 and so on, each of which is there so many times."""
    reached = np.cumsum(counts)
    place = percent / 100 * (int(reached[-1]) - 1)
    low, high = np.searchsorted(reached, [math.floor(place), math.ceil(place)], side="right")
    return float(low + (high - low) * (place - math.floor(place)))


def _perceptual_hash(image: Image.Image) -> bytes:
    """The signs of the 64 lowest frequencies of a discrete cosine transform (Zauner, 2010), as 8 bytes."""
    import imagehash

    return np.packbits(imagehash.phash(image).hash).tobytes()
