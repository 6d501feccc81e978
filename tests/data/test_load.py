"""Images in, labels and splits out: label maps, stratification, and an error that names each culprit."""

import hashlib
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from hfft.arguments import DataArguments
from hfft.data.images import ImageSet
from hfft.data.load import load_image_sets
from hfft.data.sampling import stratified
from hfft.errors import DataError, HfftError


def colour(number: int) -> tuple[int, int, int]:
    return (number * 37 % 256, number * 91 % 256, number * 53 % 256)


def make_folder(root: Path, counts: dict[str, int], start: int = 0) -> Path:
    """One folder per class, each image of another colour."""
    for label, count in counts.items():
        (root / label).mkdir(parents=True)
        for index in range(count):
            start += 1
            Image.new("RGB", (8, 6), colour(start)).save(root / label / f"{index:02d}.png")
    return root


def make_dataset(labels: list[Any], feature: Any, column: str = "label") -> datasets.Dataset:
    images = [Image.new("RGB", (8, 6), colour(index)) for index in range(len(labels))]
    features = datasets.Features({"picture": datasets.Image(), column: feature})
    return datasets.Dataset.from_dict({"picture": images, column: labels}, features=features)


def names(images: ImageSet, labels: tuple[str, ...]) -> list[str]:
    return [labels[label] for label in images.labels]


# Sources ----------------------------------------------------------------------------------------------


def test_nothing_given_means_the_ten_animals() -> None:
    sets = load_image_sets(DataArguments(), seed=0)
    assert sets.test is not None
    assert (len(sets.train), len(sets.validation), len(sets.test)) == (1000, 500, 500)
    assert len(sets.labels) == 10
    assert sets.train.image(0).mode == "RGB"
    assert names(sets.train, sets.labels)[0] == sets.train.files[0].partition("-")[0]


def test_a_saved_data_set_below_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    make_dataset([*"aabb"], datasets.Value("string")).save_to_disk(str(tmp_path / "saved"))
    assert load_image_sets(DataArguments(dataset_name="~/saved"), seed=0).labels == ("a", "b")


def test_class_folders_beside_a_file_of_some_state(tmp_path: Path) -> None:
    """It is one of the two files of a saved data set, and many programs write one."""
    make_folder(tmp_path / "pets", {"a": 2, "b": 2})
    (tmp_path / "pets" / "state.json").write_text("{}")
    assert load_image_sets(DataArguments(dataset_name=str(tmp_path / "pets")), seed=0).labels == ("a", "b")


def test_images_without_a_path_are_named_by_their_rows_in_the_data_set(tmp_path: Path) -> None:
    """Also once some are held back or drawn: predictions and decisions name one image each."""
    dataset = make_dataset([*"aaaabbbb"], datasets.Value("string"))
    dataset.save_to_disk(str(tmp_path / "saved"))
    for most in (None, 4):
        data = DataArguments(dataset_name=str(tmp_path / "saved"), train_val_split=0.25, max_train_samples=most)
        sets = load_image_sets(data, seed=0)
        assert set(sets.train.files).isdisjoint(sets.validation.files)
        for images in (sets.train, sets.validation):
            for row, file in enumerate(images.files):
                assert images.image(row).getpixel((0, 0)) == colour(int(file.rpartition("#")[2]))


