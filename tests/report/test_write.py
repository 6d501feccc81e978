"""Figures, card and predictions: complete, unclipped, and true to the record they are made of."""

import ast
import csv
import math
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
from huggingface_hub import EvalResult, ModelCard, ModelCardData, metadata_eval_result
from huggingface_hub.repocard_data import model_index_to_eval_results
from matplotlib.figure import Figure
from PIL import Image

from hfft.data.images import ImageSet
from hfft.errors import DataError, OutputError
from hfft.metrics import ClassRow, PairedDifference, SplitMetrics, per_class, reliability
from hfft.report import plots as figures
from hfft.report.card import MOST_ROWS, model_card
from hfft.report.fonts import class_names
from hfft.report.markdown import escape
from hfft.report.record import (
    SOUP,
    BaseRecord,
    DataRecord,
    FrozenRecord,
    PartRecord,
    PhaseRecord,
    RunRecord,
    read_record,
    write_record,
)
from hfft.report.trace import EpochRow, observe, read_trace
from hfft.report.write import Evidence, write_predictions, write_report
from hfft.tasks.single_label import SINGLE_LABEL

NASTY = ["a|b", "<script>alert(1)</script>", "*bold* _it_ `code` [x](y)", "line\nbreak", "$x_1$", "猫", "x" * 300, ""]


def trace(epochs: int, change: int = 0) -> list[EpochRow]:
    rows: list[EpochRow] = []
    for epoch in range(1, epochs + 1):
        phase = "head" if epoch <= change else "last_n:2"
        accuracy = 0.95 - 0.5 / epoch
        rows.append(EpochRow(epoch, phase, 1 / epoch, 0.2 + 1 / epoch, accuracy, 1e-3, 2.0))
        rows[-1].observation = observe(rows, 10)
    return rows


def matrix(size: int) -> np.ndarray:
    generator = np.random.default_rng(size)
    counts: np.ndarray = generator.poisson(3 / size, (size, size)) + 40 * np.eye(size, dtype=int)
    return counts


def run_record(labels: list[str] | None = None) -> RunRecord:
    labels = labels or ["bear", "bird"]
    splits = {name: SplitMetrics(500, {"accuracy": 0.9512345678, "f1_macro": 0.94}) for name in ("validation", "test")}
    splits["test"].intervals["accuracy"] = (0.93, 0.97)
    return RunRecord(
        hfft_version="0.1.0",
        created="2026-01-02T03:04:05+00:00",
        base=BaseRecord("microsoft/resnet-18", "abc123", "0" * 64, "Apache-2.0", on_hub=True),
        data=DataRecord("owner/beans", labels, {"train": 1000, "validation": 500, "test": 500}, on_hub=True),
        policy="last_n:2",
        plan=[PhaseRecord("last_n:2", 5, 20, 1000, 4000, "layer4.0", {"block 4": 1e-3, "head": 5e-3})],
        metrics=splits,
        parts=[PartRecord("stem", 3000, 0), PartRecord("head", 1000, 1000)],
        per_class=per_class(matrix(len(labels)), labels),
        per_class_split="test",
        best_epoch=4,
        test_evaluations=1,
        frozen=FrozenRecord(60, "a", "a"),
    )


def reread(record: RunRecord, rows: list[EpochRow], folder: Path) -> ModelCard:
    path = folder / "README.md"
    model_card(record, rows).save(path)
    card = ModelCard.load(path)
    assert isinstance(card, ModelCard)
    return card


def metadata(card: ModelCard) -> ModelCardData:
    assert isinstance(card.data, ModelCardData)
    return card.data


def results_of(card: ModelCard) -> list[EvalResult]:
    return metadata(card).eval_results or []


def assert_nothing_is_clipped(figure: Figure) -> None:
    figure.canvas.draw()
    width, height = figure.get_size_inches()
    box = figure.get_tightbbox()
    slack = 1 / figure.dpi
    assert box.x0 >= -slack
    assert box.y0 >= -slack
    assert box.x1 <= width + slack
    assert box.y1 <= height + slack


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


