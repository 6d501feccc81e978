"""Several labels and numbers from a table to a card: whatever holds of one label per image holds of them."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from finished import make_model
from huggingface_hub import ModelCard
from killed import KillAt, Killed
from runs import equal, record, run, weights
from tagged import TAGS, make_tagged
from transformers import (
    AutoModelForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    pipeline,
)
from versions import NUMBERS

import hfft
from hfft.arguments import CheckpointArguments, EvaluateArguments
from hfft.cli import main
from hfft.errors import ArgumentError, DataError
from hfft.inference.evaluate import describe_evaluation, evaluate
from hfft.jobs.advice.compare import Advice

TASKS = {
    "multi_label": ("--label_columns", *TAGS),
    "regression": ("--label_columns", "warmth", "light"),
}
LABELS = {"multi_label": TAGS, "regression": ("warmth", "light")}
METRIC = {"multi_label": "map", "regression": "r2"}


def _model(folder: Path) -> Path:
    """Write a small seeded model."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 96, "image_size": 32, "patch_size": 8, "num_labels": 4}
    ViTForImageClassification(ViTConfig(**sizes)).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


class World:
    """Images, a model, and finished runs on them, one for each task and set of flags."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.table = make_tagged(folder / "images", count=28)
        self.test = make_tagged(folder / "test", count=16, seed=1)
        self.model = _model(folder / "model")
        self.resnet = make_model(folder / "resnet", ("a", "b"), kind="resnet")

    def run(self, task: str, name: str, *flags: Any) -> Path:
        output = self.folder / f"{task}-{name}"
        common = ("--model_name_or_path", self.model, "--dataset_name", self.table, "--output_dir", output)
        small = ("--num_train_epochs", 2, "--per_device_train_batch_size", 6, "--cache_dir", self.folder / "cache")
        assert run(*common, *small, "--baselines", "none", *TASKS[task], *flags) == 0
        return output


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module", params=sorted(TASKS))
def task(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def finished(world: World, task: str) -> Path:
    """The run that most tests look at: all of the model is trained, and it learns."""
    learning = ("--policy", "full", "--num_train_epochs", 10, "--learning_rate", "3e-3", "--keep", "best")
    seen = ("--figures", "true", "--baselines", "probe")
    return world.run(task, "finished", *learning, *seen)


def test_it_learns_and_says_so(finished: Path, task: str) -> None:
    found = record(finished)
    values = found["metrics"]["validation"]["values"]
    assert found["task"] == task
    assert values[METRIC[task]] > 0.9
    assert found["baselines"]["majority"][METRIC[task]] < 0.7 < found["baselines"]["linear_probe"][METRIC[task]]
    with (finished / "trace.csv").open(newline="") as file:
        scores = [float(row[METRIC[task]]) for row in csv.DictReader(file)]
    assert len(scores) == 10
    assert scores[int(found["best_epoch"]) - 1] == max(scores)
    assert "accuracy" not in (finished / "trace.csv").read_text()
    assert not (finished / "predictions_by_epoch.safetensors").exists(), "it holds label numbers, for the Space alone"


def test_the_card_says_what_it_is(finished: Path, task: str) -> None:
    card = ModelCard.load(finished / "README.md")
    results = {each.metric_type: each.metric_value for each in card.data.eval_results}
    values = record(finished)["metrics"]["validation"]["values"]
    kinds = {"multi_label": {"map": "map"}, "regression": {"r_squared": "r2", "mae": "mae", "rmse": "rmse"}}
    for kind, name in kinds[task].items():
        assert results[kind] == pytest.approx(values[name], abs=1e-6)
    assert "accuracy" not in results
    assert ("multi-label" in card.text) is (task == "multi_label")
    assert "softmax" not in card.text
    for image in ("curves.png", *({"regression": ["predicted_against_true.png"]}.get(task, []))):
        assert f"({image})" in card.text
        assert (finished / image).stat().st_size > 1000
    assert not (finished / "confusion_matrix.png").exists()
    assert "Unknown" in card.text or "unknown images" in card.text


def test_the_cards_code_runs(finished: Path, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """The steps of the card, with its image in place, print what hfft says."""
    text = ModelCard.load(finished / "README.md").text
    code = text.split("```python")[2].split("```")[0]
    exec(code.replace('"image.jpg"', f'"{world.table.parent / "005.png"}"'), {})  # noqa: S102  (it is the card's)
    out = capsys.readouterr().out.strip()
    (row,) = hfft.classify(hfft.load_classifier(finished), [world.table.parent / "005.png"])
    if row.values:
        assert eval(out) == pytest.approx(row.values, rel=1e-3)  # noqa: S307
    else:
        assert eval(out) == list(row.labels or ())  # noqa: S307


def test_stock_transformers_gives_the_same_answers(finished: Path, world: World, task: str) -> None:
    images = [str(world.table.parent / f"{number:03d}.png") for number in range(4)]
    told = NUMBERS if task == "regression" else {}
    stock = pipeline("image-classification", str(finished))(images, top_k=len(LABELS[task]), **told)
    rows = list(hfft.classify(hfft.load_classifier(finished), images))
    for row, answers in zip(rows, stock, strict=True):
        found = row.values or {score.label: score.probability for score in row.top}
        assert found == pytest.approx({each["label"]: each["score"] for each in answers}, rel=1e-3, abs=1e-5)
    config = json.loads((finished / "config.json").read_text())
    assert config["problem_type"] == {"multi_label": "multi_label_classification"}.get(task, task)
    assert ("decision_thresholds" in config) is (task == "multi_label")


def test_the_trainers_files_say_what_the_record_says(finished: Path) -> None:
    values = record(finished)["metrics"]["validation"]["values"]
    found = json.loads((finished / "eval_results.json").read_text())
    shared = {name: value for name, value in found.items() if name.removeprefix("eval_") in values}
    assert len(shared) >= 3
    assert shared == {name: values[name.removeprefix("eval_")] for name in shared}


def test_the_predictions_are_written(finished: Path, task: str) -> None:
    with (finished / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    if task == "multi_label":
        right = [json.loads(row["labels"]) == json.loads(row["prediction"]) for row in rows]
        values = record(finished)["metrics"]["validation"]["values"]
        assert np.mean(right) == pytest.approx(values["subset_accuracy"])
    else:
        errors = [abs(float(row["warmth"]) - float(row["predicted warmth"])) for row in rows]
        values = record(finished)["metrics"]["validation"]["values"]
        assert np.mean(errors) == pytest.approx(values["mae of warmth"], rel=1e-3)


def test_evaluate(finished: Path, world: World, task: str, tmp_path: Path) -> None:
    columns = list(TAGS) if task == "multi_label" else None  # a regression's targets are called as their columns are
    options = EvaluateArguments(dataset_name=str(world.test), label_columns=columns, output_dir=str(tmp_path / "x"))
    found = evaluate(CheckpointArguments(model=str(finished)), options)
    saved = json.loads((tmp_path / "x" / "evaluation.json").read_text())
    assert saved["metrics"]["values"][METRIC[task]] == found.metrics.values[METRIC[task]] > 0.8
    assert {"multi_label": "mAP", "regression": "RMSE"}[task] in describe_evaluation(found)
    drawn = {file.name for file in (tmp_path / "x").iterdir() if not file.name.startswith(".")}
    plots = {"predicted_against_true.png"} if task == "regression" else set()
    assert drawn == {"evaluation.json", "predictions.csv", *plots}
    with pytest.raises(ArgumentError, match="--against takes one label per image"):
        evaluate(
            CheckpointArguments(model=str(finished)),
            EvaluateArguments(
                dataset_name=str(world.test),
                label_columns=columns,
                output_dir=str(tmp_path / "y"),
                against=str(finished),
            ),
        )


@pytest.mark.parametrize("policy", ["lp_ft", pytest.param("last_block", marks=pytest.mark.slow)])
def test_cached_and_uncached_are_equal(world: World, task: str, policy: str) -> None:
    flags = ("--policy", policy, "--model_name_or_path", world.resnet)  # whose kernels round alike in every batch
    cached = world.run(task, f"cached-{policy}", "--cache", "memory", *flags)
    plain = world.run(task, f"plain-{policy}", "--cache", "off", *flags)
    assert record(cached)["cache"]["mode"] == "memory"
    assert equal(weights(cached), weights(plain))


def test_augmented_at_the_boundary_cached_and_uncached_are_equal(world: World, task: str) -> None:
    flags: tuple[Any, ...] = ("--model_name_or_path", world.resnet, "--frofa", "brightness", "--mixup", 0.4)
    flags += ("--cutmix", 1.0) if task == "multi_label" else ()
    cached = world.run(task, "augmented-cached", "--cache", "memory", *flags)
    uncached = world.run(task, "augmented-uncached", "--cache", "off", *flags)
    assert equal(weights(cached), weights(uncached))
    assert not equal(weights(cached), weights(world.run(task, "not-augmented", "--model_name_or_path", world.resnet)))


def test_a_delta_merges_to_the_same_weights(finished: Path, world: World, task: str, tmp_path: Path) -> None:
    run_folder = world.run(task, "delta", "--policy", "last_block")
    delta = tmp_path / "delta"
    delta.mkdir()
    for file in run_folder.iterdir():
        if file.is_file() and not file.name.startswith("model"):
            (delta / file.name).write_bytes(file.read_bytes())
    assert main(["merge", str(delta), "--output_dir", str(tmp_path / "merged")]) == 0
    assert equal(weights(tmp_path / "merged"), weights(run_folder))
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "merged")
    assert model.config.problem_type in ("multi_label_classification", "regression")


def test_interrupted_and_resumed_is_the_same_to_the_bit(
    world: World, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:

    from hfft.cli.train import finetune_settings
    from hfft.jobs.finetune import finetune

    flags: tuple[Any, ...] = ("--policy", "last_block", "--save_strategy", "steps", "--save_steps", 1, "--mixup", 0.2)
    flags += ("--baselines", "probe", "--frofa", "brightness", *(("--cutmix", 1.0) if task == "multi_label" else ()))
    whole = world.run(task, "whole", *flags)
    output = world.folder / f"{task}-resumed"
    common = ("--model_name_or_path", world.model, "--dataset_name", world.table, "--output_dir", output)
    small = ("--num_train_epochs", 2, "--per_device_train_batch_size", 6, "--cache_dir", world.folder / "cache")
    quiet = ("--disable_tqdm", "true", "--figures", "false")
    words = [str(word) for word in (*common, *small, *TASKS[task], *flags, *quiet)]
    with pytest.raises(Killed):
        finetune(finetune_settings(words), say=lambda line: None, callbacks=(KillAt(5),))
    assert main(["finetune", *words, "--resume_from_checkpoint", "true"]) == 0
    assert equal(weights(output), weights(whole))
    assert record(output)["baselines"] == record(whole)["baselines"]


def test_numbers_are_not_cut_and_pasted(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    common = ("--model_name_or_path", world.model, "--dataset_name", world.table, "--output_dir", world.folder / "cut")
    assert run(*common, *TASKS["regression"], "--cutmix", 1) == 2
    said = "hfft: error: --cutmix: a part of another image has no share in the numbers of a regression task"
    assert said in capsys.readouterr().err


def test_a_finished_model_of_the_same_targets_goes_on_where_it_was(finished: Path, world: World, task: str) -> None:
    again = world.run(task, "again", "--model_name_or_path", finished, "--learning_rate", "1e-9", "--policy", "head")
    before, after = (record(folder)["metrics"]["validation"]["values"] for folder in (finished, again))
    assert after[METRIC[task]] == pytest.approx(before[METRIC[task]], abs=1e-3)


@pytest.mark.parametrize("model", ["random", "embedded"])
def test_a_new_head_begins_at_the_mean_of_numbers_that_are_far_from_0(model: str, world: World) -> None:
    output = world.folder / f"far-{model}"
    given = ("--model_name_or_path", world.model) if model == "random" else ("--image_size", 32)
    flags = ("--dataset_name", world.table, "--output_dir", output, "--policy", "head", "--learning_rate", "1e-9")
    small = ("--num_train_epochs", 1, "--baselines", "none", "--keep", "last", "--task", "regression")
    assert run(*given, *flags, *small, "--label_column_name", "warmth") == 0
    assert record(output)["metrics"]["validation"]["values"]["r2"] > -2


def test_one_target_alone(world: World) -> None:
    output = world.folder / "one"
    flags = ("--model_name_or_path", world.model, "--dataset_name", world.table, "--output_dir", output)
    small = ("--num_train_epochs", 1, "--per_device_train_batch_size", 6, "--cache", "off", "--baselines", "full")
    assert run(*flags, *small, "--task", "regression", "--label_column_name", "warmth") == 0
    assert set(record(output)["metrics"]["validation"]["values"]) == {"r2", "mae", "rmse"}
    assert record(output)["baselines"]["full_fine-tuning"]["mae"] < 1000, "in its own units as well"
    (row,) = hfft.classify(hfft.load_classifier(output), [world.table.parent / "000.png"])
    assert list(row.values) == ["warmth"]
    assert 600 < row.values["warmth"] < 1400, "in its own units"


def test_several_class_weights_and_no_smoothing(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    weighted = world.run("multi_label", "weighted", "--class_weights", "balanced", "--cache", "off")
    plain = world.run("multi_label", "unweighted", "--cache", "off")
    assert not equal(weights(weighted), weights(plain))
    for task, flag in (
        ("regression", ("--class_weights", "balanced")),
        ("multi_label", ("--label_smoothing_factor", 0.1)),
        ("multi_label", ("--metric_for_best_model", "accuracy")),
    ):
        common = ("--model_name_or_path", world.model, "--dataset_name", world.table, *TASKS[task], *flag)
        assert run(*common, "--output_dir", world.folder / f"refused-{task}") == 2
        assert str(flag[0]) in capsys.readouterr().err


def compared(world: World, task: str, output: Path) -> list[str]:
    """Return the flags of a small training that policies are compared by."""
    data = ("--model_name_or_path", world.model, "--dataset_name", world.table, *TASKS[task], "--output_dir", output)
    small = ("--num_train_epochs", 3, "--per_device_train_batch_size", 6, "--learning_rate", "3e-3")
    return [str(word) for word in (*data, *small, "--cache_dir", world.folder / "cache", "--disable_tqdm", "true")]


NAMES = {"multi_label": "mAP", "regression": "R2"}


def test_a_sweep_compares_by_the_metric_of_the_task(
    world: World, task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*compared(world, task, tmp_path / "sweep"), "--sweep", "policy=head,full"]
    assert main(["sweep", *flags]) == 0
    printed = capsys.readouterr().out
    assert re.search(rf"run +{NAMES[task]} +95% interval", printed)
    assert "Intervals are the bias-corrected bootstrap's" in printed
    with (tmp_path / "sweep" / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    scores = [float(row[METRIC[task]]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert {row["policy"] for row in rows} == {"head", "full"}
    assert all(float(row["low"]) <= float(row[METRIC[task]]) <= float(row["high"]) for row in rows)
    assert {"multi_label": "f1_macro", "regression": "rmse"}[task] in rows[0]
    assert (tmp_path / "sweep" / "sweep.png").stat().st_size > 1000


def test_a_sweep_of_two_tasks_says_what_it_does_not_compare(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same columns of 1 and 0 are labels, or numbers."""
    flags = [*compared(world, "multi_label", tmp_path / "sweep"), "--sweep", "task=multi_label,regression"]
    assert main(["sweep", *flags]) == 1
    assert "its r2 is not compared with the map of the others" in capsys.readouterr().out


