"""More images or a new class for a finished run: what joins, what stays, and what is refused."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished import LABELS, make_images, make_model
from PIL import Image
from safetensors.torch import load_file

import hfft
from hfft.arguments import DataArguments
from hfft.cli import main
from hfft.data.images import concatenated
from hfft.data.load import ImageSets, find_splits
from hfft.errors import ArgumentError, DataError
from hfft.jobs.extension.images import write_list
from hfft.jobs.run import Run
from hfft.output_folder import CLASSES, IMAGES
from hfft.report.record import read_record
from hfft.trust.classes import read_kept

HEAD = ("classifier.weight", "classifier.bias")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on ``photos``, and new images of another class in ``more`` and of a known one in ``blue``."""
    folder = tmp_path_factory.mktemp("extend")
    photos = make_images(folder / "photos", count=10)
    violet(folder / "more" / "violet", 6)
    violet(folder / "blue" / "blue", 4, seed=8)
    options = {"model_name_or_path": str(make_model(folder / "base")), "train_dir": str(photos), "figures": False}
    options |= {
        "num_train_epochs": 4,
        "learning_rate": 3e-3,
        "calibration_folds": 0,
        "cache_dir": str(folder / "cache"),
    }
    hfft.finetune(**options, output_dir=str(folder / "run"), use_cpu=True, disable_tqdm=True, say=lambda line: None)
    return folder


def violet(folder: Path, count: int, seed: int = 7) -> None:
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    for number in range(count):
        pixels = random.integers(0, 100, (40, 40, 3), np.uint8)
        pixels[..., [0, 2]] += 120
        Image.fromarray(pixels).save(folder / f"{number}.png")


def extended(place: Path, name: str, run: str = "run", **options: Any) -> tuple[Run, list[str]]:
    said: list[str] = []
    given = {"train_dir": str(place / "more"), "output_dir": str(place / name)} | options
    return hfft.extend(str(place / run), **given, say=said.append), said


@pytest.fixture(scope="module")
def joined(place: Path) -> Run:
    return extended(place, "joined")[0]


def test_a_new_class_joins_in_closed_form(place: Path, joined: Run) -> None:
    before, after = load_file(place / "run" / "model.safetensors"), load_file(place / "joined" / "model.safetensors")
    assert joined.sets.labels == (*LABELS, "violet")
    for name in before:
        rows = slice(len(LABELS)) if name in HEAD else slice(None)
        assert before[name].equal(after[name][rows])
    record = read_record(place / "joined" / "hfft.json")
    assert record.command == "extend"
    assert record.extended is not None
    assert (record.extended.classes, record.extended.added) == (["violet"], {"train": 5, "validation": 1})
    assert record.extended.images == {"validation": 4}
    kept = read_kept(place / "joined" / CLASSES)
    assert kept.statistics.counts.tolist()[-1] == 5
    assert {name: len(rows) for name, rows in kept.contents.items()} == {"train": 31, "validation": 5}
    assert record.cache.hits == 30  # all that the run had computed