@pytest.mark.parametrize(("epochs", "change"), [(0, 0), (1, 0), (2, 1), (5, 0), (40, 10), (100, 1)])
def test_curves(epochs: int, change: int) -> None:
    figure = figures.curves(trace(epochs, change))
    assert_nothing_is_clipped(figure)
    upper, lower = figure.axes
    assert ("last_n:2" in [text.get_text() for text in upper.texts]) == bool(change)
    assert (f"after epoch {epochs}" in lower.get_title()) == bool(epochs)


def test_curves_of_a_run_that_broke() -> None:
    rows = [replace(row, train_loss=math.nan, eval_loss=math.inf, score=math.nan) for row in trace(3)]
    assert_nothing_is_clipped(figures.curves(rows))


def test_ticks_are_whole_epochs() -> None:
    for epochs in (1, 2, 5, 100):
        ticks = figures.curves(trace(epochs)).axes[1].get_xticks()
        assert all(tick == int(tick) for tick in ticks)


@pytest.mark.parametrize("size", [2, 3, 10, 25, 26, 40, 41, 100, 1000])
@pytest.mark.parametrize("name", ["class {}", "a rather long name of a class, number {}"])
def test_confusion_matrix(size: int, name: str) -> None:
    figure = figures.confusion_matrix(matrix(size), [name.format(i) for i in range(size)])
    assert_nothing_is_clipped(figure)
    ticks = figure.axes[0].get_yticklabels()
    assert len(ticks) == size if size <= 40 else 4 <= len(ticks) <= 41
    assert bool(figure.axes[0].texts) == (size <= 25)


def test_names_are_drawn_as_they_are_or_by_number() -> None:
    figure = figures.confusion_matrix(matrix(len(NASTY)), NASTY)
    assert_nothing_is_clipped(figure)
    names = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert names[3:6] == ["line break", "$x_1$", "label 5"]
    assert names[-1] == "label 7"
    assert max(map(len, names)) <= 22


def test_cut_names_are_told_apart() -> None:
    names = class_names([f"Rhododendron ponticum {kind} hybrid of unknown origin" for kind in ("album", "roseum")])
    assert len(set(names)) == 2
    assert max(map(len, names)) <= 22
    assert class_names(["a  b", "a b"]) == ["a b (0)", "a b (1)"]


@pytest.mark.parametrize("name", ["a rather long name, {}", "NAME IN CAPITALS, NO {}"])
def test_the_legend_of_a_map_fits_beside_long_names(name: str) -> None:
    points, labels = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32), np.arange(12)
    panel = figures.Panel("after fine-tuning", points, labels, points, labels)
    for panels in (1, 2):
        plot = figures.MapPlot([panel] * panels, np.zeros(12, bool))
        assert_nothing_is_clipped(figures.feature_map(plot, [name.format(i) for i in range(12)]))


def test_a_map_says_that_colours_repeat() -> None:
    points, labels = np.zeros((3, 2), np.float32), np.arange(3)
    plot = figures.MapPlot([figures.Panel("", points, labels, points, labels)], np.zeros(3, bool))
    assert figures.feature_map(plot, list(map(str, range(1000)))).get_supxlabel() == "1,000 classes share 12 colours"


@pytest.mark.parametrize(
    ("wrong", "note"),
    [
        ([True, False, False], "crosses: 1 mistakes of the model among 3 validation images"),
        ([False] * 3, "no mistake of the model among 3 validation images"),
    ],
)
def test_a_map_names_the_images_that_it_shows(wrong: list[bool], note: str) -> None:
    points, labels = np.zeros((3, 2), np.float32), np.arange(3)
    plot = figures.MapPlot([figures.Panel("", points, labels, points, labels)], np.array(wrong), "validation ")
    assert figures.feature_map(plot, ["a", "b", "c"]).get_supxlabel() == note


def test_confusion_of_no_images() -> None:
    assert_nothing_is_clipped(figures.confusion_matrix(np.zeros((3, 3), dtype=int), ["a", "b", "c"]))


