"""Grey of more than 8 bits keeps its picture, whatever part of its range the values fill."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hfft.arguments import DataArguments
from hfft.data.check import check_parts, parts_of
from hfft.data.images import open_image
from hfft.data.load import load_image_sets
from hfft.data.probe import probe_image

RAMP = np.linspace(0, 1, 48)[None].repeat(40, 0)
KINDS: dict[str, tuple[str, Any, str]] = {
    "8 in 16": ("png", (RAMP * 255).astype(np.uint16), "as 8 bits"),
    "10 in 16": ("png", (RAMP * 1023).astype(np.uint16), "as 10 bits"),
    "12 in 16": ("png", (RAMP * 4095).astype(np.uint16), "as 12 bits"),
    "14 in 16": ("tif", (RAMP * 16383).astype(np.uint16), "as 14 bits"),
    "16": ("png", (RAMP * 65535).astype(np.uint16), "as 16 bits"),
    "16 big-endian": ("tif", (RAMP * 65535).astype(">u2"), "as 16 bits"),
    "int32": ("tif", (RAMP * 255).astype(np.int32), "as 8 bits"),
    "int32 of 16": ("tif", (RAMP * 65535).astype(np.int32), "as 16 bits"),
    "int32 full": ("tif", (RAMP * (2**31 - 1)).astype(np.int32), "as 31 bits"),
    "signed": ("tif", (RAMP * 2000 - 1000).astype(np.int32), "by their own range"),
    "float 1": ("tif", RAMP.astype(np.float32), "from 0 to 1"),
    "float 1 overshot": ("tif", (RAMP * 1.02).astype(np.float32), "by their own range"),
    "float 255": ("tif", (RAMP * 255).astype(np.float32), "as 8 bits"),
    "float 16": ("tif", (RAMP * 65535).astype(np.float32), "as 16 bits"),
    "float signed": ("tif", (RAMP * 2 - 1).astype(np.float32), "by their own range"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_ramp_stays_a_ramp(tmp_path: Path, kind: str) -> None:
    suffix, values, words = KINDS[kind]
    path = tmp_path / f"ramp.{suffix}"
    Image.fromarray(values).save(path)
    seen = np.asarray(open_image(path, "ramp"))
    assert probe_image(str(path), 0).grey == words
    assert seen.shape == (40, 48, 3)
    np.testing.assert_allclose(seen[0, :, 0], RAMP[0] * 255, atol=2)


def test_full_16_bits_are_what_they_were(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (40, 48)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert (np.asarray(open_image(tmp_path / "a.png", "a"))[..., 1] == values >> 8).all()


def test_floats_of_8_bits_come_back_exactly(tmp_path: Path) -> None:
    values = np.arange(256).reshape(16, 16)
    Image.fromarray((values / 255).astype(np.float32)).save(tmp_path / "a.tif")
    assert (np.asarray(open_image(tmp_path / "a.tif", "a"))[..., 0] == values).all()


def test_infinite_values_and_none_at_all(tmp_path: Path) -> None:
    values = RAMP.astype(np.float32).copy()
    values[0, 0], values[0, 1], values[0, 2] = np.nan, np.inf, -np.inf
    Image.fromarray(values).save(tmp_path / "a.tif")
    seen = np.asarray(open_image(tmp_path / "a.tif", "a"))[..., 0]
    assert seen[0, :3].tolist() == [0, 255, 0]
    np.testing.assert_allclose(seen[1], RAMP[0] * 255, atol=2)
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(tmp_path / "b.tif")
    assert not np.asarray(open_image(tmp_path / "b.tif", "b")).any()


def test_the_containers_word_is_kept(tmp_path: Path) -> None:
    """A dark image of which the file says how deep it is stays dark."""
    dark = (RAMP * 255).astype(np.uint16)
    Image.fromarray(dark).save(tmp_path / "a.tif", tiffinfo={281: 4095})
    assert np.asarray(open_image(tmp_path / "a.tif", "a")).max() == 255 >> 4
    (tmp_path / "b.pgm").write_bytes(b"P5 48 40 4095\n" + dark.astype(">u2").tobytes())
    assert np.asarray(open_image(tmp_path / "b.pgm", "b")).max() == 255 >> 4


def test_turned_by_exif(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray((RAMP * 4095).astype(np.uint16)).save(tmp_path / "a.png", exif=exif)
    seen = open_image(tmp_path / "a.png", "a")
    assert seen.size == (40, 48)
    np.testing.assert_allclose(np.asarray(seen)[:, 0, 0], RAMP[0] * 255, atol=2)


def _findings(folder: Path) -> dict[str, Any]:
    parts = parts_of(load_image_sets(DataArguments(train_dir=str(folder)), 0))
    return {finding.kind: finding for finding in check_parts(parts, lambda looks, total: looks)}


def test_check_says_how_grey_was_read_and_what_is_one_colour(image_folder: Callable[..., Path]) -> None:
    folder = image_folder()
    assert not _findings(folder).keys() & {"deep_grey", "one_colour"}
    for number, kind in enumerate(("12 in 16", "float 1", "10 in 16")):
        suffix, values, _ = KINDS[kind]
        Image.fromarray(values).save(folder / "red" / f"deep{number}.{suffix}")
    Image.fromarray((RAMP * 4095).astype(np.uint16)[:, ::-1]).save(folder / "red" / "deep3.png")
    Image.fromarray((RAMP > 0.5).astype(np.uint8)).save(folder / "blue" / "mask.png")
    found = _findings(folder)
    assert found["deep_grey"].severity == "note"
    assert found["deep_grey"].what.startswith("4 images of grey in more than 8 bits, read 2 as 12 bits, ")
    assert "1 from 0 to 1" in found["deep_grey"].what
    assert found["one_colour"].severity == "warning"
    assert [file.split(": ")[1] for file in found["one_colour"].files] == ["blue/mask.png"]


def _png_of_16_bits(values: np.ndarray[Any, Any]) -> bytes:
    """A PNG of three channels of 16 bits, which Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _tiff_of_16_bits(values: np.ndarray[Any, Any]) -> bytes:
    """A TIFF of three channels of 16 bits, without compression."""
    height, width, _ = values.shape
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, 8 + 2 + 9 * 12 + 4), (259, 3, 1, 1), (262, 3, 1, 2)]
    pixels = entries[2][3] + 6
    entries += [(273, 4, 1, pixels), (277, 3, 1, 3), (278, 4, 1, height), (279, 4, 1, values.size * 2)]
    table = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return (
        b"II*\0\x08\0\0\0"
        + struct.pack("<H", 9)
        + table
        + bytes(4)
        + struct.pack("<HHH", 16, 16, 16)
        + values.tobytes()
    )