def test_rows_without_an_image_are_refused(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    images = [Image.new("RGB", (8, 6)), None, Image.new("RGB", (8, 6)), None]
    dataset = datasets.Dataset.from_dict({"image": images, "label": [*"aabb"]}, features=features)
    dataset.save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(DataError, match="2 rows of train without an image in the column 'image', row 1 is the first"):
        load_image_sets(DataArguments(dataset_name=str(tmp_path / "saved")), seed=0)


def test_folders_give_classes_by_their_names(tmp_path: Path) -> None:
    train = make_folder(tmp_path / "pets" / "train", {"b": 3, "a": 2})
    validation = make_folder(tmp_path / "pets" / "val", {"b": 1}, start=50)
    test = make_folder(tmp_path / "pets" / "test", {"a": 1}, start=60)
    sets = load_image_sets(
        DataArguments(train_dir=str(train), validation_dir=str(validation), test_dir=str(test)), seed=0
    )
    assert sets.labels == ("a", "b")
    assert sets.train.files == ["a/00.png", "a/01.png", "b/00.png", "b/01.png", "b/02.png"]
    assert sets.train.labels.tolist() == [0, 0, 1, 1, 1]
    assert sets.train.labels.dtype == np.int64
    # A class that is missing from another split does not move the labels there.
    assert sets.validation.labels.tolist() == [1]
    assert sets.test is not None
    assert sets.test.labels.tolist() == [0]
    assert sets.name == "pets"
    assert sets.train.image(2).getpixel((0, 0)) == colour(1)


def test_folders_skip_hidden_files_and_look_below_classes(tmp_path: Path) -> None:
    train = make_folder(tmp_path / "pets", {"a": 2, "b": 2, ".ipynb_checkpoints": 1, "__MACOSX": 1})
    (train / "a" / "._00.png").write_bytes(b"junk")
    (train / "a" / "notes.txt").write_text("junk")
    (train / "b" / "more").mkdir()
    Image.new("L", (5, 5)).save(train / "b" / "more" / "x.JPG", format="JPEG")
    sets = load_image_sets(DataArguments(train_dir=str(train), validation_dir=str(train)), seed=0)
    assert sets.train.files == ["a/00.png", "a/01.png", "b/00.png", "b/01.png", "b/more/x.JPG"]


@pytest.mark.parametrize("kind", ["train_dir", "saved", "image folder"])
def test_the_same_images_come_in_every_way(tmp_path: Path, kind: str) -> None:
    folder = make_folder(tmp_path / "pets" / "train", {"a": 4, "b": 4})
    if kind == "train_dir":
        data = DataArguments(train_dir=str(folder))
    elif kind == "saved":
        loaded = datasets.load_dataset("imagefolder", data_dir=str(folder), cache_dir=str(tmp_path / "cache"))
        loaded.save_to_disk(str(tmp_path / "saved"))
        data = DataArguments(dataset_name=str(tmp_path / "saved"))
    else:
        data = DataArguments(dataset_name=str(tmp_path / "pets"))
    sets = load_image_sets(data, seed=0)
    assert sets.labels == ("a", "b")
    seen = {}
    for images in (sets.train, sets.validation):
        for row in range(len(images)):
            seen[images.image(row).getpixel((0, 0))] = sets.labels[images.labels[row]]
    assert seen == {colour(number): "a" if number <= 4 else "b" for number in range(1, 9)}


@pytest.mark.parametrize(
    ("feature", "labels", "expected"),
    [
        (datasets.ClassLabel(names=["z", "unused", "a"]), [0, 2, 0, 2, 2], ("z", "a")),
        (datasets.Value("string"), ["z", "a", "z", "a", "a"], ("a", "z")),
        (datasets.Value("int64"), [10, 9, 10, 9, 9], ("9", "10")),
        (datasets.Value("bool"), [True, False, True, False, False], ("False", "True")),
    ],
)
def test_label_columns_of_every_type(tmp_path: Path, feature: Any, labels: list[Any], expected: Any) -> None:
    make_dataset(labels, feature, "species").save_to_disk(str(tmp_path))
    sets = load_image_sets(DataArguments(dataset_name=str(tmp_path)), seed=0)
    assert sets.labels == expected
    counts = np.bincount(np.concatenate([sets.train.labels, sets.validation.labels]))
    assert sorted(counts.tolist()) == [2, 3]


def test_columns_can_be_named(tmp_path: Path) -> None:
    table = make_dataset([0, 1, 0, 1], datasets.ClassLabel(names=["x", "y"]), "coarse")
    table = table.add_column("fine", ["p", "q", "r", "p"]).add_column("file", [f"{i}" for i in range(4)])
    table.save_to_disk(str(tmp_path))
    data = DataArguments(dataset_name=str(tmp_path), label_column_name="fine", validation_dir=None)
    with pytest.raises(DataError, match="'q' has a single image"):
        load_image_sets(data, seed=0)
    data = DataArguments(dataset_name=str(tmp_path), label_column_name="coarse", image_column_name="picture")
    assert load_image_sets(data, seed=0).labels == ("x", "y")


def test_a_column_of_paths_is_a_column_of_images_where_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "f", {"a": 2, "b": 2})
    paths = [str(path) for path in sorted(folder.glob("*/*.png"))]
    table = datasets.Dataset.from_dict({"where": paths, "label": ["a", "a", "b", "b"]})
    table.save_to_disk(str(tmp_path / "saved"))
    data = DataArguments(dataset_name=str(tmp_path / "saved"), image_column_name="where")
    sets = load_image_sets(data, seed=0)
    assert sets.train.image(0).size == (8, 6)