@pytest.mark.usefixtures("joined")  # which counts what it finds in the cache, and so comes first
def test_a_run_that_is_named_from_within_is_extended_beside_itself(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(place / "run", place / "within")
    monkeypatch.chdir(place / "within")
    more = hfft.extend(".", train_dir=str(place / "more"), say=lambda line: None)
    assert more.folder == place / "within-extended"
    assert more.extended is not None
    assert more.extended.run == "within"


def test_the_extended_run_is_a_model_and_a_recipe(place: Path, joined: Run) -> None:
    classifier = hfft.load_classifier(str(place / "joined"))
    (found,) = hfft.classify(classifier, [str(place / "more" / "violet" / "0.png")])
    assert {each.label for each in found.top} == {*LABELS, "violet"}
    assert found.unknown is False  # its own class is among the known images now
    assert joined.settings.data.dataset_name == str(place / "joined" / IMAGES)
    assert joined.settings.training.num_train_epochs == 4


def test_training_goes_on_from_the_closed_form_and_is_measured(place: Path, joined: Run) -> None:
    run, said = extended(place, "trained", num_train_epochs=2)
    assert [row for row in said if row.startswith("The run's own validation images")]
    assert run.extended is not None
    assert run.extended.epochs == 2
    with (place / "trained" / "trace.csv").open() as file:
        epochs = [float(row["epoch"]) for row in csv.DictReader(file)]
    assert epochs == [0, 1, 2]
    # The extended run is one that can be extended, and knows the images of both.
    again, said = extended(place, "again", run="trained", train_dir=str(place / "blue"))
    assert again.sets.labels == joined.sets.labels
    assert len(again.sets.train) == 31 + 3
    assert any("nothing was trained" in line for line in said)


def test_of_a_folder_that_grew_only_the_new_images_join(place: Path) -> None:
    grown = place / "grown"
    shutil.copytree(place / "photos", grown)
    shutil.copytree(place / "more" / "violet", grown / "violet")
    run, said = extended(place, "from-grown", train_dir=str(grown))
    assert run.extended is not None
    assert run.extended.added == {"train": 5, "validation": 1}
    assert any("30 images" in line and "has already" in line for line in said)
    with pytest.raises(DataError, match="every one of its images already"):
        extended(place, "nothing", train_dir=str(place / "photos"))


def test_without_the_images_of_the_run_classes_join_by_its_statistics(place: Path) -> None:
    shutil.move(place / "photos", place / "away")
    try:
        with pytest.raises(DataError, match="a training needs the images of the run"):
            extended(place, "refused", num_train_epochs=1)
        run, said = extended(place, "alone")
    finally:
        shutil.move(place / "away", place / "photos")
    assert run.extended is not None
    assert run.extended.missing
    assert not run.extended.before
    assert any("old classes are not measured" in line for line in said)
    kept = read_kept(place / "alone" / CLASSES)
    assert kept.statistics.counts.sum() == 26 + 5
    assert len(kept.contents["train"]) == 26 + 5
    assert run.trust.known is not None
    assert len(run.trust.known.files) == 26 + 5
    with pytest.raises(DataError, match="lacks 26 of the 31 images"):
        extended(place, "later", run="alone", train_dir=str(place / "blue"), num_train_epochs=1)


def test_labelled_images_join_by_the_list_of_next(place: Path) -> None:
    with (place / "next.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["rank", "image", "prediction", "probability", "margin", "label"])
        for number in range(4):
            label = "" if number == 3 else "violet"
            writer.writerow([number, f"more/violet/{number}.png", "red", 0.5, 0.1, label])
    run, said = extended(place, "listed", train_dir=None, dataset_name=str(place / "next.csv"))
    assert run.extended is not None
    assert run.extended.added["train"] + run.extended.added["validation"] == 3
    assert any(line.startswith("Left out: 1 image of") and "without a label" in line for line in said)


@pytest.mark.parametrize("policy", ["lp_ft", "gradual"])
def test_the_last_phase_of_several_is_the_runs_own(place: Path, policy: str) -> None:
    """Whatever the number of epochs: it says how long that phase is trained, and not which phases a policy has."""
    options = {"model_name_or_path": str(place / "base"), "train_dir": str(place / "photos"), "policy": policy}
    small: dict[str, Any] = {"num_train_epochs": 2, "figures": False, "calibration_folds": 0, "baselines": "none"}
    run = hfft.finetune(
        **options, **small, output_dir=str(place / policy), use_cpu=True, disable_tqdm=True, say=lambda line: None
    )
    assert [phase.name for phase in run.plan.phases] == ["head", "last_block"]
    for epochs in (0, 1, 9):
        more = extended(place, f"{policy}-{epochs}", run=policy, num_train_epochs=epochs)[0]
        assert [phase.name for phase in more.plan.phases] == ["last_block"]
        assert more.plan.phases[0].trainable == run.plan.phases[-1].trainable
        assert more.phases[0].epochs == epochs
        assert read_record(more.folder / "hfft.json").arguments["num_train_epochs"] == 2


def test_new_images_without_groups_stand_alone(place: Path) -> None:
    with (place / "groups.csv").open("w", newline="") as file:
        rows = [
            [f"photos/{f.parent.name}/{f.name}", f.parent.name, f"p{f.stem}"] for f in (place / "photos").rglob("*.png")
        ]
        csv.writer(file).writerows([["image", "label", "patient"], *rows])
    with (place / "bare.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "label"], *([f"more/violet/{n}.png", "violet"] for n in range(6))])
    options: dict[str, Any] = {
        "dataset_name": str(place / "groups.csv"),
        "group_column": "patient",
        "num_train_epochs": 1,
    }
    options |= {
        "figures": False,
        "calibration_folds": 0,
        "baselines": "none",
        "model_name_or_path": str(place / "base"),
    }
    hfft.finetune(**options, output_dir=str(place / "grouped"), use_cpu=True, disable_tqdm=True, say=lambda line: None)
    for name, given in (
        ("folders", {"train_dir": str(place / "more")}),
        ("table", {"train_dir": None, "dataset_name": str(place / "bare.csv")}),
    ):
        run, said = extended(place, f"grouped-{name}", run="grouped", **given)
        assert any(line.startswith("The new images stand alone, each a group of its own: ") for line in said)
        assert run.sets.train.groups is not None
        assert run.sets.validation.groups is not None
        groups = [*run.sets.train.groups, *run.sets.validation.groups]
        assert len({group for group in groups if group.startswith("no group: ")}) == 6
        assert {group for group in groups if not group.startswith("no group: ")} == {f"p{n}" for n in range(10)}


def test_a_list_that_was_not_filled_in_is_said_to_be_empty(place: Path) -> None:
    with (place / "empty.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "label"], *([f"more/violet/{n}.png", ""] for n in range(3))])
    with pytest.raises(DataError, match="not one of its images has a label; fill them in"):
        extended(place, "empty", train_dir=None, dataset_name=str(place / "empty.csv"))


def test_what_cannot_be_extended_says_so(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["extend", str(place / "base"), "--train_dir", str(place / "more")]) == 2
    assert "is not the folder of a run" in capsys.readouterr().err
    assert main(["extend", str(place / "run")]) == 2
    assert "--train_dir FOLDER" in capsys.readouterr().err
    with pytest.raises(ArgumentError, match="the run itself"):
        extended(place, "run", overwrite_output_dir=True)
    violet(place / "alike" / "Blue", 2, seed=3)
    with pytest.raises(DataError, match="'Blue' and the run's 'blue'"):
        extended(place, "alike-out", train_dir=str(place / "alike"))
    copy = place / "old"
    shutil.copytree(place / "run", copy)
    (copy / CLASSES).unlink()
    with pytest.raises(ArgumentError, match=f"holds no {CLASSES}"):
        extended(place, "old-out", run="old")


def test_programs_are_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--train_dir", str(place / "more"), "--output_dir", str(place / "json"), "--json"]
    assert main(["extend", str(place / "run"), *flags]) == 0
    result = json.loads(capsys.readouterr().out)["result"]
    assert result["extended"]["classes"] == ["violet"]
    assert result["output_dir"] == str(place / "json")


def test_the_list_tells_files_of_two_classes_that_share_a_name_apart(place: Path, tmp_path: Path) -> None:
    """Of a run on an archive, and of new images in folders elsewhere."""
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", place / "photos")
    old, new = (
        find_splits(DataArguments(train_dir=str(folder))).splits["train"].images for folder in (archive, place / "more")
    )
    sets = [replace(images, labels=np.zeros(len(images.files), np.int64)) for images in (old, new)]
    train = concatenated(sets)
    write_list(ImageSets(train, train.select([0]), None, ("any",), "both"), tmp_path / "list.parquet")
    listed = find_splits(DataArguments(dataset_name=str(tmp_path / "list.parquet"))).splits["train"].images.files
    assert {"red/1.png", "blue/1.png", "violet/1.png"} <= set(listed)
    assert len(set(listed)) == len(train)
