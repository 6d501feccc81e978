"""Names in any script are drawn where a font has their letters, and are told apart where none has."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image
from runs import Folder, run

from hfft.arguments import DataArguments
from hfft.cli import main
from hfft.data.load import load_image_sets
from hfft.report import fonts
from hfft.report.fonts import class_names, escaped, families, shown_by_number
from hfft.report.mistakes import find_mistakes, write_mistakes
from hfft.report.plots import confusion_figure, confusion_matrix, sweep_figure

CAT, DOG = "\u732b", "\u72d7"
Install = Callable[[str, str], None]


@pytest.fixture(autouse=True)
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Leave only matplotlib's own fonts, and return a maker of others, which the system has from then on."""
    own = [entry for entry in font_manager.fontManager.ttflist if entry.name == fonts.DEFAULT or "Last" in entry.name]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    files: list[str] = []
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: files)

    def make(family: str, letters: str) -> None:
        files.append(_font(tmp_path / f"{family}.ttf", family, letters))

    _forget()
    yield make
    monkeypatch.undo()
    _forget()


def _forget() -> None:
    for cached in (fonts._family_with, fonts._has, fonts._look_again):
        cached.cache_clear()


def _font(path: Path, family: str, letters: str) -> str:
    """Write a font whose letters are all black squares."""
    names = [".notdef", *(f"u{ord(letter):X}" for letter in letters)]
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 800), (800, 800), (800, 0)):
        pen.lineTo(corner)
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(letter): f"u{ord(letter):X}" for letter in letters})
    builder.setupGlyf(dict.fromkeys(names, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=900)
    builder.setupPost()
    builder.save(path)
    return str(path)


def test_what_the_default_has_needs_no_other_font() -> None:
    names = ["cat", "caf\u00e9", "\u043a\u043e\u0442", "\u0642\u0637", "\U0001f600"]
    assert class_names(names) == names
    assert families(names) == [fonts.DEFAULT]
    assert shown_by_number(names) == ""


def test_without_a_font_classes_are_told_apart_by_number_and_that_is_said() -> None:
    labels = [CAT, DOG, "bird", "\u0939\u093f", "\udce9"]
    assert class_names(labels) == ["label 0", "label 1", "bird", "label 3", "label 4"]
    line = shown_by_number(labels)
    assert line.startswith(f"Plots show 4 of 5 classes by number: no font here has the letters of '{CAT}' and others.")
    assert "\n" not in line
    assert escaped(f"model-{CAT}") == "model-\\u732b"


def test_targets_are_called_targets() -> None:
    assert class_names([CAT, "age"], "target") == ["target 0", "age"]
    assert shown_by_number([CAT, "age"], "targets").startswith("Plots show 1 of 2 targets by number")


@pytest.mark.parametrize("letter", ["W", CAT])
def test_captions_of_mistakes_end_before_their_neighbours(
    image_folder: Folder, install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, letter: str
) -> None:
    install("Small Han", CAT)
    labels = [22 * letter[:1], 21 * letter[:1], 20 * letter[:1]]
    images = load_image_sets(DataArguments(train_dir=str(image_folder(per_class=2))), 0).train
    logits = np.zeros((len(images), 3), np.float32)
    logits[range(len(images)), (images.labels + 1) % 3] = 1
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    write_mistakes(tmp_path / "mistakes.png", images, labels, find_mistakes(images, labels, logits))
    drawn[0].draw_without_rendering()
    boxes = [axes.title.get_window_extent() for axes in drawn[0].axes if axes.title.get_text()][:5]
    assert len(boxes) > 2
    assert all(one.x1 < other.x0 for one, other in pairwise(boxes))
    assert boxes[0].x0 >= 0


def test_a_font_that_was_installed_since_is_found(install: Install) -> None:
    install("Small Han", CAT + DOG)
    labels = [CAT, f"{DOG} dog", "bird"]
    assert class_names(labels) == labels
    assert families(labels) == [fonts.DEFAULT, "Small Han"]
    assert shown_by_number(labels) == ""
    assert escaped(f"model-{CAT}") == f"model-{CAT}"


def test_a_damaged_font_is_passed_over(install: Install, tmp_path: Path) -> None:
    install("Damaged", CAT)
    (tmp_path / "Damaged.ttf").write_bytes(b"no font")
    install("Whole", CAT)
    assert families([CAT]) == [fonts.DEFAULT, "Whole"]


def test_each_script_gets_its_font(install: Install) -> None:
    install("Small Han", CAT)
    install("Small Deva", "\u0939\u093f")
    assert families([CAT, "\u0939\u093f", "cat"]) == [fonts.DEFAULT, "Small Deva", "Small Han"]


def test_joiners_and_variations_need_no_glyph() -> None:
    assert class_names(["\u2764\ufe0f", "ca\u200dt", "\u200d"]) == ["\u2764\ufe0f", "ca\u200dt", "\u200d"]
    assert class_names(["a\U000e0100"]) == ["a"]


@pytest.mark.parametrize("installed", [True, False])
def test_no_plot_draws_a_box(image_folder: Folder, install: Install, tmp_path: Path, installed: bool) -> None:
    """Matplotlib warns of each letter that it draws as a box."""
    if installed:
        install("Small Han", CAT + DOG)
    labels = (CAT, DOG, f"{DOG} 2")
    images = load_image_sets(DataArguments(train_dir=str(image_folder(per_class=2))), 0).train
    logits = np.zeros((len(images), 3), np.float32)
    logits[range(len(images)), (images.labels + 1) % 3] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        confusion_figure(np.eye(3, dtype=int), labels, tmp_path / "confusion.png")
        write_mistakes(tmp_path / "mistakes.png", images, labels, find_mistakes(images, labels, logits))
        sweep_figure(
            [(f"model-{CAT}", 0.5, None), (f"model-{DOG}", 0.4, (0.3, 0.6))], "accuracy", tmp_path / "sweep.png"
        )
    axis = confusion_matrix(np.eye(3, dtype=int), labels).axes[0].get_yticklabels()
    assert [tick.get_text() for tick in axis] == list(labels if installed else ("label 0", "label 1", "label 2"))
    assert axis[0].get_fontfamily() == [fonts.DEFAULT, *(["Small Han"] if installed else [])]


def test_the_letters_of_the_found_font_are_drawn(install: Install, tmp_path: Path) -> None:
    """The test's letters are black squares: much more ink than a number's."""

    def ink() -> int:
        confusion_figure(np.zeros((2, 2), int), [CAT * 8, DOG * 8], tmp_path / "a.png")
        return int((np.asarray(Image.open(tmp_path / "a.png").convert("L")) < 60).sum())

    before = ink()
    install("Small Han", CAT + DOG)
    _forget()
    assert ink() > before + 3_000


def test_runs_and_evaluations_say_it_in_one_line(
    pretrained: Folder, image_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, out = image_folder(classes=(CAT, DOG, "bird")), tmp_path / "out"
    small = (
        "--num_train_epochs",
        1,
        "--baselines",
        "none",
        "--policy",
        "head",
        "--model_name_or_path",
        pretrained("resnet"),
    )
    assert run("--train_dir", images, "--output_dir", out, "--figures", "true", *small) == 0
    said = capsys.readouterr()
    assert said.out.count("Plots show 2 of 3 classes by number") == 1
    assert "missing from font" not in said.err
    assert run("--train_dir", images, "--output_dir", tmp_path / "plain", "--figures", "false", *small) == 0
    assert "Plots show" not in capsys.readouterr().out
    evaluate = ["evaluate", "--model", str(out), "--validation_dir", str(images), "--output_dir", str(tmp_path / "e")]
    assert main(evaluate) == 0
    assert capsys.readouterr().out.count("Plots show 2 of 3 classes by number") == 1
