"""Images of one patient, burst or video stay on one side of a split."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from finished import make_model
from PIL import Image

from hfft.arguments import DataArguments
from hfft.cli import main
from hfft.data.load import ImageSets, load_image_sets
from hfft.data.sampling import group_folds, named_groups
from hfft.errors import ArgumentError, DataError

PATTERN = r"(patient\d+)_"


def write(folder: Path, patients: dict[str, tuple[int, ...]], each: int = 3) -> Path:
    """Write images ``CLASS/patientN_K.png``."""
    random = np.random.default_rng(0)
    for label, numbers in patients.items():
        (folder / label).mkdir(parents=True)
        for patient in numbers:
            for number in range(each):
                pixels = random.integers(0, 255, (40, 40, 3), np.uint8)
                Image.fromarray(pixels).save(folder / label / f"patient{patient}_{number}.png")
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write(tmp_path / "images", {"ill": (1, 2, 3, 4), "well": (5, 6, 7, 8)})


@pytest.mark.parametrize("seed", range(4))
def test_a_pattern_keeps_groups_whole(images: Path, seed: int) -> None:
    data = DataArguments(train_dir=str(images), train_val_split=0.25, group_pattern=PATTERN)
    sets = load_image_sets(data, seed)
    assert sets.train.groups is not None
    assert sets.validation.groups is not None
    assert not set(sets.train.groups) & set(sets.validation.groups)
    assert len(sets.validation) == 6
    assert set(sets.train.labels) == set(sets.validation.labels) == {0, 1}
    assert "The training images are of 6 groups" in sets.notes
    for file, group in zip(sets.train.files, sets.train.groups, strict=True):
        assert f"/{group}_" in file


def test_without_groups_patients_are_on_both_sides(images: Path) -> None:
    sets = load_image_sets(DataArguments(train_dir=str(images), train_val_split=0.25), 0)
    sides = [{file.split("_")[0] for file in part.files} for part in (sets.train, sets.validation)]
    assert sides[0] & sides[1]
    assert sets.train.groups is None


def test_a_column_keeps_groups_whole(images: Path) -> None:
    with (images / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "label", "patient"])
        for path in sorted(images.glob("*/*.png")):
            writer.writerow([path.relative_to(images), path.parent.name, path.name.partition("_")[0]])
    data = DataArguments(dataset_name=str(images), train_val_split=0.25, group_column="patient")
    sets = load_image_sets(data, 0)
    assert sets.train.groups is not None
    assert sets.validation.groups is not None
    assert not set(sets.train.groups) & set(sets.validation.groups)


def test_groups_that_look_like_decimals_are_names(images: Path) -> None:
    table = images / "list.csv"
    rows = [(file, "1.10" if number % 2 else "1.1") for number, file in enumerate(sorted(images.glob("*/*.png")))]
    lines = [f"{file.relative_to(images)},{file.parent.name},{group}" for file, group in rows]
    table.write_text("\n".join(["image,label,patient", *lines]))
    sets = load_image_sets(DataArguments(dataset_name=str(table), train_val_split=0.5, group_column="patient"), 0)
    assert set(groups_of(sets)) == {"1.1", "1.10"}


def groups_of(sets: ImageSets) -> list[str]:
    assert sets.train.groups is not None
    assert sets.validation.groups is not None
    return [*sets.train.groups.tolist(), *sets.validation.groups.tolist()]


def test_images_without_a_group_stand_alone_and_spaces_part_none(images: Path) -> None:
    files = sorted(str(file.relative_to(images)) for file in images.rglob("*.png"))
    rows = [(file, file.split("/")[0], ("p1 ", "p1", " p2", "", "")[n % 5]) for n, file in enumerate(files)]
    with (images / "some.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "label", "patient"), *rows])
    found = load_image_sets(
        DataArguments(dataset_name=str(images / "some.csv"), train_val_split=0.25, group_column="patient"), 0
    )
    groups = groups_of(found)
    known = [group for group in groups if not group.startswith("no group: ")]
    assert set(known) == {"p1", "p2"}
    assert len(set(groups)) == 2 + len(groups) - len(known)
    assert any("of them are single images that name none" in note for note in found.notes)
    data = DataArguments(train_dir=str(images), train_val_split=0.25, group_pattern=r"patient[0-2]|(patient[3-9])")
    assert sum(group.startswith("no group: ") for group in groups_of(load_image_sets(data, 0))) > 2


def test_a_given_split_with_a_group_on_both_sides_is_pointed_out(images: Path, tmp_path: Path) -> None:
    tests = write(tmp_path / "tests", {"ill": (4, 9), "well": (10,)})
    data = DataArguments(train_dir=str(images), test_dir=str(tests), train_val_split=0.25, group_pattern=PATTERN)
    found = [load_image_sets(data, seed) for seed in range(4)]
    assert any("1 of the groups of the test images are trained on as well (patient4)" in str(s.notes) for s in found)


def test_what_cannot_be_parted_is_refused(tmp_path: Path, images: Path) -> None:
    alone = write(tmp_path / "alone", {"ill": (1,), "well": (2,)})
    with pytest.raises(DataError, match="its 2 groups cannot be parted so that every class keeps training images"):
        load_image_sets(DataArguments(train_dir=str(alone), group_pattern=PATTERN), 0)
    with pytest.raises(DataError, match=r"matches nothing in ill/patient1_0\.png, and in 12 names of 24"):
        load_image_sets(DataArguments(train_dir=str(images), group_pattern=r"well/(patient\d)"), 0)
    with pytest.raises(DataError, match="class folders have no column 'patient'"):
        load_image_sets(DataArguments(train_dir=str(images), group_column="patient"), 0)
    with pytest.raises(ArgumentError, match="exclude each other"):
        DataArguments(train_dir=str(images), group_column="a", group_pattern="b")
    with pytest.raises(ArgumentError, match="is not a regular expression"):
        DataArguments(train_dir=str(images), group_pattern="(")


def test_a_run_records_its_groups(images: Path, tmp_path: Path) -> None:
    flags = ["--model_name_or_path", str(make_model(tmp_path / "base")), "--train_dir", str(images)]
    flags += ["--group_pattern", PATTERN, "--policy", "head", "--num_train_epochs", "1", "--figures", "false"]
    assert main(["finetune", *flags, "--output_dir", str(tmp_path / "out"), "--disable_tqdm", "true"]) == 0
    assert "The training images are of " in (tmp_path / "out" / "hfft.json").read_text()


def test_groups_of_few_images_are_parted(tmp_path: Path) -> None:
    """With fewer images of each class than a share has folds."""
    images = write(tmp_path / "few", {"ill": (1, 2, 3), "well": (4, 5, 6)}, each=1)
    sets = load_image_sets(DataArguments(train_dir=str(images), group_pattern=PATTERN), 0)
    assert len(sets.train) + len(sets.validation) == 6
    assert {0, 1} == set(sets.train.labels.tolist())


@pytest.mark.parametrize("each", [2, 6])
def test_groups_of_numbers_are_parted_although_each_has_a_range_of_its_own(images: Path, each: int) -> None:
    files = sorted(images.rglob("*.png"))
    lines = [f"{file.relative_to(images)},{number + 0.5},p{number // each}" for number, file in enumerate(files)]
    (images / "ages.csv").write_text("\n".join(["image,age,patient", *lines]))
    data = DataArguments(dataset_name=str(images / "ages.csv"), label_column_name="age", group_column="patient")
    sets = load_image_sets(data, 0)
    assert (len(sets.train) + len(sets.validation), sets.task.name) == (len(files), "regression")
    groups, held_out = sets.train.groups, sets.validation.groups
    assert groups is not None
    assert held_out is not None
    assert not {*groups.tolist()} & {*held_out.tolist()}


def test_a_group_is_one_however_a_system_writes_its_letters() -> None:
    assert len(set(named_groups(["Andr\u00e9", "Andre\u0301 "], "x"))) == 1


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (3, 3), (5, 5, 5), (1, 9)])
def test_folds_of_groups_hold_each_image_out_once(sizes: tuple[int, ...]) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    groups = np.array([f"g{number // 2}" for number in range(len(labels))])
    folds = list(group_folds(labels, groups, 7, 0))
    assert sorted(np.concatenate([held_out for _, held_out in folds])) == list(range(len(labels)))
    for train, held_out in folds:
        assert set(groups[train]).isdisjoint(groups[held_out])
