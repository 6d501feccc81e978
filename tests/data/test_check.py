"""`hfft check`: every kind of finding, its files and exit code; the quick check; bad images skipped in training."""

from __future__ import annotations

import json
import re
import shutil
import struct
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import hfft.data.probe
from hfft.arguments import DataArguments
from hfft.cli import main
from hfft.data.check import check_parts, named_parts, parts_of, quick_check
from hfft.data.duplicates import equal_groups, near_groups
from hfft.data.load import find_splits, load_image_sets
from hfft.data.probe import probe_image
from hfft.errors import DataError
from hfft.inference.classifier import load_classifier
from hfft.inference.runs import own_sets

Folder = Callable[..., Path]


def check(*flags: Any, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, dict[str, Any]]]:
    """Run `hfft check --json` and return the exit code and the findings by kind."""
    code = main(["check", *map(str, flags), "--json"])
    return code, {finding["kind"]: finding for finding in json.loads(capsys.readouterr().out)["result"]["findings"]}


def noise(seed: int, size: tuple[int, int] = (48, 48)) -> Image.Image:
    """An image with structure, so that its perceptual hash says something."""
    rough = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    """A folder of splits without anything to find."""
    seed = 0
    for split in ("train", "validation"):
        for label in ("cat", "dog"):
            folder = tmp_path / "pets" / split / label
            folder.mkdir(parents=True)
            for number in range(10):
                seed += 1
                noise(seed).save(folder / f"{number}.png")
    return tmp_path / "pets"


