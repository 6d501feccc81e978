"""The label desk, from a folder with known faults to a new list."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
from finished import make_images
from PIL import Image

from hfft.arguments import DataArguments
from hfft.cli import main
from hfft.curate.desk import _numbered
from hfft.curate.gather import unlabelled
from hfft.data.load import find_splits

from .conftest import Finished


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """Three colours; one image in the wrong folder, a copy, a dark, a blank, a blurred and a broken one."""
    folder = make_images(tmp_path / "faulty", count=12)
    (folder / "red" / "11.png").rename(folder / "blue" / "stray.png")
    shutil.copy(folder / "green" / "3.png", folder / "green" / "copy.png")
    dark = np.asarray(Image.open(folder / "green" / "4.png")) // 6
    Image.fromarray(dark).save(folder / "green" / "dark.png")
    Image.new("RGB", (40, 40), (20, 200, 20)).save(folder / "green" / "blank.png")
    slope = np.add.outer(np.arange(40), np.arange(40)).astype(np.uint8)
    Image.fromarray(np.stack([slope, slope + 120, slope], axis=2)).save(folder / "green" / "soft.png")
    (folder / "green" / "broken.png").write_bytes(b"no image")
    return folder


def files_of(folder: Path) -> dict[str, str]:
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_every_fault_is_found(faulty: Path, finished: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["labels", str(faulty), "--model", str(finished.base), "--json"]) == 0
    desk = json.loads(capsys.readouterr().out)["result"]
    found = {(each["finding"], each["image"]): each for each in desk["suspects"]}
    stray = found["label", "blue/stray.png"]
    assert (stray["label"], stray["suggestion"]) == ("blue", "red")
    assert stray["confidence"] > 0.5
    assert len(stray["nearest"]) == 3
    kinds = {kind: {image for each, image in found if each == kind} for kind, _ in found}
    assert kinds["duplicate"] >= {"green/3.png", "green/copy.png"}
    assert kinds["dark"] == {"green/dark.png"}
    assert kinds["uniform"] == {"green/blank.png"}
    assert kinds["blurred"] == {"green/soft.png"}
    assert kinds["unreadable"] == {"green/broken.png"}
    assert desk["images"] == {"train": 41}


def test_decisions_make_a_new_list_and_touch_nothing(
    faulty: Path, finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    suspects, fixed = faulty.parent / "suspects.csv", faulty.parent / "fixed.csv"
    assert main(["labels", str(faulty), "--model", str(finished.base), "--output", str(suspects)]) == 0
    printed = capsys.readouterr().out
    assert "blue/stray.png" in printed
    assert "1 image blurred: train: green/soft.png" in printed
    with suspects.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    actions = {"blue/stray.png": "relabel", "green/broken.png": "drop", "green/copy.png": "Drop", "green/3.png": "keep"}
    for row in rows:
        row["action"] = actions.get(row["image"], "")
    with suspects.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    before = files_of(faulty)
    assert main(["labels", str(faulty), "--apply", str(suspects), "--output", str(fixed)]) == 0
    assert "39 images; 2 dropped, 1 relabelled, 1 kept as they were" in capsys.readouterr().out
    assert files_of(faulty) == before
    train = find_splits(DataArguments(dataset_name=str(fixed))).splits["train"]
    labels = dict(zip(train.images.files, train.names, strict=True))
    assert len(labels) == 39
    assert labels["faulty/blue/stray.png"] == "red"
    assert labels["faulty/green/3.png"] == "green"
    assert not {"faulty/green/copy.png", "faulty/green/broken.png"} & set(labels)
    assert main(["labels", str(faulty), "--apply", str(suspects), "--output", str(fixed)]) == 1
    assert "exists already" in capsys.readouterr().err


def test_a_run_is_looked_at_by_its_base(finished: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["labels", str(finished.output), "--json"]) == 0
    out, err = capsys.readouterr()
    assert "18 of 18 rows were there already" in err
    assert json.loads(out)["result"]["model"] == str(finished.base)
    assert json.loads(out)["result"]["images"] == {"train": 18}


def test_names_with_commas_quotes_and_accents_come_through(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_images(tmp_path / "photos")
    (folder / "blue").rename(folder / "café, x")
    (folder / "red" / "1.png").rename(folder / "red" / 'ü, "1" .png')
    fixes, fixed = tmp_path / "fixes.csv", tmp_path / "fixed.csv"
    fixes.write_text('image,action,new_label\n"red/ü, ""1"" .png",relabel,"café, x"\n', encoding="utf-8")
    assert main(["labels", str(folder), "--apply", str(fixes), "--output", str(fixed)]) == 0
    assert "0 dropped, 1 relabelled" in capsys.readouterr().out
    train = find_splits(DataArguments(dataset_name=str(fixed))).splits["train"]
    labels = dict(zip(train.images.files, train.names, strict=True))
    assert labels['photos/red/ü, "1" .png'] == "café, x"
    assert train.order == ["café, x", "green", "red"]
    assert len(unlabelled(train.images, 18).contents()) == 18  # every file is there


def test_labels_of_test_images_are_asked_about(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_images(tmp_path / "photos" / "train", count=8)
    test = make_images(tmp_path / "photos" / "test", count=3)
    (test / "red" / "2.png").rename(test / "green" / "stray.png")
    (tmp_path / "photos" / "test" / "pink").mkdir()
    shutil.copy(test / "red" / "1.png", tmp_path / "photos" / "test" / "pink" / "0.png")
    assert main(["labels", str(tmp_path / "photos"), "--model", str(finished.base), "--json"]) == 0
    desk = json.loads(capsys.readouterr().out)["result"]
    assert desk["checked"] == 24 + 9
    assert any("too few images to learn from: 1 class (pink)" in note for note in desk["notes"])
    found = {(each["split"], each["image"]): each for each in desk["suspects"] if each["finding"] == "label"}
    assert found["test", "green/stray.png"]["suggestion"] == "red"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["image,action", "green/3.png,remove"], "line 2: the action 'remove' is none of keep, relabel, drop"),
        (
            ["image,action", "green/33.png,drop"],
            "faulty has no image 'green/33.png'; did you mean green/3.png?",
        ),
        (["image,action", "green/3.png,relabel"], "line 2: relabel to what?"),
        (["image,action", "green/3.png,"], "it decides nothing"),
        (["image,what", "green/3.png,drop"], "there is no column 'action'"),
        (["image,action,new_label", "red/1.png,relabel,blue", "red/1.png,relabel,green"], "line 3: red/1.png is to be"),
    ],
)
def test_a_wrong_decision_is_named(
    rows: list[str], message: str, faulty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fixes = faulty.parent / "fixes.csv"
    fixes.write_text("\n".join(rows))
    target = faulty.parent / "new.csv"
    assert main(["labels", str(faulty), "--apply", str(fixes), "--output", str(target)]) == 1
    assert message in capsys.readouterr().err
    assert not target.exists()


def test_of_several_decisions_drop_wins_and_classes_are_counted(
    faulty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fixes = faulty.parent / "fixes.csv"
    lines = ["image;action;new_label", "red/1.png;relabel;pink", "red/2.png;drop;", "red/2.png;relabel;blue"]
    fixes.write_text("\n".join([*lines, "red/3.png;relabel;red", "red/1.png;keep;"]))
    target = faulty.parent / "new.csv"
    assert main(["labels", str(faulty), "--apply", str(fixes), "--output", str(target)]) == 0
    printed = capsys.readouterr().out
    assert "1 dropped, 1 relabelled, 1 kept as they were" in printed
    assert "New classes: 'pink'" in printed


def test_images_in_an_archive_go_to_parquet(faulty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (faulty / "green" / "broken.png").unlink()
    archive = shutil.make_archive(str(faulty.parent / "photos"), "zip", faulty)
    fixes = faulty.parent / "fixes.csv"
    fixes.write_text("image,action,new_label\nblue/stray.png,relabel,red\nred/1.png,drop,\n")
    argv = ["labels", archive, "--apply", str(fixes)]
    assert main([*argv, "--output", str(faulty.parent / "new.csv")]) == 1
    assert "new.parquet" in capsys.readouterr().err
    assert main([*argv, "--output", str(faulty.parent / "new.parquet")]) == 0
    train = find_splits(DataArguments(dataset_name=str(faulty.parent / "new.parquet"))).splits["train"]
    assert len(train.names) == 39
    assert train.names.count("red") == 11
    assert train.images.dataset[0]["image"]["bytes"]


def test_files_of_two_classes_that_share_a_name_are_told_apart(
    faulty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a Parquet file as in its folders; of a file of others, where they cannot be, no two are dropped for one."""
    (faulty / "green" / "broken.png").unlink()
    fixes, first = faulty.parent / "fixes.csv", faulty.parent / "first.parquet"
    fixes.write_text("image,action\nred/1.png,keep\n")
    assert main(["labels", str(faulty), "--apply", str(fixes), "--output", str(first)]) == 0
    fixes.write_text("image,action\nred/1.png,drop\n")
    argv = ["--apply", str(fixes), "--output", str(faulty.parent / "second.parquet")]
    assert main(["labels", str(first), *argv]) == 0
    assert "39 images; 1 dropped, 0 relabelled, 0 kept" in capsys.readouterr().out
    rows = [{"bytes": (faulty / name / "1.png").read_bytes(), "path": "1.png"} for name in ("red", "blue")]
    table = datasets.Dataset.from_dict({"image": rows, "label": ["red", "blue"]})
    table.cast_column("image", datasets.Image(decode=False)).to_parquet(str(faulty.parent / "other.parquet"))
    fixes.write_text("image,action\n1.png,drop\n")
    argv = ["--apply", str(fixes), "--output", str(faulty.parent / "third.parquet")]
    assert main(["labels", str(faulty.parent / "other.parquet"), *argv]) == 1
    assert "line 2: 2 images of train are called 1.png; give each a name of its own" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_the_new_list_keeps_the_groups(faulty: Path, ending: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a split may not part them, also by what has no name that says so."""
    names = [f"{colour}/{number}.png" for colour in ("red", "blue") for number in range(1, 5)]
    rows = [f"{name},{name.partition('/')[0]},{name[-5]}" for name in names[:-1]]
    (faulty / "list.csv").write_text("\n".join(["image,label,Patient", *rows, f"{names[-1]},blue,"]))
    fixes, new = faulty.parent / "fixes.csv", faulty.parent / f"new.{ending}"
    fixes.write_text("image,action\nred/1.png,drop\n")
    argv = ["--dataset_name", str(faulty / "list.csv"), "--group_column", "patient", "--apply", str(fixes)]
    assert main(["labels", *argv, "--output", str(new)]) == 0
    assert f"--dataset_name {new} --group_column group." in capsys.readouterr().out
    train = find_splits(DataArguments(dataset_name=str(new), group_column="group")).splits["train"].images
    assert train.groups is not None
    assert train.groups.tolist()[:6] == ["2", "3", "4", "1", "2", "3"]
    assert train.groups[6].startswith("no group: ")


def test_a_file_that_is_listed_under_two_labels(faulty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """To keep it changes neither."""
    (faulty / "list.csv").write_text("image,label\nred/1.png,red\nred/1.png,blue\nblue/1.png,blue\nred/2.png,red\n")
    fixes = faulty.parent / "fixes.csv"
    for action, label, words, found in (
        ("keep", "", "0 relabelled, 2 kept", ["red", "blue"]),
        ("relabel", "blue", "1 relabelled, 1 kept", ["blue", "blue"]),
        ("relabel", "red", "1 relabelled, 1 kept", ["red", "red"]),
    ):
        fixes.write_text(f"image,action,new_label\nred/1.png,{action},{label}\n")
        target = faulty / f"{action}{label}.csv"
        assert main(["labels", str(faulty / "list.csv"), "--apply", str(fixes), "--output", str(target)]) == 0
        assert words in capsys.readouterr().out
        assert [row.split(",")[1] for row in target.read_text().splitlines()[1:3]] == found


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--apply", "fixes.csv"], "hfft labels DATA --apply FIXES.csv"),
        (["x", "--apply", "fixes.json"], "--apply fixes.json must end in .csv"),
        (["x", "--output", "found.txt"], "must end in .csv or .json"),
        (["x", "--train_dir", "y"], "give the images once"),
    ],
)
def test_wrong_options(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["labels", *argv]) == 2
    assert message in capsys.readouterr().err


def test_two_classes_are_needed(tmp_path: Path, finished: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_images(tmp_path / "some", ("red",), 3)
    assert main(["labels", str(folder), "--model", str(finished.base)]) == 1
    assert "two classes of two images each are needed" in capsys.readouterr().err


def test_images_without_a_label_are_not_of_a_class_called_none() -> None:
    images = [SimpleNamespace(label=label, split="train") for label in ("None", "None", "a", "a", None)]
    assert _numbered(images, "images").numbers.tolist() == [0, 0, 1, 1, -1]  # type: ignore[arg-type]
