"""Two finished runs, image by image."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from finished import make_images, make_model, run_finetune

from hfft.inference.runs import EvaluationImages, FinishedRun, disagreements, paired, read_answers, read_run
from hfft.metrics import paired_difference
from hfft.report.record import CROSSED, DataRecord
from hfft.space.views import html


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    folder = tmp_path_factory.mktemp("runs")
    base, images = make_model(folder / "base"), make_images(folder / "images", count=8)
    run_finetune(base, images, folder / "one", baselines="none", figures=False)
    return read_run(folder / "one", "one")


def with_answers(run: FinishedRun, folder: Path, right: int) -> FinishedRun:
    """Return the same run with so many right answers, those to the first images."""
    shutil.copytree(run.folder, folder)
    answers = read_answers(run.folder)
    with (folder / "predictions.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "label", "prediction", "probability"])
        for place, answer in enumerate(answers):
            other = next(label for label in run.record.data.labels if label != answer.label)
            writer.writerow([answer.file, answer.label, answer.label if place < right else other, 0.9])
    return read_run(folder, folder.name)


def test_the_difference_is_of_pairs(run: FinishedRun, tmp_path: Path) -> None:
    good, bad = with_answers(run, tmp_path / "good", 22), with_answers(run, tmp_path / "bad", 4)
    found = paired(good, bad)
    correct = [[answer.label == answer.prediction for answer in read_answers(each.folder)] for each in (good, bad)]
    import numpy as np

    assert found == paired_difference(np.array(correct[0]), np.array(correct[1]))
    assert found is not None
    assert found.value == pytest.approx(18 / 24)
    assert found.low > 0
    page = html.differences([good, bad, with_answers(run, tmp_path / "close", 21)])
    assert "+0.750" in page
    assert f"{found.low:+.3f} to {found.high:+.3f}" in page
    assert page.count("more accurate") == 1
    assert "no difference is shown: the interval holds 0" in page
    assert "less accurate" in html.differences([bad, good])


def test_other_images_do_not_compare(run: FinishedRun, tmp_path: Path) -> None:
    data: DataRecord = replace(run.record.data, sha256={"validation": "0" * 64})
    other = replace(run, record=replace(run.record, data=data))
    assert paired(run, other) is None
    without = with_answers(run, tmp_path / "without", 3)
    (without.folder / "predictions.csv").unlink()
    assert paired(run, without) is None
    assert "not validated on the same images" in html.differences([run, other])


def test_runs_stand_side_by_side_on_a_split_that_all_have(run: FinishedRun) -> None:
    metrics = {**run.record.metrics, CROSSED: replace(run.record.metrics["validation"], values={"accuracy": 0.5})}
    crossed = replace(run, name="crossed", record=replace(run.record, metrics=metrics))
    together = html.comparison([crossed, crossed], ["", ""])
    assert f"{CROSSED} of " in together
    mixed = html.comparison([crossed, run], ["", ""])
    assert f"{CROSSED} of " not in mixed
    assert mixed.count("validation of ") == 2
    data = replace(run.record.data, fingerprints={"validation": "0" * 64})
    other = replace(run, record=replace(run.record, data=data))
    assert "different images" in html.comparison([run, other], ["", ""])
    assert "different images" not in mixed


def test_runs_disagree_on_what_they_take_for_different_classes(run: FinishedRun, tmp_path: Path) -> None:
    one, two, three = (with_answers(run, tmp_path / str(right), right) for right in (24, 20, 10))
    found = disagreements([one, two, three])
    assert found is not None
    assert (len(found[0]), found[1]) == (14, 24)
    answers = read_answers(run.folder)
    assert {each.file for each in found[0]} == {answer.file for answer in answers[10:]}
    rights = [each.said.count(each.label) for each in found[0]]
    assert rights == [1] * 4 + [2] * 10
    assert disagreements([one, one]) == ([], 24)


def test_runs_on_other_images_have_no_images_to_disagree_on(run: FinishedRun, tmp_path: Path) -> None:
    other = with_answers(run, tmp_path / "other", 3)
    data = replace(other.record.data, sha256={"validation": "another"})
    assert disagreements([run, replace(other, record=replace(other.record, data=data))]) is None


def test_the_image_of_an_answer_is_a_validation_image(run: FinishedRun, tmp_path: Path) -> None:
    """Test images have the same names most often, since both folders count from 0."""
    test = make_images(tmp_path / "test", ("red", "green", "blue"), count=8)
    (test / "red").rename(test / "was red")
    (test / "blue").rename(test / "red")
    (test / "was red").rename(test / "blue")
    record = replace(run.record, arguments=run.record.arguments | {"test_dir": str(test)})
    image = EvaluationImages(record, local=True).get("red/0.png")
    assert image is not None
    means = image.resize((1, 1)).getpixel((0, 0))
    assert isinstance(means, tuple)
    assert means[0] == max(means)