@pytest.mark.parametrize("validation", ["validation", "valid", "val", None])
def test_test_split_is_never_used_for_validation(tmp_path: Path, validation: str | None) -> None:
    feature = datasets.ClassLabel(names=["a", "b"])
    parts = {"train": make_dataset([0, 1] * 10, feature), "test": make_dataset([0, 1] * 3, feature)}
    if validation:
        parts[validation] = make_dataset([0, 1] * 4, feature)
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path))
    sets = load_image_sets(DataArguments(dataset_name=str(tmp_path), train_val_split=0.2), seed=0)
    assert sets.test is not None
    assert (len(sets.train), len(sets.validation), len(sets.test)) == ((20, 8, 6) if validation else (16, 4, 6))


def test_test_split_without_labels_is_left_out(tmp_path: Path) -> None:
    feature = datasets.ClassLabel(names=["a", "b"])
    parts = {"train": make_dataset([0, 1] * 10, feature), "test": make_dataset([-1] * 6, feature)}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path))
    sets = load_image_sets(DataArguments(dataset_name=str(tmp_path)), seed=0)
    assert sets.test is None
    assert "Left out: the test split, whose 6 images have no labels" in sets.notes


def test_a_table_beside_class_folders_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "metadata.csv").write_text("file_name,label\n")
    notes = load_image_sets(DataArguments(train_dir=str(tmp_path)), seed=0).notes
    assert any(note.startswith("Not read: metadata.csv, since classes are the folders' names here") for note in notes)