def test_advice_compares_by_the_metric_of_the_task(world: World, task: str) -> None:
    options = {"model_name_or_path": str(world.model), "dataset_name": str(world.table), "learning_rate": 3e-3}
    options |= {"label_columns": list(LABELS[task]), "num_train_epochs": 3, "per_device_train_batch_size": 6}
    options |= {"cache_dir": str(world.folder / "cache"), "policies": "head,full", "folds": 2, "disable_tqdm": True}
    advice = hfft.advise(**options, say=lambda line: None)
    assert isinstance(advice, Advice)
    found = advice.data()
    assert found["metric"] == METRIC[task]
    best = max(advice.candidates[1:], key=lambda each: each.score)
    (chosen,) = (each for each in advice.candidates if each.policy == advice.policy)
    assert best.score - chosen.score <= best.scored.error(chosen.scored)
    for row in found["candidates"]:
        assert row["interval"][0] <= row[METRIC[task]] <= row["interval"][1]
    assert (found["curve"] is None) is (task == "regression"), "24 images are too few for ten strata of two"
    assert re.search(rf"recipe +{NAMES[task]} +95% interval", str(advice))
    assert "intervals are the bias-corrected bootstrap's" in str(advice)
    assert f"{NAMES[task]} {best.score:.3f}" in advice.reason


