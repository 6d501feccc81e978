"""Pictures as addresses of data, which a page shows without asking the server again."""

from __future__ import annotations

import base64
import io

from PIL import Image


def address_of(image: Image.Image, kind: str = "PNG", side: int | None = None) -> str:
    """Return an image as an address of data.

    Args:
        image: in RGB.
        kind: ``PNG`` or ``JPEG``.
        side: pixels that it is wide and high at most; without it, as many as it has.
    """
    if side is not None:
        image = image.copy()
        image.thumbnail((side, side))
    stream = io.BytesIO()
    image.save(stream, format=kind, quality=80)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"
