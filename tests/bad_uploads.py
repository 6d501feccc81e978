"""Uploads that must be refused, and how they are made."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

from PIL import Image


def png(colour: tuple[int, int, int] = (200, 10, 10), size: tuple[int, int] = (12, 8)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, format="PNG")
    return stream.getvalue()


def bomb(side: int = 100_000) -> bytes:
    """A PNG of a few kilobytes whose header promises side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


BAD_IMAGES = {
    "text.jpg": (b"this is not an image", "not an image"),
    "empty.png": (b"", "empty"),
    "cut.png": (png(size=(200, 200))[:120], "is damaged"),
    "bomb.png": (bomb(), "too large"),
    "large.png": (png(size=(1200, 1200)), "1200 x 1200"),
    "page.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
}


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


SHADES = {"a": 200, "b": 100}
"""Red of the images of each class; no two images are the same file."""


def two_classes(prefix: str = "") -> dict[str, bytes]:
    return {
        f"{prefix}{label}/{number}.png": png((shade, number, 0))
        for label, shade in SHADES.items()
        for number in range(3)
    }


BAD_ZIPS = {
    "up": ({"../../evil/1.png": png()}, "outside itself"),
    "up by backslashes": ({"..\\..\\evil\\1.png": png()}, "outside itself"),
    "absolute": ({"/etc/evil/1.png": png()}, "outside itself"),
    "drive": ({"C:/evil/1.png": png()}, "outside itself"),
    "many classes": ({f"class{number}/1.png": png((number, 0, 0)) for number in range(6)}, "6 classes"),
    "thousands of classes": ({f"class{number}/1.png": b"x" for number in range(1100)}, "1,100 classes|entries"),
    "many images": ({f"{number % 2}/{number}.png": png() for number in range(41)}, "41 images"),
    "entries": ({f"a/{number}.txt": b"" for number in range(1200)}, "entries"),
    "nested": ({"a/inner.zip": b"PK", "b/inner.zip": b"PK"}, "other archives"),
    "photos of a phone": (
        {"a/1.HEIC": b"x", "b/2.heic": b"x", "b/notes.txt": b"x"},
        r"no images in class folders \(its files: 2 \.heic, 1 \.txt, .*save photos as JPEG",
    ),
    "bomb": ({"a/1.png": bytes(9_000_000), "b/1.png": png()}, "unpacks to 9 MB"),
    "no folders": ({"1.png": png(), "2.png": png()}, "outside any folder"),
    "one class": ({f"a/{number}.png": png((number, 0, 0)) for number in range(5)}, "two classes"),
    "two images": (two_classes() | {"c/1.png": png((1, 1, 1))}, "at least three"),
    "twins": ({f"{label}/{number}.png": png() for label in "ab" for number in range(3)}, "same file as a/0.png"),
    "cut names": (two_classes("q" * 60 + "_"), "two classes would be called"),
    "beside the classes": (two_classes() | {"x.png": png((1, 1, 1))}, "outside any folder"),
    "a class to test alone": (two_classes("train/") | {"test/c/1.png": png((1, 1, 1))}, "c has no training images"),
    "nothing": ({}, "holds no images"),
}
