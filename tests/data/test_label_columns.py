"""However several labels or numbers are written, the same targets come out, and what they were taken for is said."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from tagged import TAGS, make_tagged

from hfft.arguments import DataArguments
from hfft.cli import main
from hfft.data.load import ImageSets, load_image_sets
from hfft.errors import ArgumentError, DataError


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tagged(tmp_path_factory.mktemp("tagged") / "images")


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def rewritten(table: Path, name: str, cell: Callable[[list[str]], str]) -> Path:
    """Another table beside the images, with tags written in another way."""
    rows = rows_of(table)
    with (table.parent / name).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label"])
        writer.writerows([row["image"], cell([tag for tag in row["tags"].split(";") if tag])] for row in rows)
    return table.parent / name


def truth(table: Path) -> dict[str, frozenset[str]]:
    return {row["image"]: frozenset(filter(None, row["tags"].split(";"))) for row in rows_of(table)}


def found(sets: ImageSets) -> dict[str, frozenset[str]]:
    parts = (sets.train, sets.validation)
    return {
        Path(file).name: frozenset(label)
        for part in parts
        for file, label in zip(part.files, part.task.decode(part.labels, sets.labels), strict=True)
    }


def parquet(table: Path, path: Path, feature: Any, value: Callable[[frozenset[str]], Any]) -> Path:
    known = truth(table)
    data = {"image": [str(table.parent / name) for name in known], "label": [value(tags) for tags in known.values()]}
    features = datasets.Features({"image": datasets.Value("string"), "label": feature})
    datasets.Dataset.from_dict(data, features).to_parquet(str(path))
    return path


def separated(table: Path, path: Path) -> DataArguments:
    return DataArguments(dataset_name=str(table), label_column_name="tags", label_separator=";")


def written_as_json(table: Path, path: Path) -> DataArguments:
    return DataArguments(dataset_name=str(rewritten(table, "json.csv", json.dumps)))


def written_as_python(table: Path, path: Path) -> DataArguments:
    return DataArguments(dataset_name=str(rewritten(table, "python.csv", repr)))


def columns(table: Path, path: Path) -> DataArguments:
    return DataArguments(dataset_name=str(table), label_columns=list(TAGS))


def lists_of_text(table: Path, path: Path) -> DataArguments:
    made = parquet(table, path / "x.parquet", datasets.Sequence(datasets.Value("string")), sorted)
    return DataArguments(dataset_name=str(made))


def lists_of_classes(table: Path, path: Path) -> DataArguments:
    known = truth(table)
    feature = datasets.Sequence(datasets.ClassLabel(names=list(TAGS)))
    features = datasets.Features({"image": datasets.Image(), "label": feature})
    data = {"image": [str(table.parent / name) for name in known], "label": [sorted(tags) for tags in known.values()]}
    datasets.Dataset.from_dict(data, features).save_to_disk(str(path / "set"))
    return DataArguments(dataset_name=str(path / "set"))


def metadata(table: Path, path: Path) -> DataArguments:
    shutil.copytree(table.parent, path / "set", ignore=shutil.ignore_patterns("*.csv"))
    with (path / "set" / "metadata.jsonl").open("w") as file:
        for name, tags in truth(table).items():
            file.write(json.dumps({"file_name": name, "label": sorted(tags)}) + "\n")
    return DataArguments(dataset_name=str(path / "set"))


def folders(table: Path, path: Path) -> DataArguments:
    for name, tags in truth(table).items():
        for tag in tags:
            (path / "set" / tag).mkdir(parents=True, exist_ok=True)
            shutil.copy(table.parent / name, path / "set" / tag / name)
    return DataArguments(train_dir=str(path / "set"), task="multi_label")


def zipped(table: Path, path: Path) -> DataArguments:
    folders(table, path)
    return DataArguments(dataset_name=shutil.make_archive(str(path / "set"), "zip", path / "set"), task="multi_label")


@pytest.mark.parametrize(
    "make",
    [
        *(separated, written_as_json, written_as_python, columns, lists_of_text, lists_of_classes, metadata),
        *(folders, zipped),
    ],
)
def test_several_labels_however_they_are_written(
    make: Callable[[Path, Path], DataArguments], table: Path, tmp_path: Path
) -> None:
    sets = load_image_sets(make(table, tmp_path), seed=0)
    wanted = truth(table)
    if make not in (folders, zipped):  # which have no place for an image without a label
        assert found(sets) == wanted
    else:
        assert sorted(found(sets).values(), key=sorted) == sorted(filter(None, wanted.values()), key=sorted)
    assert sets.labels == TAGS
    assert sets.task.name == "multi_label"
    assert sets.train.labels.dtype == np.float32
    assert any(note.startswith("Read as multi_label: ") for note in sets.notes)
    if make not in (folders, zipped):
        told = make is not columns
        assert any("have no label" in note for note in sets.notes) is told
    assert len(sets.validation) >= len(np.unique(sets.train.strata)) - 1


def test_numbers(table: Path, tmp_path: Path) -> None:
    given = {row["image"]: (float(row["warmth"]), float(row["light"])) for row in rows_of(table)}
    two = load_image_sets(DataArguments(dataset_name=str(table), label_columns=["warmth", "light"]), seed=0)
    assert (two.task.name, two.labels) == ("regression", ("warmth", "light"))
    assert "Read as regression: the columns warmth, light hold numbers" in two.notes
    for part in (two.train, two.validation):
        for file, values in zip(part.files, part.labels, strict=True):
            assert values == pytest.approx(given[Path(file).name], rel=1e-6)
    one = DataArguments(dataset_name=str(table), label_column_name="warmth", task="regression")
    assert load_image_sets(one, seed=0).labels == ("warmth",)
    guessed = load_image_sets(DataArguments(dataset_name=str(table), label_columns=["warmth"]), seed=0)
    assert guessed.train.labels.shape == (len(guessed.train), 1)
    made = parquet(table, tmp_path / "x.parquet", datasets.Value("float32"), lambda tags: len(tags) + 0.5)
    sets = load_image_sets(DataArguments(dataset_name=str(made)), seed=0)
    assert "Read as regression: the column 'label' holds numbers such as 0.5" in sets.notes
    whole = parquet(table, tmp_path / "y.parquet", datasets.Value("int64"), len)
    assert load_image_sets(DataArguments(dataset_name=str(whole)), seed=0).task.name == "single_label"
    counted = load_image_sets(DataArguments(dataset_name=str(whole), task="regression"), seed=0)
    assert sorted(set(counted.train.labels[:, 0].tolist())) == [0, 1, 2, 3]
    lists = parquet(
        table,
        tmp_path / "z.parquet",
        datasets.Sequence(datasets.Value("float32")),
        lambda tags: [len(tags), 1.5 - len(tags)],
    )
    assert load_image_sets(DataArguments(dataset_name=str(lists)), seed=0).labels == ("label_1", "label_2")


def test_numbers_with_fractions_in_a_csv_are_numbers(table: Path) -> None:
    made = rewritten(table, "fractions.csv", lambda tags: str(28.25 + len(tags)))
    sets = load_image_sets(DataArguments(dataset_name=str(made)), seed=0)
    assert "Read as regression: the column 'label' holds numbers such as 28.25" in sets.notes
    classes = load_image_sets(DataArguments(dataset_name=str(made), task="single_label", train_val_split=0.5), seed=0)
    assert "28.25" in classes.labels
    for cell in (lambda tags: str(float(len(tags))), lambda tags: f"v1.{len(tags)}", lambda tags: f"{len(tags)}"):
        other = rewritten(table, "classes.csv", cell)
        assert load_image_sets(DataArguments(dataset_name=str(other)), seed=0).task.name == "single_label"


def test_empty_cells_of_yes_and_no_are_counted(table: Path) -> None:
    rows = rows_of(table)
    path = table.parent / "gaps.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *TAGS])
        for number, row in enumerate(rows):
            writer.writerow([row["image"], "" if number < 3 else row[TAGS[0]], *(row[tag] for tag in TAGS[1:])])
    sets = load_image_sets(DataArguments(dataset_name=str(path), label_columns=list(TAGS)), seed=0)
    assert f"3 empty cells of {TAGS[0]} are read as no" in sets.notes
    whole = load_image_sets(DataArguments(dataset_name=str(table), label_columns=list(TAGS)), seed=0)
    assert not any("empty cells" in note for note in whole.notes)


def test_a_split_that_alone_would_be_another_task_is_read_as_the_training_images_are(
    table: Path, tmp_path: Path
) -> None:
    names = sorted(truth(table))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("float32")})

    def part(values: list[float]) -> datasets.Dataset:
        paths = [str(table.parent / name) for name in names[: len(values)]]
        return datasets.Dataset.from_dict({"image": paths, "label": values}, features)

    both = datasets.DatasetDict(train=part([0.5, 1.5, 2.0, 3.0]), test=part([1.0, 2.0]))
    both.save_to_disk(str(tmp_path / "set"))
    sets = load_image_sets(DataArguments(dataset_name=str(tmp_path / "set"), train_val_split=0.5), seed=0)
    assert sets.test is not None
    assert sets.test.labels.tolist() == [[1.0], [2.0]]


def refused(table: Path, **options: Any) -> DataArguments:
    return DataArguments(dataset_name=str(table), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_column_name": "tags", "task": "multi_label"}, "holds text; say by --label_separator"),
        ({"label_columns": ["red", "warmth"], "task": "multi_label"}, "'warmth' holds .*a label's column holds 1 or 0"),
        ({"label_columns": ["red", "pink"]}, "no column 'pink' as --label_columns says"),
        ({"label_column_name": "tags", "task": "regression"}, "'tags' holds .*which is not a number to estimate"),
        ({"label_columns": ["warmth", "same"]}, "'same' is 3.5 for every training image, so there is nothing to learn"),
        ({"label_columns": ["warmth", "huge"]}, "'huge' holds '1e39', which is larger than float32 holds"),
    ],
)
def test_labels_that_are_none_are_named_in_one_line(table: Path, options: dict[str, Any], message: str) -> None:
    path, rows = table.parent / "more.csv", rows_of(table)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "same", "huge"])
        writer.writeheader()
        writer.writerows({**row, "same": "3.5", "huge": "1e39"} for row in rows)
    with pytest.raises(DataError, match=message) as caught:
        load_image_sets(refused(path, **options), seed=0)
    assert "\n" not in str(caught.value)


def test_labels_of_several_types_are_not_called_lists(table: Path) -> None:
    path = table.parent / "mixed.jsonl"
    names = sorted(truth(table))
    path.write_text(
        "\n".join(json.dumps({"image": name, "label": 0 if n % 2 else "a"}) for n, name in enumerate(names))
    )
    with pytest.raises(DataError, match="'label' holds values of several types") as caught:
        load_image_sets(DataArguments(dataset_name=str(path), label_column_name="label"), seed=0)
    assert "\n" not in str(caught.value)


def test_class_folders_hold_neither_columns_nor_numbers(table: Path, tmp_path: Path) -> None:
    place = folders(table, tmp_path).train_dir
    for options in ({"task": "regression"}, {"label_separator": ","}, {"label_columns": ["a"]}):
        with pytest.raises(DataError, match="class folders"):
            load_image_sets(DataArguments(train_dir=place, **options), seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_columns": ["a"], "label_column_name": "b"}, "excludes"),
        ({"label_columns": ["a"], "task": "single_label"}, "--task multi_label or regression"),
        ({"label_separator": ",", "task": "regression"}, "not regression"),
        ({"label_separator": ""}, "must not be empty"),
    ],
)
def test_options_that_exclude_each_other(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        DataArguments(**options)


def test_check_knows_images_in_several_class_folders(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(folders(table, tmp_path).train_dir)
    assert main(["check", place, "--json"]) == 1
    kinds = {finding["kind"] for finding in json.loads(capsys.readouterr().out)["result"]["findings"]}
    assert "conflict" in kinds
    main(["check", place, "--task", "multi_label", "--json"])
    kinds = {finding["kind"] for finding in json.loads(capsys.readouterr().out)["result"]["findings"]}
    assert not kinds & {"conflict", "duplicate"}
    main(["check", str(table), "--label_columns", "warmth", "light", "--json"])
    kinds = {finding["kind"] for finding in json.loads(capsys.readouterr().out)["result"]["findings"]}
    assert not kinds & {"few_images", "imbalance", "one_class", "conflict"}
