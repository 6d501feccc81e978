"""What a file is goes by its content: formats that start programs are refused, odd numbers and frames are read."""

from __future__ import annotations

import io
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import EpsImagePlugin, Image, ImageOps

from hfft.cli import main
from hfft.data.images import EXIF_ORIENTATION, UnreadableImageError, open_image, upright_rgb
from hfft.data.layout import EXTENSIONS
from hfft.data.probe import probe_image

RAMP = np.linspace(0, 1, 48)[None].repeat(40, 0)
UNSIGNED, SIGNED = 1, 2  # TIFF's SampleFormat


def write_tiff(path: Path, values: NDArray[Any], sample_format: int, photometric: int = 1) -> None:
    """Write a grey TIFF of one strip, of numbers that Pillow cannot write."""
    data = values.tobytes()
    height, width = values.shape
    tags = {256: width, 257: height, 258: values.itemsize * 8, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height}
    tags |= {279: len(data), 339: sample_format}
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    directory = struct.pack("<H", len(tags)) + rows + struct.pack("<I", 0)
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + directory)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("look", [open_image, probe_image])
def test_postscript_under_another_name_starts_no_program(
    tmp_path: Path, suffix: str, look: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow would hand it to Ghostscript, which runs whatever program a page holds."""
    Image.new("RGB", (8, 6), "red").save(tmp_path / "page.eps")
    path = tmp_path / f"page{suffix}"
    path.write_bytes((tmp_path / "page.eps").read_bytes())
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    for source in (str(path), io.BytesIO(path.read_bytes())):
        if look is probe_image:
            assert probe_image(source, 0).problem == "not_an_image"
        else:
            with pytest.raises(UnreadableImageError, match="page: not an image of a format that hfft reads"):
                open_image(source, "page")


@pytest.mark.parametrize("content", [b"%PDF-1.4\n", b"\xd7\xcd\xc6\x9a" + bytes(60), b"\x89HDF\r\n\x1a\n" + bytes(60)])
def test_other_documents_under_an_images_name_are_no_images(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    assert probe_image(str(tmp_path / "a.jpg"), 0).problem == "not_an_image"


def test_check_names_postscript(
    image_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = image_folder()
    Image.new("RGB", (8, 6), "red").save(tmp_path / "page.eps")
    (folder / "red" / "page.jpg").write_bytes((tmp_path / "page.eps").read_bytes())
    assert main(["check", str(folder)]) == 1
    assert "red/page.jpg" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "sample_format", "highest", "words"),
    [
        (np.uint32, UNSIGNED, 2**32 - 1, "as 32 bits"),
        (np.uint32, UNSIGNED, 3 * 10**9, "as 32 bits"),
        (np.uint32, UNSIGNED, 4095, "as 12 bits"),
        (np.int32, SIGNED, 2**31 - 1, "as 31 bits"),
    ],
)
def test_numbers_of_32_bits(tmp_path: Path, kind: Any, sample_format: int, highest: int, words: str) -> None:
    write_tiff(tmp_path / "a.tif", (RAMP * highest).astype(kind), sample_format)
    look = probe_image(str(tmp_path / "a.tif"), 0)
    assert look.grey == words
    seen = np.asarray(open_image(tmp_path / "a.tif", "a"))[0, :, 0]
    scale = highest / 2 ** int(words.split()[1])
    np.testing.assert_allclose(seen, RAMP[0] * 255 * scale, atol=2)


def test_an_unsigned_image_without_dark_pixels_is_not_negative(tmp_path: Path) -> None:
    """Every value above 2**31: read as signed numbers, all of them would be negative."""
    write_tiff(tmp_path / "a.tif", (2**31 + RAMP * (2**31 - 1)).astype(np.uint32), UNSIGNED)
    seen = np.asarray(open_image(tmp_path / "a.tif", "a"))[0, :, 0]
    np.testing.assert_allclose(seen, 128 + RAMP[0] * 127, atol=2)


def test_signed_bytes(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", (RAMP * 200 - 100).astype(np.int8), SIGNED)
    np.testing.assert_allclose(np.asarray(open_image(tmp_path / "a.tif", "a"))[0, :, 0], RAMP[0] * 255, atol=3)


@pytest.mark.parametrize("most", [4095, 16383, 2**15 - 1])
def test_16_signed_bits_fill_15(tmp_path: Path, most: int) -> None:
    write_tiff(tmp_path / "a.tif", (RAMP * most).astype(np.int16), SIGNED)
    seen = np.asarray(open_image(tmp_path / "a.tif", "a"))[0, :, 0]
    np.testing.assert_allclose(seen, RAMP[0] * 255, atol=2)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_white_is_zero_at_any_depth(tmp_path: Path, kind: Any) -> None:
    write_tiff(tmp_path / "a.tif", (RAMP * np.iinfo(kind).max).astype(kind), UNSIGNED, photometric=0)
    np.testing.assert_allclose(np.asarray(open_image(tmp_path / "a.tif", "a"))[0, :, 0], 255 - RAMP[0] * 255, atol=2)


def _frames(path: Path, mode: str = "RGB") -> None:
    first, second = (Image.new(mode, (8, 6), shade) for shade in ("white", "black"))
    first.save(path, save_all=True, append_images=[second])


def _ycck(path: Path) -> None:
    """A JPEG whose Adobe marker says YCCK: luminance and chroma of inverted cyan, magenta and yellow, and black."""
    stream = io.BytesIO()
    Image.new("CMYK", (8, 6), (55, 128, 128, 0)).save(stream, "JPEG", quality=100)
    content = bytearray(stream.getvalue())
    content[content.index(b"Adobe") + 11] = 2
    path.write_bytes(content)


def _grey_and_turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray((RAMP * 255).astype(np.uint8)).save(path, exif=exif)


@pytest.mark.parametrize("suffix", [".gif", ".png", ".mpo", ".tif", ".webp"])
def test_of_several_frames_the_first_is_the_image(tmp_path: Path, suffix: str) -> None:
    _frames(tmp_path / f"a{suffix}")
    assert probe_image(str(tmp_path / f"a{suffix}"), 0).animated
    assert np.asarray(open_image(tmp_path / f"a{suffix}", "a")).min() > 250


@pytest.mark.parametrize(
    ("mode", "shade", "pixel"), [("LA", (90, 5), 90), ("1", 1, 255), ("PA", None, 255), ("L", 7, 7)]
)
def test_modes_come_out_as_their_colour(tmp_path: Path, mode: str, shade: Any, pixel: int) -> None:
    image = Image.new(mode, (8, 6), shade) if mode != "PA" else Image.new("L", (8, 6), 255).convert("PA")
    image.save(tmp_path / "a.tif")
    assert open_image(tmp_path / "a.tif", "a").getpixel((3, 3)) == (pixel,) * 3


def test_ycck_is_not_read_as_cmyk(tmp_path: Path) -> None:
    """Neutral chroma is neutral grey; as cyan, magenta and yellow the same bytes would have a colour."""
    _ycck(tmp_path / "a.jpg")
    assert np.ptp(np.asarray(open_image(tmp_path / "a.jpg", "a"))[3, 3].astype(int)) <= 5


def test_grey_jpegs_are_turned(tmp_path: Path) -> None:
    _grey_and_turned(tmp_path / "a.jpg")
    seen = np.asarray(open_image(tmp_path / "a.jpg", "a"))
    assert seen.shape == (48, 40, 3)
    np.testing.assert_allclose(seen[:, 0, 0], RAMP[0] * 255, atol=6)


def test_of_a_file_with_several_jpegs_the_first_is_read(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (40, 30), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "pair.mpo", save_all=True, append_images=[second])
    assert ".mpo" in EXTENSIONS
    assert open_image(str(tmp_path / "pair.mpo"), "pair").getpixel((5, 5))[0] > 200  # type: ignore[index]
    assert not probe_image(str(tmp_path / "pair.mpo"), 0).problem


@pytest.mark.parametrize(("kind", "count", "value"), [(1, 1, 6), (7, 4, 6), (3, 1, 9)])
def test_an_orientation_that_turns_nothing_is_no_damage(tmp_path: Path, kind: int, count: int, value: int) -> None:
    """As bytes, or beyond the eight that there are."""
    entry = struct.pack("<HHIII", 0x0112, kind, count, value, 0)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 1) + entry
    Image.new("RGB", (8, 6), "red").save(tmp_path / "a.jpg", exif=exif)
    assert open_image(tmp_path / "a.jpg", "a").size == (8, 6)
    for decode in (True, False):
        probe = probe_image(str(tmp_path / "a.jpg"), 0, decode)
        assert (probe.problem, probe.rotated) == ("", False)


@pytest.mark.parametrize(("tag", "kind", "value"), [(0x0100, 2, b"abc\0"), (0x0103, 9, b"\xff\xff\xff\xff")])
def test_other_tags_of_the_wrong_type_are_no_damage(tmp_path: Path, tag: int, kind: int, value: bytes) -> None:
    """Pillow writes them anew when it turns an image, and fails; what is upright is not turned again."""
    entries = struct.pack("<HHI", tag, kind, 4 if kind == 2 else 1) + value + struct.pack("<HHII", 0x0112, 3, 1, 6)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + entries + bytes(4)
    Image.new("RGB", (8, 6), "red").save(tmp_path / "a.jpg", exif=exif)
    upright = open_image(tmp_path / "a.jpg", "a")
    assert upright.size == upright_rgb(upright).size == (6, 8)
    assert not probe_image(str(tmp_path / "a.jpg"), 0).problem


@pytest.mark.parametrize("orientation", range(10))
def test_images_are_turned_as_pillow_turns_them(orientation: int) -> None:
    image, stream = Image.fromarray((np.random.default_rng(0).random((6, 8, 3)) * 255).astype(np.uint8)), io.BytesIO()
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    image.save(stream, "PNG", exif=exif)
    with Image.open(stream) as stored:
        expected = ImageOps.exif_transpose(stored)
        np.testing.assert_array_equal(np.asarray(upright_rgb(stored)), np.asarray(expected))