def bomb() -> bytes:
    """The header of a PNG of 40,000 x 40,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    rest = struct.pack(">I", zlib.crc32(header)) + struct.pack(">I", 1000) + b"IDAT" + bytes(1000)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + rest


def _truncate(cat: Path) -> None:
    noise(99, (400, 400)).save(cat / "bad.jpg")
    (cat / "bad.jpg").write_bytes((cat / "bad.jpg").read_bytes()[:3000])


def _rotate(cat: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(99).save(cat / "bad.jpg", exif=exif)


def _animate(cat: Path) -> None:
    noise(98).save(cat / "bad.gif", save_all=True, append_images=[noise(99)])


def _reencode(cat: Path) -> None:
    noise(99, (200, 200)).save(cat / "good.png")
    noise(99, (200, 200)).save(cat / "bad.jpg", quality=80)


DEEP = np.asarray(noise(97).convert("L")).astype(np.uint16) * 16
"""A grey image of 12 bits in 16."""
FAULTS: list[tuple[str, str, int, Callable[[Path], Any]]] = [
    ("empty", "error", 1, lambda cat: (cat / "bad.png").touch()),
    ("not_an_image", "error", 1, lambda cat: (cat / "bad.png").write_text("hello")),
    ("damaged", "error", 1, _truncate),
    ("missing", "error", 1, lambda cat: (cat / "bad.png").symlink_to("nowhere.png")),
    ("bomb", "error", 1, lambda cat: (cat / "bad.png").write_bytes(bomb())),
    ("too_long", "error", 1, lambda cat: noise(99, (2100, 100)).save(cat / "bad.png")),
    ("leak", "error", 1, lambda cat: shutil.copy(cat.parents[1] / "validation/cat/3.png", cat / "bad.png")),
    ("conflict", "error", 1, lambda cat: shutil.copy(cat.parent / "dog/3.png", cat / "bad.png")),
    ("duplicate", "warning", 0, lambda cat: Image.open(cat / "3.png").save(cat / "bad.bmp")),
    ("near_duplicate", "note", 0, _reencode),
    ("tiny", "note", 0, lambda cat: noise(99, (16, 16)).save(cat / "bad.png")),
    ("mode", "note", 0, lambda cat: noise(99).convert("L").save(cat / "bad.png")),
    ("one_colour", "warning", 0, lambda cat: Image.new("RGB", (48, 48), "red").save(cat / "bad.png")),
    ("deep_grey", "note", 0, lambda cat: Image.fromarray(DEEP).save(cat / "bad.png")),
    ("rotated", "note", 0, _rotate),
    ("animated", "note", 0, _animate),
]


@pytest.mark.parametrize(("kind", "severity", "code", "make"), FAULTS, ids=[fault[0] for fault in FAULTS])
def test_each_fault_is_found_and_its_file_named(
    splits: Path, capsys: pytest.CaptureFixture[str], kind: str, severity: str, code: int, make: Callable[[Path], Any]
) -> None:
    make(splits / "train" / "cat")
    got, findings = check(splits, capsys=capsys)
    assert got == code
    assert findings[kind]["severity"] == severity
    assert any("cat/bad." in file for file in findings[kind]["files"])
    of_one = [finding["what"] for finding in findings.values() if finding["what"].startswith("1 image ")]
    assert not re.search(r"\b(come|they|them|their)\b", " ".join(of_one)), "one image is spoken of as one"
    assert main(["check", str(splits)]) == code
    assert "cat/bad." in capsys.readouterr().out


def test_sound_images_have_no_findings(splits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(splits, capsys=capsys) == (0, {})


def test_classes_are_counted(splits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(9):
        (splits / "train" / "cat" / f"{number}.png").unlink()
    shutil.rmtree(splits / "validation" / "dog")
    (splits / "validation" / "emu").mkdir()
    noise(77).save(splits / "validation" / "emu" / "1.png")
    code, findings = check(splits, capsys=capsys)
    assert code == 1
    assert {kind: finding["severity"] for kind, finding in findings.items()} == {
        "unknown_class": "error",
        "few_images": "warning",
        "imbalance": "warning",
        "absent_class": "warning",
    }


def test_many_images_are_checked_in_workers_with_progress(
    image_folder: Folder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = image_folder(per_class=100)
    (folder / "red" / "099.png").write_bytes(b"no image")
    workers = []
    loader = torch.utils.data.DataLoader

    def remember(*args: Any, **kwargs: Any) -> Any:
        workers.append(kwargs["num_workers"])
        return loader(*args, **kwargs)

    monkeypatch.setattr(torch.utils.data, "DataLoader", remember)
    monkeypatch.setattr("hfft.data.probe.worker_processes", lambda probes, workers: 2)  # as if they were large
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("hfft.bars._PATIENCE", 0)  # a quick machine would draw none
    assert main(["check", str(folder)]) == 1
    printed = capsys.readouterr()
    assert "red/099.png" in printed.out
    assert "300/300" in printed.err
    assert workers == [hfft.machine.cores()]


def test_strict_fails_for_warnings(splits: Path) -> None:
    shutil.copy(splits / "train/cat/3.png", splits / "train/cat/again.png")
    assert main(["check", str(splits)]) == 0
    assert main(["check", str(splits), "--strict", "true"]) == 1


@pytest.mark.parametrize("place", ["nowhere", "."])
def test_no_images_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str) -> None:
    assert main(["check", str(tmp_path / place)]) == 1
    assert capsys.readouterr().err.startswith("hfft: error: ")


def test_flags_and_data_exclude_each_other(splits: Path) -> None:
    assert main(["check", str(splits), "--train_dir", str(splits / "train")]) == 2


def test_near_groups_need_like_colours_and_some_structure() -> None:
    shapes = [b"\x0f" * 8, b"\x0f" * 7 + b"\x0e", b"\x0f" * 8, b"\xf0" * 8, b"\x80" + bytes(7), b"\x80" + bytes(7)]
    colours = [(9, 9, 9), (12, 9, 9), (200, 9, 9), (9, 9, 9), (9, 9, 9), (9, 9, 9)]
    assert near_groups(shapes, colours) == [[0, 1]]
    assert near_groups([], []) == []
    assert equal_groups([b"a", b"", b"b", b"a", b""]) == [[0, 3]]


def test_a_header_alone_is_enough_for_the_quick_look(tmp_path: Path) -> None:
    _truncate(tmp_path)
    assert probe_image(str(tmp_path / "bad.jpg"), 0, decode=False).problem == ""
    assert probe_image(str(tmp_path / "bad.jpg"), 0).problem == "damaged"


def test_the_quick_check_finds_leaks_and_unreadable_headers(splits: Path) -> None:
    shutil.copy(splits / "validation/cat/3.png", splits / "train/cat/copy.png")
    (splits / "train/cat/bad.png").write_text("no image")
    data = DataArguments(train_dir=str(splits / "train"), validation_dir=str(splits / "validation"))
    found = {finding.kind: finding for finding in quick_check(parts_of(load_image_sets(data, 0)))}
    assert found.keys() == {"leak", "not_an_image"}
    assert set(found["leak"].files) == {"train: cat/copy.png", "validation: cat/3.png"}


def test_the_order_of_several_labels_does_not_matter(image_folder: Folder, tmp_path: Path) -> None:
    files = sorted(image_folder().rglob("*.png"))[:4]
    shutil.copy(files[0], files[1])
    labels = ["cat,dog", "dog,cat", "owl", "cat"]
    table = tmp_path / "table.csv"
    table.write_text("file_name,label\n" + "".join(f'{f},"{label}"\n' for f, label in zip(files, labels, strict=True)))
    data = DataArguments(dataset_name=str(table), task="multi_label", label_separator=",", train_val_split=0.5)
    (part,) = named_parts(find_splits(data).splits, data)
    kinds = {finding.kind for finding in check_parts([part], lambda probes, count: probes)}
    assert "duplicate" in kinds
    assert "conflict" not in kinds


def table_of(images: Path, labels: Sequence[Any], heading: str = "file_name,label") -> Path:
    """Write a CSV beside a folder of images that gives the first of them these labels."""
    files = sorted(images.rglob("*.png"))[: len(labels)]
    table = images.parent / "table.csv"
    rows = [f"{file.relative_to(table.parent)},{label}" for file, label in zip(files, labels, strict=True)]
    table.write_text("\n".join([heading, *rows, ""]))
    return table


@pytest.mark.parametrize(
    ("flags", "refused"),
    [((), True), (("--validation_dir",), False), (("--group_pattern", "[0-9]+"), False)],
    ids=["one split", "a validation split", "groups"],
)
def test_a_class_of_one_image_is_found_where_finetune_refuses_it(
    splits: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], refused: bool
) -> None:
    for number in range(9):
        (splits / "train" / "cat" / f"{number}.png").unlink()
    given = ["--train_dir", splits / "train", *flags, *([splits / "validation"] if "--validation_dir" in flags else [])]
    code, findings = check(*given, capsys=capsys)
    assert (code, "single_image" in findings) == (int(refused), refused)
    if refused:
        assert findings["single_image"]["files"] == ["train: cat/9.png"]
        with pytest.raises(DataError, match="'cat' has a single image"):
            load_image_sets(DataArguments(train_dir=str(splits / "train")), 0)


def test_equal_images_in_two_classes_are_one_finding(splits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(splits / "train/dog/3.png", splits / "train/cat/bad.png")
    assert check(splits, capsys=capsys)[1].keys() == {"conflict"}


def test_names_of_classes_that_differ_in_case_or_spaces_are_found(
    image_folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    table = table_of(image_folder(), ["bear", "BEAR", "ice bear", "icebear", "owl", "owl"])
    finding = check(table, capsys=capsys)[1]["alike_classes"]
    assert finding["severity"] == "warning"
    assert "'BEAR' = 'bear'" in finding["what"]
    assert "'ice bear' = 'icebear'" in finding["what"]
    assert "owl" not in finding["what"]


def test_a_table_says_which_classes_and_columns_were_read(
    image_folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    table = table_of(image_folder(), ["cat,x", "dog,x", "cat,y", "dog,y"], "image,label,class")
    assert main(["check", str(table)]) == 0
    told = "Read as 2 classes (cat, dog) from the column 'label', images from the column 'image'"
    assert told in capsys.readouterr().out


def test_files_of_a_table_that_are_not_there_are_said_with_reason_and_folder(
    image_folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    table = table_of(image_folder(), ["cat", "dog"] * 2)
    table.write_text(table.read_text().replace("images/", "pictures/"))
    what = check(table, capsys=capsys)[1]["missing"]["what"]
    assert what == f"4 images that cannot be opened (No such file or directory); looked for below {table.parent}"


def test_a_reason_is_said_where_it_is_that_of_all(splits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, size in enumerate([(2100, 100), (2200, 100)]):
        noise(number, size).save(splits / "train" / "cat" / f"long{number}.png")
    differ = check(splits, capsys=capsys)[1]["too_long"]["what"]
    (splits / "train" / "cat" / "long0.png").unlink()
    alone = check(splits, capsys=capsys)[1]["too_long"]["what"]
    assert ("(" in differ, "(2200 x 100" in alone) == (False, True)


def finetune(images: Path, model: Path, out: Path, *flags: str) -> int:
    given = ["--train_dir", str(images), "--model_name_or_path", str(model), "--output_dir", str(out)]
    return main(["finetune", *given, "--num_train_epochs", "1", "--figures", "false", "--disable_tqdm", "true", *flags])


def test_skipped_files_are_said_and_recorded(
    image_folder: Folder, pretrained: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, model = image_folder(), pretrained("resnet")
    bad = images / "red" / "000.png"
    bad.write_bytes(bad.read_bytes()[:200])
    assert finetune(images, model, tmp_path / "error") == 1
    assert "--on_bad_image skip" in capsys.readouterr().err
    assert finetune(images, model, tmp_path / "skip", "--on_bad_image", "skip") == 0
    assert "Skipped 1 image" in capsys.readouterr().out
    data = json.loads((tmp_path / "skip" / "hfft.json").read_text())["data"]
    assert data["skipped"] == ["red/000.png"]
    assert sum(data["counts"].values()) == 23
    run = tmp_path / "skip"
    sets = own_sets(load_classifier(run, device="cpu"))
    assert sum(map(len, (sets.train, sets.validation))) == 23
    capsys.readouterr()
    Image.new("RGB", (32, 32), "pink").save(tmp_path / "new.png")
    assert main(["next", str(tmp_path / "new.png"), "--model", str(run)]) == 0
    assert "Skipped 1 image that cannot be read" in capsys.readouterr().err


def test_a_class_without_readable_images_ends_the_run(
    image_folder: Folder, pretrained: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = image_folder(per_class=2)
    for file in (images / "red").iterdir():
        file.write_bytes(b"")
    assert finetune(images, pretrained("resnet"), tmp_path / "out", "--on_bad_image", "skip") == 1
    assert "'red'" in capsys.readouterr().err
