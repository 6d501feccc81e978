"""What a run learns about when to believe its model: kept beside unchanged weights, and asked wherever it matters."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finished import LABELS, make_images, make_model, run_finetune
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

import hfft
from hfft.arguments import CheckpointArguments, EvaluateArguments
from hfft.cli import main
from hfft.data.images import open_image
from hfft.data.preprocessing import collate
from hfft.errors import ArgumentError, ModelError
from hfft.explain.evidence import prediction_trace
from hfft.explain.pipeline import pipeline_trace
from hfft.inference.classifier import classify, find_images, load_classifier
from hfft.inference.evaluate import describe_evaluation, evaluate
from hfft.jobs.results import write_results
from hfft.jobs.run import Run, judged
from hfft.models.checkpoint import merge
from hfft.output_folder import KNOWN
from hfft.report.record import read_record
from hfft.tasks.single_label import SingleLabel
from hfft.trust.calibration import KEY, temperature_of
from hfft.trust.known import read_known

HOT = 7.0


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images") / "images", count=8)


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    return run_finetune(make_model(folder / "base"), images, folder / "out", num_train_epochs=3.0)


def test_what_was_evaluated_passes_the_last_block_once(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []

    def noted(batches: Any, desc: str, unit: str) -> Any:
        passes.append(desc)
        return batches

    monkeypatch.setattr("hfft.jobs.trust.bar", noted)
    base = make_model(tmp_path / "base")
    once = run_finetune(base, images, tmp_path / "once", test=images)
    assert passes == ["Features of training images"]
    monkeypatch.setattr("hfft.jobs.finetune.features_kept", lambda setup, split, seen: contextlib.nullcontext())
    again = run_finetune(base, images, tmp_path / "again", test=images)
    assert len(passes) == 4
    first, second = (load_file(each.folder / KNOWN) for each in (once, again))
    assert first.keys() == second.keys()
    for name, values in first.items():
        torch.testing.assert_close(values, second[name], rtol=1e-4, atol=1e-5)
    assert once.trust.record == again.trust.record
    assert once.trust.held_out is not None
    assert again.trust.held_out is not None
    np.testing.assert_allclose(once.trust.held_out, again.trust.held_out, rtol=1e-4, atol=1e-5)


@pytest.fixture
def hot(run: Run, tmp_path: Path) -> Path:
    """The run with another temperature, so high that nobody who forgets it goes unnoticed."""
    folder = tmp_path / "hot"
    shutil.copytree(run.folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {KEY: HOT}))
    return folder


def stock_logits(folder: Path, files: list[str]) -> torch.Tensor:
    pixels = load_classifier(folder, device="cpu").pixels
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        logits: torch.Tensor = model(**collate([pixels(open_image(file, file)) for file in files])).logits
    return logits


def test_the_temperature_is_kept_and_the_weights_are_not_touched(run: Run) -> None:
    config = json.loads((run.folder / "config.json").read_text())
    record = read_record(run.folder / "hfft.json")
    assert config[KEY] == record.calibration.temperature == temperature_of(run.model.config) != 1
    assert record.calibration.images == len(run.sets.validation)
    weights = (run.folder / "model.safetensors").read_bytes()
    object.__setattr__(run.trust, "task", SingleLabel(HOT))
    try:
        run.settings.training.overwrite_output_dir = True
        write_results(run)
        assert json.loads((run.folder / "config.json").read_text())[KEY] == HOT
        assert (run.folder / "model.safetensors").read_bytes() == weights
    finally:
        object.__setattr__(run.trust, "task", SingleLabel(config[KEY]))
        write_results(run)


def test_stock_transformers_loads_it_and_says_the_same_logits(run: Run, images: Path) -> None:
    files = find_images([images])
    classifier = load_classifier(run.folder, device="cpu")
    inputs = collate([classifier.pixels(open_image(file, file)) for file in files])
    assert torch.equal(classifier.logits(inputs), stock_logits(run.folder, files))
    assert classifier.temperature == temperature_of(run.model.config)


def test_every_probability_is_calibrated(hot: Path, images: Path, tmp_path: Path) -> None:
    files = find_images([images])
    expected = (stock_logits(hot, files) / HOT).softmax(1)
    sure = expected.max(1).values.tolist()
    classifier = load_classifier(hot, device="cpu")
    assert [row.probability for row in classify(classifier, files)] == pytest.approx(sure, abs=1e-6)
    image = open_image(files[0], files[0])
    best = expected[0].sort(descending=True).values.tolist()
    followed = pipeline_trace(classifier, image)
    assert [score.probability for score in followed.scores] == pytest.approx(best, abs=1e-5)
    assert followed.stages[-1].high == pytest.approx(best[0], abs=1e-5)
    trace = prediction_trace(classifier, image)
    assert [score.probability for score in trace.scores] == pytest.approx(best, abs=1e-5)
    assert [each.probability for each in trace.evidence] == pytest.approx(best, abs=1e-5)
    options = EvaluateArguments(validation_dir=str(images), output_dir=str(tmp_path / "out"))
    evaluation = evaluate(CheckpointArguments(model=str(hot)), options)
    with (tmp_path / "out" / "predictions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["probability"]) for row in rows] == pytest.approx(sure, abs=1e-5)
    truth = torch.tensor([LABELS.index(row["label"]) for row in rows])
    loss = -expected[torch.arange(len(truth)), truth].log().mean().item()
    assert evaluation.metrics.values["loss"] == pytest.approx(loss, abs=1e-5)
    assert f"temperature {HOT:g}" in describe_evaluation(evaluation)


def test_what_a_run_writes_is_calibrated(run: Run) -> None:
    logits, _ = judged(run.predictions["validation"])
    shares = torch.tensor(logits / temperature_of(run.model.config)).softmax(1).max(1).values.tolist()
    with (run.folder / "predictions.csv").open() as stream:
        assert [float(row["probability"]) for row in csv.DictReader(stream)] == pytest.approx(shares, abs=1e-5)
    record = read_record(run.folder / "hfft.json")
    assert {round(row.probability, 6) for row in record.mistakes} <= {round(share, 6) for share in shares}
    assert record.selective.rows[0].images == len(shares)
    assert record.calibration.after is None  # there are no test images


def test_a_run_on_a_calibrated_model_begins_without_its_temperature(hot: Path, images: Path, tmp_path: Path) -> None:
    other = run_finetune(hot, images, tmp_path / "out")
    assert temperature_of(other.model.config) == read_record(other.folder / "hfft.json").calibration.temperature != HOT


def test_a_delta_carries_temperature_and_known_images(hot: Path, tmp_path: Path) -> None:
    (hot / "model.safetensors").unlink()
    classifier = load_classifier(hot, device="cpu")
    assert classifier.temperature == HOT
    assert classifier.known is not None
    merged = merge(hot, tmp_path / "merged")
    assert (merged / KNOWN).read_bytes() == (hot / KNOWN).read_bytes()
    assert load_classifier(merged, device="cpu").temperature == HOT


def test_known_images_are_the_training_images(run: Run, images: Path) -> None:
    known = read_known(run.folder / KNOWN, len(LABELS))
    assert known.files == tuple(run.sets.train.files)
    assert np.array_equal(known.labels, run.sets.train.labels)
    assert len(known.truth) == len(run.sets.validation)
    assert KNOWN in (read_record(run.folder / "hfft.json").written or [])
    classifier = load_classifier(run.folder, device="cpu")
    files = find_images([images])
    for row in classify(classifier, files):
        assert row.unknown is False
        assert row.nearest[0].similarity == pytest.approx(1, abs=2e-3)
        assert row.nearest[0].label == Path(row.file).parent.name


def test_without_the_file_it_is_as_before(run: Run, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    shutil.copytree(run.folder, folder)
    (folder / KNOWN).unlink()
    classifier = load_classifier(folder, device="cpu")
    (row,) = classify(classifier, find_images([images])[:1])
    assert (row.unknown, row.unknown_score, row.nearest, row.label_set) == (None, None, (), ())
    with pytest.raises(ModelError, match=f"holds no {KNOWN}"):
        next(classify(classifier, find_images([images]), coverage=0.9))


def test_known_images_of_another_model_are_refused(run: Run, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    shutil.copytree(run.folder, folder)
    known = read_known(folder / KNOWN, len(LABELS))
    from dataclasses import replace

    from hfft.trust.known import write_known

    write_known(folder / KNOWN, replace(known, features=known.features[:, :-1]))
    with pytest.raises(ModelError, match="belongs to another model; copy it again, or delete it"):
        next(classify(load_classifier(folder, device="cpu"), find_images([images])[:1]))


def unknown_image(folder: Path) -> Path:
    """A picture that no training image is like."""
    path = folder / "stripes.png"
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[::2] = 255
    Image.fromarray(pixels).save(path)
    return path


def rows_of(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    assert main(["predict", *flags]) == 0
    return capsys.readouterr().out


def test_predict_says_unknown_in_every_format(
    run: Run, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stripes, red = str(unknown_image(tmp_path)), str(images / "red" / "0.png")
    use = ("--model", str(run.folder))
    table = rows_of(capsys, *use, stripes, red).splitlines()
    assert "  unknown, " in table[1]
    assert "nearest: " in table[1]
    assert "unknown" not in table[2]
    first, second = csv.DictReader(rows_of(capsys, *use, "--format", "csv", stripes, red).splitlines())
    assert (first["unknown"], second["unknown"]) == ("true", "false")
    assert float(first["unknown_score"]) > 1 >= float(second["unknown_score"])
    assert second["nearest"].endswith(".png")
    lines = rows_of(capsys, *use, "--format", "jsonl", stripes, red).splitlines()
    found: list[dict[str, Any]] = [json.loads(line) for line in lines]
    assert [row["unknown"] for row in found] == [True, False]
    assert len(found[0]["nearest"]) == 3
    assert "label_set" not in found[0]


def test_predict_gives_sets_of_labels(run: Run, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    use = ("--model", str(run.folder), str(images), "--format", "jsonl")
    found = [json.loads(line) for line in rows_of(capsys, *use, "--coverage", "0.9").splitlines()]
    assert all(row["label_set"][0] == row["label"] for row in found)
    held = [Path(row["file"]).parent.name in row["label_set"] for row in found]
    assert np.mean(held) >= 0.9  # these are the images that it was fitted on
    use = ("--model", str(run.folder), str(images), "--format", "csv")
    rows = list(csv.DictReader(rows_of(capsys, *use, "--coverage", "0.9").splitlines()))
    assert [json.loads(row["label_set"]) for row in rows] == [row["label_set"] for row in found]
    assert main(["predict", str(images), "--coverage", "1"]) == 2


def test_evaluate_compares_two_models(
    run: Run, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_model(tmp_path / "other", labels=LABELS[::-1], seed=5)
    flags = ["--model", str(run.folder), "--against", str(other), "--validation_dir", str(images)]
    assert main(["evaluate", *flags, "--output_dir", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert f"of {other}" in printed
    assert "McNemar" in printed
    saved = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    (right,) = [
        np.mean(
            [
                row.label == Path(row.file).parent.name
                for row in classify(load_classifier(other, device="cpu"), find_images([images]))
            ]
        )
    ]
    assert saved["against"]["accuracy"] == pytest.approx(right)
    difference = saved["against"]["difference"]
    assert difference["value"] == pytest.approx(saved["metrics"]["values"]["accuracy"] - right)
    assert difference["low"] <= difference["value"] <= difference["high"]
    assert saved["unknown"] == 0.0
    stranger = make_model(tmp_path / "stranger", labels=("blue", "green", "violet"))
    flags[3] = str(stranger)
    assert main(["evaluate", *flags, "--output_dir", str(tmp_path / "out")]) == 1
    assert "does not know the class 'red'" in capsys.readouterr().err


def test_a_head_that_is_not_linear_goes_without(
    run: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from contextlib import contextmanager

    @contextmanager
    def nothing(model: object, labels: int) -> Any:
        yield []

    monkeypatch.setattr("hfft.jobs.trust.head_reads", nothing)
    base = make_model(tmp_path / "base")
    other = run_finetune(base, images, tmp_path / "out")
    assert not (other.folder / KNOWN).exists()
    assert "not a linear layer" in read_record(other.folder / "hfft.json").known.missing
    assert math.isfinite(temperature_of(other.model.config))


def test_the_public_functions_give_it(run: Run, images: Path) -> None:
    classifier = hfft.load_classifier(run.folder, device="cpu")
    (row,) = hfft.classify(classifier, find_images([images])[:1], coverage=0.5)
    assert (row.unknown, len(row.nearest)) == (False, 3)
    assert row.label_set
    with pytest.raises(ArgumentError, match="between 0 and 1"):
        next(hfft.classify(classifier, [], coverage=2.0))
