"""Grey of more than 8 bits keeps its picture, whatever part of its range the values fill."""

from __future__ import annotations

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
