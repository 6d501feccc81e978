"""Size and aspect of an image are held against one pair of limits before any pixel is decoded, on every path."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import GifImagePlugin, Image, PngImagePlugin

from hfft.cli import main
from hfft.data.images import MAX_PIXELS, Bounds, BoundsError, TooLongError, open_image, upright_rgb
from hfft.data.probe import probe_image
from hfft.errors import ArgumentError, DataError
from hfft.explain.pipeline import model_inputs
from hfft.inference.classifier import Classifier, classify, load_classifier
from hfft.space.options import SpaceArguments
from hfft.space.uploads import Limits, open_upload

Folder = Callable[..., Path]
THIN = (16_000, 1)
LARGE = (30_000, 3_000)  # 90 megapixels, between the limit and what Pillow refuses itself


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A PNG of a hundred bytes that scaling would make 3 GB of, and one of many pixels."""
    Image.new("RGB", THIN).save(tmp_path / "thin.png")
    Image.new("1", LARGE).save(tmp_path / "large.png")
    return tmp_path


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return load_classifier()


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make whoever decodes a pixel fail, and whoever lets Pillow warn."""

    def load(self: Image.Image) -> None:
        raise AssertionError("decoded")

    for kind in (Image.Image, PngImagePlugin.PngImageFile):
        monkeypatch.setattr(kind, "load", load)
    warnings.simplefilter("error", Image.DecompressionBombWarning)


@pytest.mark.parametrize(
    ("size", "error"),
    [
        ((1, 1), None),
        ((20, 1), None),
        ((1, 20), None),
        ((21, 1), TooLongError),
        ((1, 21), TooLongError),
        ((4480, 224), None),
        ((4481, 224), TooLongError),
        ((8900, 10_000), None),
        ((8901, 10_000), BoundsError),
        ((100_000, 1000), BoundsError),
    ],
)
def test_the_limits(size: tuple[int, int], error: type[BoundsError] | None) -> None:
    if error is None:
        Bounds().check(size)
        return
    with pytest.raises(error, match=rf"{size[0]} x {size[1]} pixels.*(20 times.*crop|89 megapixels.*scale)") as caught:
        Bounds().check(size)
    assert type(caught.value) is error


@pytest.mark.parametrize(("name", "problem"), [("thin", "too_long"), ("large", "bomb")])
def test_every_path_refuses_before_it_decodes(
    files: Path, classifier: Classifier, monkeypatch: pytest.MonkeyPatch, name: str, problem: str
) -> None:
    path = files / f"{name}.png"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(path)
        forbid_decoding(monkeypatch)
        (from_image,) = classify(classifier, [image])
        assert "too l" in from_image.error
        with pytest.raises(BoundsError):
            model_inputs(classifier, image)
        _refused(path, problem)
        (from_file,) = classify(classifier, [path])
        assert "is too l" in from_file.error


def _refused(path: Path, problem: str) -> None:
    for decode in (True, False):
        assert probe_image(str(path), 0, decode).problem == problem
    for source in (path, io.BytesIO(path.read_bytes())):
        with pytest.raises(BoundsError, match=r"given\.png.*(crop|scale) it") as caught:
            open_image(source, "given.png")
        assert caught.value.problem == problem
    with pytest.raises(DataError, match=rf"^{path.name} is too l"):
        open_upload(path, Limits())


def test_the_page_checks_and_trains_by_one_limit() -> None:
    assert Limits().pixels == SpaceArguments().limits.pixels == Bounds().pixels == MAX_PIXELS
    assert Image.MAX_IMAGE_PIXELS is not None
    assert MAX_PIXELS <= Image.MAX_IMAGE_PIXELS  # so that Pillow has no word of its own
    with pytest.raises(ArgumentError, match="at most 89"):
        SpaceArguments(max_megapixels=90)


def test_the_page_may_be_stricter(tmp_path: Path) -> None:
    Image.new("RGB", (1100, 1000)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="at most 1 megapixels"):
        open_upload(tmp_path / "a.png", Limits(pixels=1_000_000))


@pytest.mark.parametrize("kind", ["ICO", "ICNS"])
def test_an_icon_that_hides_a_long_image(tmp_path: Path, kind: str) -> None:
    Image.new("RGB", THIN).save(tmp_path / "thin.png")
    inner = (tmp_path / "thin.png").read_bytes()
    length = len(inner)
    head = b"\0\0\1\0\1\0" + bytes([16, 16, 0, 0, 1, 0, 32, 0]) + length.to_bytes(4, "little") + b"\x16\0\0\0"
    if kind == "ICNS":
        head = b"icns" + (length + 16).to_bytes(4, "big") + b"ic07" + (length + 8).to_bytes(4, "big")
    path = tmp_path / "icon.png"
    path.write_bytes(head + inner)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of the unexpected size
        with Image.open(path) as image:
            assert image.format == kind
        # Pillow reads the inner image's size at once in an ICO, and refuses such a size itself in an ICNS.
        with pytest.raises(DataError, match=r"too long \(16000 x 1|not one of the allowed sizes"):
            open_image(path, "icon.png")
        assert probe_image(str(path), 0).problem == ("too_long" if kind == "ICO" else "damaged")


def test_of_an_animation_the_first_frame_alone_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [Image.new("L", (8, 8), number % 250) for number in range(2000)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=10)
    decoded = []
    load = GifImagePlugin.GifImageFile.load_prepare

    def count(self: GifImagePlugin.GifImageFile) -> None:
        decoded.append(self.tell())
        load(self)

    monkeypatch.setattr(GifImagePlugin.GifImageFile, "load_prepare", count)
    assert open_image(tmp_path / "a.gif", "a").getpixel((0, 0)) == (0, 0, 0)
    assert probe_image(str(tmp_path / "a.gif"), 0).animated
    assert open_upload(tmp_path / "a.gif", Limits()).size == (8, 8)
    assert set(decoded) == {0}


@pytest.mark.parametrize("what", ["text", "profile"])
def test_texts_and_profiles_that_inflate_are_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "a.png"
    info = PngImagePlugin.PngInfo()
    if what == "text":
        info.add_text("note", "x" * 100_000_000, zip=True)
    profile = bytes(100_000_000) if what == "profile" else None
    Image.new("RGB", (9, 9), "red").save(path, pnginfo=info, icc_profile=profile)
    assert path.stat().st_size < 200_000
    with pytest.raises(DataError, match=r"a: (?i:Decompressed data too large)"):
        open_image(path, "a")
    assert probe_image(str(path), 0).problem == "damaged"


def test_a_header_alone_is_read_of_a_png_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    forbid_decoding(monkeypatch)
    assert probe_image(str(tmp_path / "a.png"), 0, decode=False).size == (9, 9)


def test_check_and_skip_name_the_long_image(
    image_folder: Folder, pretrained: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, model, out = image_folder(), pretrained("resnet"), tmp_path / "out"
    Image.new("RGB", (700, 30), "red").save(images / "red" / "strip.png")
    assert main(["check", str(images)]) == 1
    assert "red/strip.png" in capsys.readouterr().out
    flags = ["finetune", "--train_dir", str(images), "--model_name_or_path", str(model), "--output_dir", str(out)]
    flags += ["--num_train_epochs", "1", "--disable_tqdm", "true"]
    assert main(flags) == 1
    assert "red/strip.png is too long (700 x 30 pixels)" in capsys.readouterr().err
    assert main([*flags, "--on_bad_image", "skip"]) == 0
    assert json.loads((out / "hfft.json").read_text())["data"]["skipped"] == ["red/strip.png"]


def test_a_single_pixel_is_an_image() -> None:
    assert upright_rgb(Image.new("L", (1, 1), 7)).getpixel((0, 0)) == (7, 7, 7)