def test_rare_confusions_survive_pooling() -> None:
    counts = 40 * np.eye(1000, dtype=int)
    counts[3, 777] = 40
    shown = figures.confusion_matrix(counts, [str(i) for i in range(1000)]).axes[0].images[0].get_array()
    assert shown is not None
    assert shown.shape == (250, 250)
    assert shown[0, 777 // 4] == 0.5


def test_reliability_diagram() -> None:
    generator = np.random.default_rng(0)
    confidence = generator.random(300)
    bins = reliability(confidence, generator.random(300) < confidence)
    assert_nothing_is_clipped(figures.reliability_diagram(bins))
    assert_nothing_is_clipped(figures.reliability_diagram(reliability(np.ones(1), np.ones(1, dtype=bool))))


@pytest.mark.parametrize(
    "write",
    [
        lambda path: figures.curves_figure(trace(5), path),
        lambda path: figures.confusion_figure(matrix(3), ["a", "b", "c"], path),
        lambda path: figures.reliability_figure(reliability(np.ones(1), np.ones(1, dtype=bool)), path),
    ],
)
def test_files_are_pictures_with_a_description(tmp_path: Path, write: Callable[[Path], None]) -> None:
    path = tmp_path / "figure.png"
    write(path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert min(image.size) > 400
        assert len(image.info["Description"]) > 20
        assert len(set(image.convert("L").tobytes())) > 10
    with pytest.raises(OutputError, match="cannot write"):
        write(tmp_path / "none" / "figure.png")


def test_pyplot_stays_out() -> None:
    code = "import sys; from hfft.report.plots import curves; curves([]); assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_card_metadata_comes_back(tmp_path: Path) -> None:
    card = reread(run_record(), trace(5), tmp_path)
    data, results = metadata(card), results_of(card)
    assert data.base_model == "microsoft/resnet-18"
    assert data.datasets == ["owner/beans"]
    assert data.license == "apache-2.0"
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "image-classification"
    assert {"image-classification", "hfft", "partial-fine-tuning"} <= set(data.tags or [])
    assert [(r.dataset_split, r.metric_type, r.metric_value) for r in results] == [
        ("test", "accuracy", 0.951235),
        ("test", "f1", 0.94),
        ("validation", "accuracy", 0.951235),
        ("validation", "f1", 0.94),
    ]
    assert {r.dataset_type for r in results} == {"owner/beans"}


def test_model_index_is_what_the_hub_client_itself_makes(tmp_path: Path) -> None:
    ours = results_of(reread(run_record(), trace(5), tmp_path))
    expected = metadata_eval_result(
        model_pretty_name="resnet-18-beans",
        task_pretty_name="Image Classification",
        task_id="image-classification",
        metrics_pretty_name="Accuracy",
        metrics_id="accuracy",
        metrics_value=0.951235,
        dataset_pretty_name="beans",
        dataset_id="owner/beans",
        dataset_split="test",
    )["model-index"]
    theirs = replace(model_index_to_eval_results(expected)[1][0], verified=None)
    assert theirs in ours


def test_card_says_what_the_record_says(tmp_path: Path) -> None:
    record, rows = run_record(), trace(5)
    record.baselines = {"majority": {"accuracy": 0.5}, "linear_probe": {"accuracy": 0.85}}
    text = reread(record, rows, tmp_path).text
    for expected in (
        "| test | Accuracy | 0.9512 | 0.930 to 0.970 | 500 |",
        "At most 1,000 of 4,000 parameters (25.0%) learned at a time.",
        "60 frozen tensors are bit-identical",
        "| last\\_n:2 | 5 | 20 | 1,000 | 25.0% | `layer4.0` | block 4 0.001, head 0.005 |",
        "| stem | 3,000 | 0 | 0.0% |",
        "| linear probe | Accuracy | 0.8500 |",
        "(curves.png)",
        "(confusion_matrix.png)",
        'pipeline("image-classification", model=',
        "hfft.load(",
        "looked at the test images once",
        "The weights are those after epoch 4",
        "| 4 (best) | last\\_n:2 | ",
    ):
        assert expected in text, expected
    weakest = min(record.per_class, key=lambda row: row.recall)
    assert f"The weakest class is {weakest.label}: {weakest.recall:.3f} of its" in text


def test_examples_in_the_card_compile() -> None:
    text = model_card(run_record(), trace(1), repo_id="odd \"name\" 'here'").text
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        compile(block, "card", "exec")


def test_examples_in_the_card_name_the_folder_in_any_script() -> None:
    text = model_card(run_record(), trace(1), repo_id="runs/\U0001f600 猫").text
    (call,) = re.findall(r"load_classifier\((.*)\)", text)
    assert ast.literal_eval(call) == "runs/\U0001f600 猫"


def test_a_delta_alone_is_merged_from_a_folder_with_spaces() -> None:
    text = model_card(run_record(), trace(1), repo_id="my runs/a", delta_only=True).text
    assert "`hfft merge 'my runs/a' --output_dir merged`" in text


@pytest.mark.parametrize(
    ("license", "expected"),
    [
        (None, (None, None)),
        ("MIT", ("mit", None)),
        ("cc-by-nc-4.0", ("cc-by-nc-4.0", None)),
        ("Some Own License, v2", ("other", "some-own-license-v2")),
    ],
)
def test_licenses(tmp_path: Path, license: str | None, expected: tuple[str | None, str | None]) -> None:
    record = run_record()
    record.base.license = license
    card = reread(record, trace(1), tmp_path)
    assert (metadata(card).license, metadata(card).license_name) == expected
    assert ("license is not known" in card.text) == (license is None)


def test_folders_of_whoever_trained_stay_private(tmp_path: Path) -> None:
    record = run_record()
    record.base = BaseRecord("/home/someone/models/resnet")
    record.data = replace(record.data, name="/home/someone/photos/", on_hub=False)
    card = reread(record, trace(1), tmp_path)
    assert metadata(card).base_model is None
    assert metadata(card).datasets is None
    assert results_of(card)[0].dataset_name == "photos"
    assert "someone" not in card.content


def test_card_without_test_split_interval_or_frozen_part(tmp_path: Path) -> None:
    record = run_record()
    del record.metrics["test"]
    record.frozen = None
    text = reread(record, trace(1), tmp_path).text
    assert "There was no test split" in text
    assert "Nothing was frozen throughout" in text
    record.metrics = {}
    record.per_class = []
    record.plan = []
    card = reread(record, [], tmp_path)
    assert not results_of(card)
    assert "No split was evaluated" in card.text


def test_without_a_test_split_the_card_says_what_was_chosen_on_validation() -> None:
    record = run_record()
    del record.metrics["test"]
    assert "The best epoch was chosen on the validation images, so that" in model_card(record, trace(5)).text
    record.best_epoch = None
    text = model_card(record, trace(5)).text
    assert "Where options or runs were compared by the validation images" in text
    assert "chosen on" not in text
    record.command = SOUP
    text = model_card(record, trace(5)).text
    assert "The runs whose weights are averaged were chosen on the validation images, so that" in text
    assert "epoch was chosen" not in text


def test_targets_and_constant_answers_keep_their_names() -> None:
    record = run_record(["Width_CM"])
    record.task, record.per_class = "regression", []
    record.metrics = {"validation": SplitMetrics(5, {"mae": 2.0, "mae of Width_CM": 2.0})}
    record.baselines = {"majority": {"mae": 3.0}}
    record.per_class_split = "validation"
    text = model_card(record, []).text
    assert "Mean absolute error of Width\\_CM" in text
    assert "| best constant answer | Mean absolute error | 3.0000 |" in text


def test_card_owns_up(tmp_path: Path) -> None:
    record = run_record()
    record.frozen = FrozenRecord(60, "a", "b")
    record.metrics["validation"].values["accuracy"] = math.nan
    record.per_class = [ClassRow("bear", 1, 1, 1, 3), ClassRow("bird", 0, 0, 0, 0)]
    record.data.skipped = ["broken.jpg"]
    card = reread(record, trace(1), tmp_path)
    for expected in (
        "do not rely on the freeze",
        "1 of 2 classes have fewer than 20 test images",
        "1 of 2 classes have no test image at all",
        "One file could not be read",
    ):
        assert expected in card.text, expected
    assert len(results_of(card)) == 3


def test_card_example_turns_images_as_hfft_does(tmp_path: Path) -> None:
    assert "ImageOps.exif_transpose(Image.open(" in reread(run_record(), trace(1), tmp_path).text


def test_card_leads_with_what_nothing_was_chosen_on_and_names_its_intervals(tmp_path: Path) -> None:
    record = run_record()
    record.metrics = {name: SplitMetrics(20, {"accuracy": 0.95}, method="Wilson") for name in ("validation", "test")}
    record.baselines = {"linear_probe": {"accuracy": 0.9}}
    record.differences = {"linear_probe": PairedDifference(0.05, -0.094, 0.212, 1.0)}
    card = reread(record, trace(1), tmp_path)
    assert card.text.index("| test | Accuracy | 0.9500 (19 of 20)") < card.text.index("| validation (optimistic) |")
    assert "the best epoch was chosen on the same images" in card.text
    assert "Intervals are Wilson's" in card.text
    assert "| linear probe | Accuracy | 0.9000 (18 of 20) |" in card.text
    assert "against the linear probe: +0.050 (95% interval -0.094 to +0.212" in card.text
    assert results_of(card)[0].dataset_split == "test"
    record.best_epoch = None
    assert "optimistic" not in reread(record, trace(1), tmp_path).text
    path = tmp_path / "hfft.json"
    write_record(path, record)
    assert read_record(path).differences == record.differences
    assert read_record(path).metrics["test"].method == "Wilson"


def test_labels_cannot_break_the_card(tmp_path: Path) -> None:
    record = run_record(NASTY)
    record.data = replace(record.data, name="../---\nlicense: evil\n---\n# x", on_hub=True)
    record.base = replace(record.base, id="a](b) <i>", on_hub=True)
    card = reread(record, trace(1), tmp_path)
    assert metadata(card).license == "apache-2.0"
    assert metadata(card).datasets is None
    assert "<script>" not in card.text
    assert "<i>" not in card.text
    lines = card.text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| Class |"))
    table = lines[start : start + 2 + len(NASTY)]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {7}


def test_long_tables_are_cut_and_say_so(tmp_path: Path) -> None:
    record = run_record([f"class {i}" for i in range(3000)])
    text = reread(record, trace(200), tmp_path).text
    assert f"The {MOST_ROWS} weakest of 3,000 classes." in text
    assert f"The last {MOST_ROWS} of 200 epochs. The weights are those after epoch 4" in text
    assert len(text) < 40_000


def test_escape() -> None:
    assert escape("<b>a_b</b>\n| c") == "&lt;b&gt;a\\_b&lt;/b&gt; \\| c"
    assert escape("see https://x.org") == "see https:\\//x.org"


def test_predictions(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    rows = [["cat", "cat", "0.500000"], ["dog", 'a "cat"', "1.000000"]]
    write_predictions(path, ["a,b.jpg", "猫.jpg"], ["label", "prediction", "probability"], rows)
    with path.open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [
            ["file", "label", "prediction", "probability"],
            ["a,b.jpg", "cat", "cat", "0.500000"],
            ["猫.jpg", "dog", 'a "cat"', "1.000000"],
        ]
    with pytest.raises(DataError, match="equally many"):
        write_predictions(path, ["a"], ["label"], [])
    with pytest.raises(OutputError, match="cannot write"):
        write_predictions(tmp_path / "none" / "x.csv", [], [], [])


def test_whole_report(tmp_path: Path) -> None:
    record, rows = run_record(), trace(3)
    features = datasets.Features({"image": datasets.Image(decode=False)})
    three = datasets.Dataset.from_dict({"image": [{"path": f"{n}.png", "bytes": None} for n in range(3)]}, features)
    images = ImageSet(three, np.array([0, 1, 0]), "three")
    evidence = Evidence(SINGLE_LABEL, images, record.data.labels, np.eye(2)[[0, 1, 0]])
    files = write_report(tmp_path, record, rows, evidence)
    assert sorted(files) == sorted(tmp_path.iterdir())
    assert read_record(tmp_path / "hfft.json") == record
    assert read_trace(tmp_path / "trace.csv") == rows
    assert "(reliability.png)" in ModelCard.load(tmp_path / "README.md").text
    assert tmp_path / "mistakes.png" not in files, "there is no mistake to draw"
    assert tmp_path / "reliability.png" not in write_report(tmp_path, record, rows, None)
