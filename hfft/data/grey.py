"""Grey images of more than 8 bits, integers or floats, brought to the 0 to 255 that models are fed.

Files seldom say how many of their 16 bits are used, and a 12-bit photograph read as 16 bits is black. The rule:

1. The container's word, where it has one: TIFF's MaxSampleValue or an odd BitsPerSample; PPM and JPEG 2000, which
   Pillow scales to 16 bits. (PNG's sBIT does not count: the format has the values fill all 16 bits all the same.)
2. Otherwise the smallest of 8, 10, 12, 14, 16, 24, 31 or 32 bits that holds the image's largest value; 15 as well
   where TIFF says that its 16 bits are signed.
3. Floats from 0 to 1 are taken as such, larger ones as the integers of rule 2.
4. Where neither fits (negative values, NaN or infinity, floats whose largest value lies between 1 and 2), the
   image's own finite range.

Rules 2 and 4 look at one image alone, since prediction has no more than that: two images of unlike range may
change in brightness against each other. `hfft check` says which rule was taken.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffTags import TAGS_V2

DEPTHS = (8, 10, 12, 14, 16, 24, 31)
"""Bits per value that cameras and scanners deliver, and those of signed numbers of 32 bits; beyond, there are 32."""
DEEP_MODES = ("I", "F")
"""How Pillow's modes of more than 8 bits begin."""
_MISREAD: dict[tuple[str, int, int], type[np.generic]] = {("I", 32, 1): np.uint32, ("L", 8, 2): np.int8}
"""By Pillow's mode and TIFF's BitsPerSample and SampleFormat (1 unsigned, 2 signed): what the bytes really are."""
_SCALED_BY_PILLOW = ("PPM", "JPEG2000")
_TIFF = {info.name: tag for tag, info in TAGS_V2.items()}


@dataclass(frozen=True)
class Span:
    """The values of a grey image that become 0 to 255.

    Args:
        low: becomes 0.
        high: the first value that would become 256; it and what is above become 255.
        words: what was taken, for people.
        kind: of the numbers, where Pillow takes them for others.
        inverted: 0 is white.
    """

    low: float
    high: float
    words: str
    kind: type[np.generic] | None = None
    inverted: bool = False

    def apply(self, image: Image.Image) -> Image.Image:
        """Return the image in mode L."""
        values = _numbers(image, self.kind).astype(np.float32)
        values = np.nan_to_num(values, copy=False, nan=self.low, posinf=self.high, neginf=self.low)
        with np.errstate(over="ignore"):
            values -= np.float32(self.low)
            values *= np.float32(256 / ((self.high - self.low) or 1))
        grey = values.clip(0, 255).astype(np.uint8)
        return Image.fromarray(255 - grey if self.inverted else grey)


def span_of(image: Image.Image) -> Span | None:
    """Return the values that become 0 to 255; None for modes of 8 bits, which stay as they are.

    Args:
        image: as it was opened, since a copy has lost what its container says.
    """
    kind = _MISREAD.get((image.mode, _stated(image, "BitsPerSample"), _stated(image, "SampleFormat") or 1))
    if kind is None and not image.mode.startswith(DEEP_MODES):
        return None
    values = _numbers(image, kind)
    finite = values[np.isfinite(values)] if image.mode == "F" else values
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    span = Span(low, high, "by their own range")
    if not (low < 0 or finite.size < values.size or (image.mode == "F" and 1 < high < 2)):
        signed = (_stated(image, "BitsPerSample"), _stated(image, "SampleFormat")) == (16, 2)
        depths = sorted((*DEPTHS, 15)) if signed else DEPTHS
        bits = max(next((depth for depth in depths if high < 2**depth), 32), _stated_bits(image))
        unit = image.mode == "F" and high <= 1
        span = Span(0, 1, "from 0 to 1") if unit else Span(0, 2**bits, f"as {bits} bits")
    white_is_zero = getattr(image, "tag_v2", {}).get(_TIFF["PhotometricInterpretation"]) == 0
    return replace(span, kind=kind, inverted=white_is_zero)


def _numbers(image: Image.Image, kind: type[np.generic] | None) -> NDArray[Any]:
    values = np.asarray(image)
    return values if kind is None else values.view(kind)


def _stated_bits(image: Image.Image) -> int:
    """Bits per value as the container says; 0 where it does not."""
    if image.format in _SCALED_BY_PILLOW:
        return 16
    bits, most = _stated(image, "BitsPerSample"), _stated(image, "MaxSampleValue")
    if most:
        return most.bit_length()
    return 0 if bits % 8 == 0 else bits


def _stated(image: Image.Image, name: str) -> int:
    """The first value of a TIFF tag; 0 where there is none."""
    return int(np.ravel(getattr(image, "tag_v2", {}).get(_TIFF[name], 0))[0])