def test_progress_bars_are_as_they_were(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_folder(tmp_path / "train", {"a": 3, "b": 3})
    before = datasets.are_progress_bars_disabled()
    load_image_sets(DataArguments(dataset_name=str(tmp_path)), seed=0)
    assert datasets.are_progress_bars_disabled() == before
    assert "it/s" not in capsys.readouterr().err


# Stratified samples -----------------------------------------------------------------------------------


def test_split_is_stratified_seeded_and_disjoint(tmp_path: Path) -> None:
    train = make_folder(tmp_path / "pets", {"a": 40, "b": 20})
    data = DataArguments(train_dir=str(train), train_val_split=0.25)
    sets, again, other = (load_image_sets(data, seed=seed) for seed in (1, 1, 2))
    assert np.bincount(sets.validation.labels).tolist() == [10, 5]
    assert np.bincount(sets.train.labels).tolist() == [30, 15]
    assert not set(sets.train.files) & set(sets.validation.files)
    assert len({*sets.train.files, *sets.validation.files}) == 60
    assert sets.validation.files == again.validation.files
    assert sets.validation.files != other.validation.files


def test_samples_keep_the_shares() -> None:
    data = DataArguments(max_train_samples=200, max_eval_samples=50)
    sets = load_image_sets(data, seed=3)
    assert sets.test is not None
    assert np.bincount(sets.train.labels).tolist() == [20] * 10
    assert np.bincount(sets.validation.labels).tolist() == [5] * 10
    assert np.bincount(sets.test.labels).tolist() == [5] * 10
    assert len(load_image_sets(DataArguments(max_train_samples=5000), seed=3).train) == 1000


@pytest.mark.parametrize(
    ("sizes", "count", "keep_one", "expected"),
    [
        ([40, 20], 15, False, [10, 5]),
        ([5, 5, 5], 4, False, [2, 1, 1]),
        ([97, 2, 1], 10, False, [8, 1, 1]),
        ([97, 2, 1], 3, False, [1, 1, 1]),
        ([97, 2, 1], 2, False, [2, 0, 0]),
        ([10, 2, 2], 11, True, [9, 1, 1]),
        ([3, 3], 6, False, [3, 3]),
        ([1000, 2, 2], 4, True, [2, 1, 1]),
    ],
)
def test_quotas_are_exact(sizes: list[int], count: int, keep_one: bool, expected: list[int]) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    rows = stratified(labels, count, seed=0, keep_one=keep_one)
    assert np.bincount(labels[rows], minlength=len(sizes)).tolist() == expected
    assert len(set(rows.tolist())) == count


def test_small_classes_are_on_both_sides(tmp_path: Path) -> None:
    train = make_folder(tmp_path / "pets", {"a": 20, "b": 2})
    sets = load_image_sets(DataArguments(train_dir=str(train), train_val_split=0.1), seed=0)
    assert np.bincount(sets.validation.labels).tolist() == [1, 1]
    assert np.bincount(sets.train.labels).tolist() == [19, 1]
    assert not any(note.startswith("Set aside: ") for note in sets.notes)
    raised = load_image_sets(DataArguments(train_dir=str(train), train_val_split=0.05), seed=0)
    assert np.bincount(raised.validation.labels).tolist() == [1, 1]
    assert raised.notes[-1] == "Set aside: 2 of 22 images, more than --train_val_split 0.05, as each class needs one"


@pytest.mark.parametrize(
    ("images", "share", "held_out"),
    [(20, 0.15, 3), (20, 0.05, 2), (20, 0.6, 12), (60, 0.15, 9), (100, 0.15, 15), (6, 0.15, 2), (3, 0.15, 1)],
)
def test_of_numbers_the_asked_share_is_set_aside_over_their_whole_range(
    images: int, share: float, held_out: int, tmp_path: Path
) -> None:
    train = make_folder(tmp_path / "faces", {"a": images})
    files = sorted(file.relative_to(tmp_path) for file in train.rglob("*.png"))
    rows = [f"{file},{number}" for number, file in enumerate(files)]
    (tmp_path / "faces.csv").write_text("\n".join(["image,age", *rows]))
    data = DataArguments(
        dataset_name=str(tmp_path / "faces.csv"), label_column_name="age", task="regression", train_val_split=share
    )
    sets = load_image_sets(data, seed=0)
    assert (len(sets.train), len(sets.validation)) == (images - held_out, held_out)
    middle = (images - 1) / 2
    assert held_out == 1 or sets.validation.labels.min() < middle < sets.validation.labels.max()
    few = load_image_sets(replace(data, max_eval_samples=2), seed=0).validation.labels
    assert held_out == 1 or few.min() < middle < few.max()
    assert any(note.startswith("Set aside: ") for note in sets.notes) is (held_out > round(share * images))


# Fingerprints -----------------------------------------------------------------------------------------


def test_fingerprint_follows_files_but_not_where_the_folder_lies(tmp_path: Path) -> None:
    train = make_folder(tmp_path / "here", {"a": 2, "b": 2})
    both = DataArguments(train_dir=str(train), validation_dir=str(train))
    first = load_image_sets(both, seed=0).train.fingerprint()
    moved = train.rename(tmp_path / "there")
    there = load_image_sets(DataArguments(train_dir=str(moved), validation_dir=str(moved)), seed=0)
    assert there.train.fingerprint() == there.validation.fingerprint() == first
    Image.new("RGB", (9, 9)).save(moved / "a" / "00.png")
    changed = load_image_sets(DataArguments(train_dir=str(moved), validation_dir=str(moved)), seed=0)
    assert changed.train.fingerprint() != first


def test_an_image_is_its_content_whatever_its_name_size_and_time(tmp_path: Path) -> None:
    train = make_folder(tmp_path / "here", {"a": 2, "b": 2})
    both = DataArguments(train_dir=str(train), validation_dir=str(train))
    images = load_image_sets(both, seed=0).train
    files = [train / name for name in images.files]
    assert images.contents() == [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    # Bytes in memory count like the file that they came from.
    values = {"image": [{"path": None, "bytes": file.read_bytes()} for file in files]}
    table = datasets.Dataset.from_dict(values, datasets.Features({"image": datasets.Image(decode=False)}))
    assert ImageSet(table, images.labels, "memory").fingerprint() == images.fingerprint()
    changed = bytearray(files[0].read_bytes())
    changed[-1] ^= 1
    status = files[0].stat()
    files[0].write_bytes(changed)
    os.utime(files[0], ns=(status.st_atime_ns, status.st_mtime_ns))
    again = load_image_sets(both, seed=0).train
    assert [before == after for before, after in zip(images.contents(), again.contents(), strict=True)].count(
        False
    ) == 1
    assert again.fingerprint() != images.fingerprint()


def test_fingerprint_follows_bytes_and_order_but_not_labels() -> None:
    sets = load_image_sets(DataArguments(), seed=0)
    images = sets.validation.select(range(20))
    assert images.fingerprint() == sets.validation.select(range(20)).fingerprint()
    assert images.fingerprint() != images.select(range(19, -1, -1)).fingerprint()
    assert images.fingerprint() != images.select(range(19)).fingerprint()
    relabelled = ImageSet(images.dataset, images.labels[::-1].copy(), images.name)
    assert images.fingerprint() == relabelled.fingerprint()


def test_image_sets_travel_to_other_processes() -> None:
    images = load_image_sets(DataArguments(max_train_samples=10), seed=0).train
    copy = pickle.loads(pickle.dumps(images))  # noqa: S301
    assert copy.fingerprint() == images.fingerprint()
    assert copy.image(3).tobytes() == images.image(3).tobytes()


# One image --------------------------------------------------------------------------------------------


def image_set(path: Path) -> ImageSet:
    features = datasets.Features({"image": datasets.Image(decode=False)})
    table = datasets.Dataset.from_dict({"image": [{"path": str(path), "bytes": None}]}, features)
    return ImageSet(table, np.zeros(1, dtype=np.int64), "one", path.parent)


def save_turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 6), "red").save(path, exif=exif)