@pytest.mark.parametrize(("ending", "write"), [("png", _png_of_16_bits), ("tif", _tiff_of_16_bits)])
def test_colour_of_16_bits_keeps_the_range_of_16_bits(
    tmp_path: Path, ending: str, write: Callable[[np.ndarray[Any, Any]], bytes]
) -> None:
    """The rule of docs/data.md: its high byte, whatever of the range the image uses."""
    values = np.random.default_rng(0).integers(0, 2**16, (32, 40, 3)).astype("<u2")
    values[0, 0], values[0, 1] = 0, 2**16 - 1
    (tmp_path / f"deep.{ending}").write_bytes(write(values))
    found = np.asarray(open_image(str(tmp_path / f"deep.{ending}"), "deep"))
    assert (found == values >> 8).all()


def test_of_several_pages_the_first_is_read_and_arrays_are_left_out(image_folder: Callable[..., Path]) -> None:
    """What would hold more channels is said, and never taken for something else."""
    folder = image_folder(classes=("blue", "green"))
    pages = [Image.fromarray(np.full((40, 40), value, np.uint8)) for value in (40, 200)]
    pages[0].save(folder / "blue" / "pages.tif", save_all=True, append_images=pages[1:])
    np.save(folder / "blue" / "cube.npy", np.zeros((40, 40, 5)))
    first = np.asarray(open_image(str(folder / "blue" / "pages.tif"), "pages"))
    assert (first == 40).all()
    sets = load_image_sets(DataArguments(train_dir=str(folder)), 0)
    assert any("left out: 1 .npy" in note for note in sets.notes)
