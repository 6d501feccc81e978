"""Evaluation: figures that agree with scikit-learn's, and labels read by name, whatever the folders' order."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
from finished import LABELS, make_images, make_model
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from hfft.arguments import CheckpointArguments, EvaluateArguments
from hfft.cli import main
from hfft.errors import DataError
from hfft.inference.evaluate import Evaluation, describe_evaluation, evaluate


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return make_images(tmp_path / "images", count=5)


def judge(model: Path, output: Path, **options: object) -> Evaluation:
    chosen = EvaluateArguments(output_dir=str(output), **options)  # type: ignore[arg-type]
    return evaluate(CheckpointArguments(model=str(model), batch_size=4), chosen)


def rows_of(output: Path) -> list[dict[str, str]]:
    with (output / "predictions.csv").open() as file:
        return list(csv.DictReader(file))


def test_agrees_with_scikit_learn(model: Path, images: Path, tmp_path: Path) -> None:
    evaluation = judge(model, tmp_path / "out", validation_dir=str(images), top_k=2)
    rows = rows_of(tmp_path / "out")
    truth, predicted = [row["label"] for row in rows], [row["prediction"] for row in rows]
    values = evaluation.metrics.values
    assert evaluation.metrics.images == len(rows) == 15
    assert values["accuracy"] == accuracy_score(truth, predicted)
    assert values["f1_macro"] == pytest.approx(f1_score(truth, predicted, average="macro", zero_division=0))
    assert values["accuracy"] <= values["top2_accuracy"] <= 1
    low, high = evaluation.metrics.intervals["accuracy"]
    assert low <= values["accuracy"] <= high
    table = precision_recall_fscore_support(truth, predicted, labels=list(LABELS), zero_division=0)
    found = [[getattr(row, name) for row in evaluation.per_class] for name in ("precision", "recall", "f1", "support")]
    assert np.allclose(found, table)
    saved = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert saved["metrics"]["values"] == values
    for figure in ("confusion_matrix.png", "reliability.png"):
        Image.open(tmp_path / "out" / figure).verify()
    text = describe_evaluation(evaluation)
    assert f"{values['accuracy']:.4f}" in text
    assert "top2" in text
    assert f"({round(15 * values['accuracy'])} of 15)" in text
    assert "Wilson" in text


def test_a_missing_class_shifts_no_label(model: Path, images: Path, tmp_path: Path) -> None:
    judge(model, tmp_path / "all", validation_dir=str(images))
    shutil.rmtree(images / "blue")  # the first in order
    evaluation = judge(model, tmp_path / "some", validation_dir=str(images))
    expected = [row for row in rows_of(tmp_path / "all") if row["label"] != "blue"]
    assert rows_of(tmp_path / "some") == expected
    assert [row.support for row in evaluation.per_class] == [0, 5, 5]


def test_labels_of_a_data_set_are_read_by_name(model: Path, images: Path, tmp_path: Path) -> None:
    order = ["red", "green", "blue"]  # another order than the model's
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=order)})
    files = sorted(images.rglob("*.png"))
    table = {"image": [str(file) for file in files], "label": [file.parent.name for file in files]}
    dataset = datasets.Dataset.from_dict(table, features=features)
    datasets.DatasetDict(validation=dataset).save_to_disk(tmp_path / "saved")
    evaluation = judge(model, tmp_path / "a", dataset_name=str(tmp_path / "saved"))
    folder = judge(model, tmp_path / "b", validation_dir=str(images))
    assert evaluation.metrics.values == folder.metrics.values
    assert evaluation.per_class == folder.per_class
    with pytest.raises(DataError, match="no split 'test' among validation"):
        judge(model, tmp_path / "c", dataset_name=str(tmp_path / "saved"), split="test")


def test_a_set_without_splits_is_evaluated_as_a_whole(model: Path, images: Path, tmp_path: Path) -> None:
    rows = [f"{file.relative_to(images)},{file.parent.name}" for file in sorted(images.rglob("*.png"))]
    (tmp_path / "table.csv").write_text("\n".join(["image,label", *(f"images/{row}" for row in rows)]))
    shutil.make_archive(str(tmp_path / "packed"), "zip", images)
    expected = judge(model, tmp_path / "dir", validation_dir=str(images)).metrics.values
    for number, name in enumerate((images, tmp_path / "table.csv", tmp_path / "packed.zip")):
        evaluation = judge(model, tmp_path / str(number), dataset_name=str(name))
        assert evaluation.metrics.values == expected
        assert "Evaluated on all 15 images: there is no test or validation split" in evaluation.notes
        assert evaluation.notes[-1] in describe_evaluation(evaluation)
        assert evaluation.data == str(name)
    with pytest.raises(DataError, match="no split 'test' among train"):
        judge(model, tmp_path / "c", dataset_name=str(images), split="test")


def test_of_several_splits_none_is_guessed(model: Path, images: Path, tmp_path: Path) -> None:
    rows = [f"images/{file.relative_to(images)},{file.parent.name}" for file in sorted(images.rglob("*.png"))]
    splits = ("train", "holdout")
    lines = [f"{row},{splits[number % 2]}" for number, row in enumerate(rows)]
    (tmp_path / "table.csv").write_text("\n".join(["image,label,split", *lines]))
    with pytest.raises(DataError, match="no test or validation split among train, holdout; choose one with --split"):
        judge(model, tmp_path / "out", dataset_name=str(tmp_path / "table.csv"))
    assert judge(model, tmp_path / "h", dataset_name=str(tmp_path / "table.csv"), split="holdout").metrics.images == 7


def test_a_class_that_the_model_does_not_know(model: Path, images: Path, tmp_path: Path) -> None:
    (images / "green").rename(images / "grene")
    with pytest.raises(DataError, match=r"does not know the class 'grene' \(as of grene/0\.png\); did it mean 'green'"):
        judge(model, tmp_path / "out", validation_dir=str(images))
    assert not (tmp_path / "out" / "evaluation.json").exists()


def test_a_sample_keeps_shares(model: Path, images: Path, tmp_path: Path) -> None:
    evaluation = judge(model, tmp_path / "out", validation_dir=str(images), max_eval_samples=6)
    assert [row.support for row in evaluation.per_class] == [2, 2, 2]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--dataset_name", "a", "--validation_dir", "b"], 2, "exclude each other"),
        (["--top_k", "0"], 2, "--top_k must be at least 1"),
        (["--validation_dir", "{tmp}/nowhere"], 1, "there is no such folder"),
        (["--model", "{tmp}/nowhere"], 1, "is not a folder"),
        (["--output_dir", "{model}/config.json/x"], 1, "cannot make the folder"),
    ],
)
def test_errors(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    given = ["--model", str(model), "--output_dir", str(tmp_path / "out"), *arguments]
    assert main(["evaluate", *(word.format(tmp=tmp_path, model=model) for word in given)]) == code
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