def save_16_bit(path: Path) -> None:
    Image.fromarray(np.full((6, 8), 200 * 256, dtype=np.uint16)).save(path)


def save_transparent(path: Path) -> None:
    image = Image.new("P", (8, 6), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(path, transparency=0)


def save_animation(path: Path) -> None:
    frames = [Image.new("RGB", (8, 6), shade) for shade in ("white", "black")]
    frames[0].save(path, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("save", "suffix", "size", "pixel"),
    [
        (save_turned, ".jpg", (6, 8), (254, 0, 0)),
        (save_16_bit, ".png", (8, 6), (200, 200, 200)),
        (save_transparent, ".png", (8, 6), (10, 20, 30)),
        (save_animation, ".gif", (8, 6), (255, 255, 255)),
        (lambda path: Image.new("L", (8, 6), 77).save(path), ".png", (8, 6), (77, 77, 77)),
        (lambda path: Image.new("1", (8, 6), 1).save(path), ".png", (8, 6), (255, 255, 255)),
        (lambda path: Image.new("RGBA", (8, 6), (9, 8, 7, 6)).save(path), ".png", (8, 6), (9, 8, 7)),
        (lambda path: Image.new("CMYK", (8, 6)).save(path), ".jpg", (8, 6), (255, 255, 255)),
    ],
)
def test_every_kind_of_image_comes_upright_in_rgb(
    tmp_path: Path, save: Callable[[Path], None], suffix: str, size: tuple[int, int], pixel: tuple[int, int, int]
) -> None:
    path = tmp_path / f"image{suffix}"
    save(path)
    image = image_set(path).image(0)
    assert (image.mode, image.size, image.getpixel((3, 3))) == ("RGB", size, pixel)


def save_truncated(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize(
    "spoil",
    [
        save_truncated,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("<html>404</html>"),
        lambda path: None,
        lambda path: path.mkdir(),
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_an_unreadable_image_is_named(tmp_path: Path, spoil: Callable[[Path], None], suffix: str) -> None:
    path = tmp_path / f"culprit{suffix}"
    spoil(path)
    with pytest.raises(DataError, match=rf"culprit\{suffix}.*leave it out") as caught:
        image_set(path).image(0)
    assert "\n" not in str(caught.value)


def test_fingerprint_names_a_file_that_went_away(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png"):
        image_set(tmp_path / "gone.png").fingerprint()


# Bad input --------------------------------------------------------------------------------------------


def saved(path: Path, labels: list[Any], feature: Any, **others: list[Any]) -> str:
    table = make_dataset(labels, feature)
    for column, values in others.items():
        table = table.add_column(column, values)
    table.save_to_disk(str(path / "set"))
    return str(path / "set")


TWO = datasets.ClassLabel(names=["a", "b"])


def missing_folder(path: Path) -> DataArguments:
    return DataArguments(train_dir=str(path / "nowhere"))


def empty_folder(path: Path) -> DataArguments:
    (path / "empty").mkdir()
    return DataArguments(train_dir=str(path / "empty"))


def folder_without_images(path: Path) -> DataArguments:
    for label in ("a", "b"):
        (path / "blank" / label).mkdir(parents=True)
    return DataArguments(train_dir=str(path / "blank"))


def folder_with_an_empty_class(path: Path) -> DataArguments:
    return DataArguments(train_dir=str(make_folder(path / "pets", {"a": 2, "b": 2, "hollow": 0})))


def folder_of_splits(path: Path) -> DataArguments:
    make_folder(path / "pets" / "train", {"a": 2, "b": 2})
    make_folder(path / "pets" / "val", {"a": 2, "b": 2})
    return DataArguments(train_dir=str(path / "pets"))


def one_class(path: Path) -> DataArguments:
    return DataArguments(train_dir=str(make_folder(path / "pets", {"only": 5})))


def missing_validation_folder(path: Path) -> DataArguments:
    train = make_folder(path / "pets", {"a": 2, "b": 2})
    return DataArguments(train_dir=str(train), validation_dir=str(path / "away"))


def class_unknown_to_training(path: Path) -> DataArguments:
    train = make_folder(path / "pets", {"a": 2, "b": 2})
    validation = make_folder(path / "val", {"a": 1, "stranger": 1})
    return DataArguments(train_dir=str(train), validation_dir=str(validation))


def class_of_one(path: Path) -> DataArguments:
    return DataArguments(train_dir=str(make_folder(path / "pets", {"a": 5, "lonely": 1})))


def fewer_images_than_classes(path: Path) -> DataArguments:
    return DataArguments(train_dir=str(make_folder(path / "pets", {"a": 3, "b": 3, "c": 3})), max_train_samples=2)


def no_image_column(path: Path) -> DataArguments:
    datasets.Dataset.from_dict({"text": ["x", "y"], "label": [0, 1]}).save_to_disk(str(path / "set"))
    return DataArguments(dataset_name=str(path / "set"))


def two_image_columns(path: Path) -> DataArguments:
    table = make_dataset([0, 1], TWO)
    masks = make_dataset([0, 1], TWO).rename_column("picture", "mask").remove_columns("label")
    datasets.concatenate_datasets([table, masks], axis=1).save_to_disk(str(path / "set"))
    return DataArguments(dataset_name=str(path / "set"))


def no_label_column(path: Path) -> DataArguments:
    make_dataset([0.5, 1.5], datasets.Value("float32")).save_to_disk(str(path / "set"))
    return DataArguments(dataset_name=str(path / "set"), task="single_label")


def two_label_columns(path: Path) -> DataArguments:
    table = make_dataset(["a", "b"], datasets.Value("string"), "genus").add_column("species", ["x", "y"])
    table.save_to_disk(str(path / "set"))
    return DataArguments(dataset_name=str(path / "set"))


def wrong_image_column(path: Path) -> DataArguments:
    return DataArguments(dataset_name=saved(path, [0, 1], TWO), image_column_name="imgae")


def wrong_label_column(path: Path) -> DataArguments:
    return DataArguments(dataset_name=saved(path, [0, 1], TWO), label_column_name="lable")


def numbers_for_images(path: Path) -> DataArguments:
    return DataArguments(dataset_name=saved(path, [0, 1], TWO, size=[3, 4]), image_column_name="size")


def rows_without_labels(path: Path) -> DataArguments:
    return DataArguments(dataset_name=saved(path, [0, 1, -1], TWO))


def empty_data_set(path: Path) -> DataArguments:
    return DataArguments(dataset_name=saved(path, [], TWO))


def no_training_split(path: Path) -> DataArguments:
    datasets.DatasetDict(left=make_dataset([0, 1], TWO)).save_to_disk(str(path / "set"))
    return DataArguments(dataset_name=str(path / "set"))


def missing_data_set(path: Path) -> DataArguments:
    return DataArguments(dataset_name=str(path / "no-such-set"))


def folder_of_nothing(path: Path) -> DataArguments:
    (path / "void").mkdir()
    return DataArguments(dataset_name=str(path / "void"))


def folder_of_archives(path: Path) -> DataArguments:
    (path / "zips").mkdir()
    for split in ("test", "train"):
        (path / "zips" / f"{split}.zip").write_bytes(b"")
    return DataArguments(dataset_name=str(path / "zips"))


@pytest.mark.parametrize(
    ("make", "culprit"),
    [
        (missing_folder, "nowhere: there is no such folder"),
        (empty_folder, "empty: it holds no folders"),
        (folder_without_images, "blank: its folders hold no images"),
        (folder_with_an_empty_class, "the class 'hollow' has no images"),
        (folder_of_splits, "its folders train, val look like splits"),
        (one_class, "pets: all images are of one class, 'only'"),
        (missing_validation_folder, "--validation_dir .*away"),
        (class_unknown_to_training, r"val: the class 'stranger' \(as of stranger/00.png\) has no training images"),
        (class_of_one, "pets: the class 'lonely' has a single image"),
        (fewer_images_than_classes, "--max_train_samples 2 is less"),
        (no_image_column, "no column of images.*--image_column_name.*text"),
        (two_image_columns, "several columns of images.*picture, mask.*--image_column_name"),
        (no_label_column, "the column 'label' holds numbers such as 0.5, which are not classes"),
        (two_label_columns, r"several columns that may be labels \(genus, species\).*--label_column_name"),
        (wrong_image_column, "no column 'imgae'.*picture"),
        (wrong_label_column, "no column 'lable'.*label"),
        (numbers_for_images, "the column 'size' holds no images"),
        (rows_without_labels, "the image .*#2 has no label"),
        (empty_data_set, "--dataset_name .*set: "),
        (no_training_split, "left but no 'train'"),
        (missing_data_set, "no-such-set: cannot be loaded"),
        (folder_of_nothing, "void: it holds no folders of images"),
        (folder_of_archives, "but test.zip, train.zip; give each archive by itself: --train_dir .*zips/train.zip"),
    ],
)
def test_bad_input_is_named_in_one_line(tmp_path: Path, make: Callable[[Path], DataArguments], culprit: str) -> None:
    with pytest.raises(HfftError, match=culprit) as caught:
        load_image_sets(make(tmp_path), seed=0)
    assert "\n" not in str(caught.value)
