"""Cross-validation of a finished run's recipe: every image once, by a model that never saw it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished import make_images, make_model, run_finetune
from PIL import Image

import hfft
from hfft.cli import main
from hfft.errors import ArgumentError, DataError


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a run (``out``), its base and its images."""
    folder = tmp_path_factory.mktemp("finished")
    run_finetune(
        make_model(folder / "base", kind="resnet"),
        make_images(folder / "images"),
        folder / "out",
        "lp_ft",
        num_train_epochs=4.0,
    )
    return folder


def predicted(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_image_is_predicted_once(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in (finished / "out").iterdir() if path.is_file()}
    assert (
        main(["evaluate", "--model", str(finished / "out"), "--folds", "3", "--output_dir", str(tmp_path / "a")]) == 0
    )
    printed = capsys.readouterr().out
    assert "3-fold cross-validation of its recipe (lp_ft), each image by a model that never saw it" in printed
    assert "The linear probe on the same folds: " in printed
    rows = predicted(tmp_path / "a")
    assert len({row["file"] for row in rows}) == len(rows) == 18
    data = json.loads((tmp_path / "a" / "evaluation.json").read_text())
    right = np.mean([row["label"] == row["prediction"] for row in rows])
    assert data["metrics"]["values"]["accuracy"] == pytest.approx(right)
    assert {path: path.read_bytes() for path in before} == before


def test_python_gives_the_same_numbers_and_folds_count(finished: Path, tmp_path: Path) -> None:
    found = [
        hfft.evaluate(model=finished / "out", folds=folds, output_dir=tmp_path / name)
        for name, folds in (("a", 3), ("b", 3), ("c", 2))
    ]
    assert predicted(tmp_path / "a") == predicted(tmp_path / "b")
    assert [evaluation.metrics.images for evaluation in found] == [18, 18, 18]
    assert "2-fold" in found[2].notes[0]


def test_images_that_changed_are_pointed_out(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images")
    run_finetune(make_model(tmp_path / "base", kind="resnet"), images, tmp_path / "out", "head")
    Image.new("RGB", (40, 40)).save(images / "red" / "0.png")
    evaluation = hfft.evaluate(model=tmp_path / "out", folds=2, output_dir=tmp_path / "again")
    assert "The train images or labels are not those that the run had" in evaluation.notes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, "--folds must be at least 2"),
        ({"folds": 99}, "--folds 99 is more than the 18 training images"),
        ({"folds": 2, "validation_dir": "photos"}, "leave out --validation_dir"),
        ({"folds": 2, "max_eval_samples": 3}, "leave out --max_eval_samples"),
    ],
)
def test_wrong_arguments(finished: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        hfft.evaluate(model=finished / "out", output_dir=tmp_path / "out", **options)


def test_only_a_run_has_a_recipe(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="--folds needs the folder of a run"):
        hfft.evaluate(model=finished / "base", folds=2, output_dir=tmp_path / "out")


def test_without_images_a_run_is_evaluated_on_its_own(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(finished / "out")
    assert main(["evaluate", run, "--output_dir", str(tmp_path / "own")]) == 0
    assert "No images are given, so these are the validation images of the run itself" in capsys.readouterr().out
    rows = predicted(finished / "out")
    assert [(row["file"], row["prediction"]) for row in predicted(tmp_path / "own")] == [
        (row["file"], row["prediction"]) for row in rows
    ]
    trained = hfft.evaluate(model=run, split="train", max_eval_samples=6, output_dir=tmp_path / "train")
    assert (trained.metrics.images, trained.notes[0].count("the train images")) == (6, 1)
    with pytest.raises(DataError, match="its own images have no split 'test' among train, validation"):
        hfft.evaluate(model=run, split="test", output_dir=tmp_path / "test")
    assert main(["evaluate", run, "--model", run, "--output_dir", str(tmp_path / "two")]) == 2
    assert "give the model once" in capsys.readouterr().err


def test_test_images_go_before_validation_images(tmp_path: Path) -> None:
    images, test = make_images(tmp_path / "images"), make_images(tmp_path / "test", count=2)
    run_finetune(make_model(tmp_path / "base"), images, tmp_path / "run", "head", test=test)
    found = hfft.evaluate(model=tmp_path / "run", output_dir=tmp_path / "own")
    assert (found.metrics.images, found.notes[0].count("the test images of the run itself")) == (6, 1)
    images.rename(tmp_path / "moved")
    with pytest.raises(
        DataError, match=r"images of .*run itself cannot be read here .*; give others with --dataset_name"
    ):
        hfft.evaluate(model=tmp_path / "run", output_dir=tmp_path / "gone")


def test_without_a_record_images_have_to_be_given(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"base holds no hfft\.json, .*; give --dataset_name or --validation_dir"):
        hfft.evaluate(model=finished / "base", output_dir=tmp_path / "out")


def test_images_that_are_not_here_are_those_of_the_run(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = json.loads((finished / "out" / "hfft.json").read_text())
    record["arguments"]["train_dir"] = "elsewhere"  # a relative path, and the command runs in another folder
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "hfft.json").write_text(json.dumps(record))
    assert main(["evaluate", str(tmp_path / "run"), "--folds", "2", "--output_dir", str(tmp_path / "a")]) == 1
    assert f"the images of {tmp_path / 'run'} itself cannot be read here" in capsys.readouterr().err