def test_backbones_are_compared_by_the_metric_of_the_task(
    world: World, task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*compared(world, task, tmp_path), "--models", str(world.model), str(world.resnet), "--folds", "2"]
    assert main(["advise", *flags, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["result"]
    assert found["metric"] == METRIC[task]
    best = max(found["backbones"], key=lambda each: float(each[METRIC[task]]))
    assert best["interval"][0] <= best[METRIC[task]] <= best["interval"][1]


def test_the_images_decide_the_policy(world: World, task: str, capsys: pytest.CaptureFixture[str]) -> None:
    run_folder = world.run(task, "auto", "--policy", "auto")
    assert "Policy auto: Recommended: " in capsys.readouterr().out
    found = record(run_folder)
    assert found["policy"] in ("head", "last_block", "last_n:2", "lp_ft")
    assert found["decisions"][0].startswith("Policy auto: ")


def test_cross_validation_of_a_recipe(world: World, finished: Path, task: str, tmp_path: Path) -> None:
    found = hfft.evaluate(model=str(finished), folds=2, output_dir=str(tmp_path / "folds"))
    assert found.metrics.images == 28
    low, high = found.metrics.intervals[METRIC[task]]
    assert low <= found.metrics.values[METRIC[task]] <= high
    assert found.metrics.values[METRIC[task]] > 0.5
    assert f"{NAMES[task]} by fold " in found.notes[0]


@pytest.fixture
def page(finished: Path, tmp_path: Path) -> Iterator[Any]:
    """The tabs of the Space, without a server."""
    gr = pytest.importorskip("gradio", reason="the extra 'space' is not installed")
    from hfft.space.options import SpaceArguments
    from hfft.space.service import Space
    from hfft.space.tabs.before_after import BeforeAfter
    from hfft.space.tabs.classify import ClassifyTab
    from hfft.space.tabs.compare import CompareTab
    from hfft.space.tabs.learn import LearnTab
    from hfft.space.tabs.look_inside import PipelineTab, TraceTab
    from hfft.space.tabs.training import TrainingTab
    from hfft.space.widgets import Tabs

    shutil.copytree(finished, tmp_path / "outputs" / "again")
    space = Space(SpaceArguments(model=str(finished), outputs=str(tmp_path / "outputs")), tmp_path, device="cpu")
    with gr.Blocks():
        tabs = Tabs(gr.Dropdown(), "classify")
        classify = ClassifyTab(space, tabs.model)
        others = [each(space, classify.image, tabs) for each in (PipelineTab, TrainingTab, TraceTab, CompareTab)]
        with gr.Tab("map", id="map") as tab:
            drawn = BeforeAfter(space, classify.image, tab, tabs)
        learn = LearnTab(space, tabs)
    yield SimpleNamespace(space=space, all=[classify, *others, drawn, learn], request=SimpleNamespace(session_hash="1"))
    space.close()


def test_the_space_says_what_the_model_says(page: Any, finished: Path, world: World, task: str) -> None:
    name, image = str(finished), str(world.table.parent / "005.png")
    classify, _, training, *_ = page.all
    heading, shown, about = classify.classify(image, name, page.request)
    (row,) = hfft.classify(hfft.load_classifier(finished, device="cpu"), [image])
    assert heading == row.answer.headline
    assert all(label in shown for label in LABELS[task])
    assert about["choices"] == list(LABELS[task])
    assert ("mark" in shown) is (task == "multi_label")
    assert "None" not in shown
    assert f"evidence for <b>{about['value']}</b>" in shown
    other = next(label for label in LABELS[task] if label != about["value"])
    assert f"evidence for <b>{other}</b>" in classify.explain(image, other, name, page.request)
    copy = page.space.work / "copy.png"
    copy.write_bytes(Path(image).read_bytes())
    _, table, sheet, _ = classify.classify_batch([str(copy)], name, page.request)
    assert row.answer.headline in table
    with open(sheet, newline="") as file:
        (line,) = csv.DictReader(file)
    expected = json.dumps(list(row.labels)) if row.labels is not None else f"{row.values['warmth']:.6g}"
    assert line[{"multi_label": "labels", "regression": "warmth"}[task]] == expected
    session = page.space.visits.of("1")
    examples = [label for _, label in page.space.examples(session, name)]
    assert len(examples) > 1
    assert set(examples) <= {each.label for each in page.space.loaded(session, name).answers()}
    table, losses, scores, figure, gallery, note, files = training.training(name, page.request)
    assert f"validation {NAMES[task]}" in table
    assert set(scores["value"]["series"]) == {NAMES[task]}
    assert losses["visible"]
    assert len(files) == len(gallery["value"])
    assert figure["visible"] is (task == "regression")
    assert "There is no confusion matrix" in note
    assert gallery["label"].startswith(
        {"multi_label": "Images with most labels", "regression": "Images with the la"}[task]
    )
    assert "one label" in training.by_epoch(name, page.request)["why"]


def test_the_space_looks_inside(page: Any, finished: Path, world: World, task: str) -> None:
    from hfft.space.curation.labelling import LabelNext

    name, image = str(finished), str(world.table.parent / "005.png")
    _, pipeline, _, trace, compare, drawn, learn = page.all
    (row,) = hfft.classify(hfft.load_classifier(finished, device="cpu"), [image])
    flow, *_ = pipeline.pipeline(image, name, page.request)
    assert {"multi_label": "one probability for each class, on its own", "regression": "one number for each"}[
        task
    ] in flow
    steps = trace.trace(image, name, page.request)
    assert {"multi_label": "A sigmoid turns", "regression": "sums are the numbers themselves"}[task] in steps
    assert "The base model cannot be shown" not in steps
    assert steps.count("What speaks for and against") >= len(LABELS[task])
    answers = trace.journey(image, name, page.request)["answers"]
    assert {each["label"] for each in answers} == set(LABELS[task])
    if row.values:
        assert {each["label"]: float(each["said"]) for each in answers} == pytest.approx(row.values, rel=1e-3)
        assert all(each["share"] is None for each in answers)
    else:
        given = {each["label"] for each in answers if each["share"] >= each["least"]}
        assert given == set(row.labels or ())
    value, shown = drawn.drawn(None, name, page.request)
    assert "one label" in value["why"]
    assert not shown
    assert "one label" in LabelNext(page.space).unfit(page.space.visits.of("1"), name)
    for level in ("At a glance", "For a practitioner", "With the mathematics"):
        told = learn.lesson(level, name, page.request)
        assert NAMES[task] in told
        assert "softmax" not in told.partition("A prediction")[2]
    with pytest.raises(DataError, match="choose two runs or more"):
        compare.compare([name, name], image, page.request)
    table, *_ = compare.compare([name, "again"], image, page.request)
    assert row.answer.headline in table
    assert NAMES[task] in table
    assert "not tested pair by pair" in table


def test_what_takes_one_label_is_refused_before_anything_is_exported(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(finished), "--to", "onnx", "web", "--output_dir", str(tmp_path / "export")]) == 2
    assert "--to web takes one label per image so far" in capsys.readouterr().err
    assert not (tmp_path / "export").exists()


@pytest.mark.slow
def test_onnx_gives_the_same_answers(finished: Path, world: World, task: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    path = tmp_path / "onnx" / "model.onnx"
    assert main(["export", str(finished), "--output_dir", str(tmp_path), "--images", str(world.test.parent)]) == 0
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    classifier = hfft.load_classifier(finished, device="cpu")
    assert [output.name for output in session.get_outputs()] == ["logits", classifier.task.output]
    from PIL import Image

    image = Image.open(world.test.parent / "003.png").convert("RGB")
    inputs = {name: tensor[None] for name, tensor in classifier.pixels(image).items()}
    _, scores = session.run(None, {"images": np.asarray(image)[None]})
    expected = classifier.probabilities(classifier.logits(inputs))
    np.testing.assert_allclose(scores, expected, rtol=2e-2, atol=5e-3)
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["labels"]) == list(LABELS[task])
    assert told["problem_type"] == classifier.task.problem_type
    if task == "multi_label":
        assert (
            json.loads(told["thresholds"]) == json.loads((finished / "config.json").read_text())["decision_thresholds"]
        )


def test_weights_saved_after_a_failure_are_in_the_targets_own_units(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import hfft.jobs.results

    monkeypatch.setattr(hfft.jobs.results, "save_checkpoint", _fails)
    output = world.folder / "failed"
    flags = ("--model_name_or_path", world.model, "--dataset_name", world.table, "--output_dir", output)
    assert run(*flags, "--num_train_epochs", 1, "--cache", "off", *TASKS["regression"]) == 1
    assert "the disk is gone" in capsys.readouterr().err
    model = AutoModelForImageClassification.from_pretrained(output / "unfinished")
    assert abs(float(model.classifier.bias.detach()[0]) - 1000) < 300


def _fails(*args: Any) -> None:
    raise RuntimeError("the disk is gone")
