"""Which paths are splits, which are classes, and what is left out: the rules of every packing."""

from __future__ import annotations

import unicodedata

import pytest

from hfft.data.layout import EXTENSIONS, layout, pick_splits, split_of
from hfft.errors import DataError

PAIR = ("cat/1.png", "dog/1.png")


def below(folder: str, paths: tuple[str, ...] = PAIR) -> tuple[str, ...]:
    return tuple(f"{folder}/{path}" for path in paths)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("TRAIN", "train"),
        ("training_set", "train"),
        ("seg_train", "train"),
        ("train-images", "train"),
        ("valid_set", "validation"),
        ("Val", "validation"),
        ("dev", "validation"),
        ("Testing", "test"),
        ("evaluation", "test"),
        ("trainer", None),
        ("latest", None),
        ("train_test", None),
        ("cat", None),
    ],
)
def test_names_of_splits(name: str, split: str | None) -> None:
    assert split_of(name) == split


@pytest.mark.parametrize(
    ("names", "picked"),
    [
        (["Training", "Testing"], {"train": "Training", "test": "Testing"}),
        (["train", "train_small"], {"train": "train"}),
        (["train_a", "train_b", "test"], {"test": "test"}),
        (["train", "dev", "val", "holdout"], {"train": "train", "validation": "val"}),
    ],
)
def test_picked_splits(names: list[str], picked: dict[str, str]) -> None:
    assert pick_splits(names) == picked


@pytest.mark.parametrize(
    ("paths", "splits", "root"),
    [
        (PAIR, {"": PAIR}, ""),
        (below("photos/photos"), {"": PAIR}, "photos/photos"),
        ((*below("photos"), "stray.png", "readme.txt"), {"": PAIR}, "photos"),
        ((*below("Training"), *below("Testing")), {"train": PAIR, "test": PAIR}, ""),
        ((*below("x/seg_train"), *below("x/seg_test"), "x/seg_pred/"), {"train": PAIR, "test": PAIR}, "x"),
        ((*below("train"), "test/", "docs/readme.md", "train/stray.png"), {"train": PAIR}, ""),
        ((*below("train"), *below("holdout")), {"train": PAIR}, ""),
        (("train/1.png", "bus/1.png"), {"": ("bus/1.png", "train/1.png")}, ""),
        (("cat/deep/2.png", "cat/1.png", "dog/1.png"), {"": ("cat/1.png", "cat/deep/2.png", "dog/1.png")}, ""),
        (("cat/a/1.png", "hollow/"), {"": ("cat/a/1.png",)}, ""),
    ],
)
def test_layouts(paths: tuple[str, ...], splits: dict[str, tuple[str, ...]], root: str) -> None:
    found = layout(paths)
    assert found.root == root
    assert bool(found.folders) == ("" not in splits)
    assert {name or "train": files for name, files in splits.items()} == {
        name: tuple(entry.file for entry in entries) for name, entries in found.splits.items()
    }


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (("train/cat/1.png", "bus/1.png"), "look like splits, but bus like a class"),
        (("train/1.png", "test/1.png"), "look like splits, but hold no folders"),
        ((*below("train_1"), *below("train_2")), "several of them like the same"),
        (("caf\u00e9/1.png", "cafe\u0301/1.png", "tea/1.png"), "two of its folders are called"),
    ],
)
def test_what_is_not_clear_is_refused(paths: tuple[str, ...], words: str) -> None:
    with pytest.raises(DataError, match=words):
        layout(paths)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("cat/.ipynb_checkpoints/1.png", "hidden"),
        ("cat/deep/@eaDir/1.png", "hidden"),
        ("__MACOSX/cat/1.png", "hidden"),
        ("cat/Thumbs.db", "hidden"),
        ("../cat/9.png", "that lead outside"),
        ("cat/../../9.png", "that lead outside"),
        ("/cat/9.png", "that lead outside"),
        ("C:/cat/9.png", "that lead outside"),
        ("cat/9.heic", ".heic"),
        ("cat/notes", "without an ending"),
        ("9.png", "in no class folder"),
    ],
)
def test_what_is_left_out_is_said(path: str, reason: str) -> None:
    found = layout([*PAIR, path])
    assert {entry.file for entry in found.splits["train"]} == set(PAIR)
    assert list(found.left_out) == [reason]
    assert f"left out: 1 {reason} (" in found.describe()


@pytest.mark.parametrize("ending", [".jfif", ".avif", ".jpe", ".tif", ".GIF", ".jp2", ".webp"])
def test_what_pillow_decodes_counts(ending: str) -> None:
    assert (ending.lower() in EXTENSIONS) == bool(len(layout([*PAIR, f"cat/2{ending}"]).splits["train"]) == 3)
    assert ending == ".avif" or ending.lower() in EXTENSIONS


@pytest.mark.parametrize("ending", [".h5", ".mpg", ".eps", ".wmf", ".pdf", ".txt"])
def test_what_pillow_only_names_does_not(ending: str) -> None:
    assert ending not in EXTENSIONS


def test_given_to_nothing_and_repeated_names_are_said() -> None:
    assert "the split holdout" in layout([*below("train"), *below("holdout")]).notes[0]
    assert "are read as classes, but repeat the folders" in layout([*below("A"), *below("B")]).notes[0]
    some = [f"set 1/{name}/0.png" for name in ("cat", "dog")] + ["set 2/cat/0.png"]
    assert "the folders set 1, set 2 are read as classes, but repeat the folders cat:" in layout(some).notes[0]


@pytest.mark.parametrize("inner", [("images", "images"), ("a", "b"), ("a b c", "c d e")])
def test_folders_within_classes_are_no_splits(inner: tuple[str, str]) -> None:
    paths = [f"{top}/{name}/0.png" for top, names in zip(("cat", "dog"), inner, strict=True) for name in names.split()]
    assert layout(paths).notes == ()


def test_classes_are_composed() -> None:
    found = layout([f"{unicodedata.normalize('NFD', 'café')}/1.png", "tea/1.png"])
    assert found.classes == [unicodedata.normalize("NFC", "café"), "tea"]


def test_a_known_class_is_not_unwrapped() -> None:
    assert layout(["cat/day/1.png"]).classes == ["day"]
    assert layout(["cat/day/1.png"], known={"cat"}).classes == ["cat"]


def test_an_empty_class_tells_its_endings() -> None:
    assert layout([*PAIR, "fox/1.heic", "fox/2.heic", "void/"]).empty == {"fox": {".heic": 2}, "void": {}}
