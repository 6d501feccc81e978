"""Metrics against values worked out by hand, against scikit-learn, and in awkward places."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import (
    confusion_matrix,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

from hfft import metrics
from hfft.errors import DataError


def random_case(images: int = 400, labels: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, labels, images)
    logits = generator.normal(size=(images, labels)).astype(np.float32)
    logits[np.arange(images), truth] += 1.5
    return logits, truth


def test_by_hand() -> None:
    logits = np.log(np.array([[0.8, 0.2], [0.4, 0.6], [0.9, 0.1], [0.3, 0.7]]))
    result = metrics.classification_metrics(logits, np.array([0, 1, 1, 1]))
    assert list(result) == ["accuracy", "f1_macro", "loss", "ece"]
    assert result["accuracy"] == 0.75
    assert result["f1_macro"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert result["loss"] == pytest.approx(-np.log([0.8, 0.6, 0.1, 0.7]).mean())
    # Four bins of one image each: the gaps are 0.2, 0.4, 0.9 and 0.3.
    assert result["ece"] == pytest.approx((0.2 + 0.4 + 0.9 + 0.3) / 4)


def test_against_scikit_learn() -> None:
    logits, truth = random_case()
    result = metrics.classification_metrics(logits, truth)
    best, every = logits.argmax(axis=1), list(range(12))
    assert result["accuracy"] == np.mean(best == truth)
    assert result["f1_macro"] == pytest.approx(f1_score(truth, best, average="macro"))
    assert result["top5_accuracy"] == pytest.approx(top_k_accuracy_score(truth, logits, k=5, labels=every))
    assert result["loss"] == pytest.approx(log_loss(truth, metrics.softmax(logits), labels=every), rel=1e-5)
    matrix = metrics.confusion(logits, truth, 12)
    assert (matrix == confusion_matrix(truth, best, labels=every)).all()
    rows = metrics.per_class(matrix, [f"class {i}" for i in every])
    expected = precision_recall_fscore_support(truth, best, labels=every, zero_division=0)
    found = [[getattr(row, name) for row in rows] for name in ("precision", "recall", "f1", "support")]
    assert np.allclose(found, expected)


@pytest.mark.parametrize(("labels", "shown"), [(5, False), (6, True)])
def test_top5_only_where_it_says_something(labels: int, shown: bool) -> None:
    assert ("top5_accuracy" in metrics.classification_metrics(*random_case(labels=labels))) is shown


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, truth = random_case()
    whole = metrics.classification_metrics(logits, truth)
    monkeypatch.setattr(metrics, "_CHUNK", 7)
    assert metrics.classification_metrics(logits, truth) == whole


def test_metric_classes_work_alone_and_describe_themselves() -> None:
    assert metrics.Accuracy().compute(predictions=[0, 1, 1], references=[0, 1, 0]) == {"accuracy": pytest.approx(2 / 3)}
    assert metrics.MacroF1().compute(predictions=[0, 1], references=[0, 1]) == {"f1_macro": 1.0}
    top2 = metrics.TopK(2)
    assert top2.compute(predictions=[[0, 1], [2, 1]], references=[1, 0]) == {"top2_accuracy": 0.5}
    top2.add_batch(predictions=[[0, 1]], references=[1])
    top2.add_batch(predictions=[[2, 1]], references=[0])
    assert top2.compute() == {"top2_accuracy": 0.5}
    ece = metrics.ExpectedCalibrationError()
    assert "Guo" in ece.citation
    assert set(ece.features) == {"predictions", "references", "confidences"}


def test_ece_of_known_cases() -> None:
    confidence = np.full(100, 0.75)
    right = np.arange(100) < 75
    assert metrics.reliability(confidence, right).error == pytest.approx(0)
    assert metrics.reliability(confidence, ~right).error == pytest.approx(0.5)
    assert metrics.reliability(np.ones(4), np.ones(4, dtype=bool)).error == 0
    two_bins = metrics.reliability(np.array([0.1, 0.1, 1.0]), np.array([True, False, True]), bins=2)
    assert two_bins.counts.tolist() == [2, 1]
    assert two_bins.error == pytest.approx(2 / 3 * 0.4)


def test_logits_that_are_not_numbers_give_a_loss_that_is_none() -> None:
    result = metrics.classification_metrics(np.full((4, 3), np.nan), np.array([0, 1, 2, 0]))
    assert np.isnan(result["loss"])
    assert np.isnan(result["ece"])


def test_all_equal_logits_agree_everywhere() -> None:
    logits, truth = np.zeros((6, 8)), np.arange(6)
    accuracy = metrics.classification_metrics(logits, truth)["accuracy"]
    assert accuracy == np.trace(metrics.confusion(logits, truth, 8)) / 6


@pytest.mark.parametrize(
    ("logits", "truth", "message"),
    [
        (np.zeros((0, 3)), np.zeros(0, dtype=int), "no images"),
        (np.zeros((2, 3)), np.zeros(3, dtype=int), "do not belong together"),
        (np.zeros(3), np.zeros(3, dtype=int), "do not belong together"),
        (np.zeros((2, 3)), np.array([0, 3]), "3 labels"),
        (np.zeros((2, 3)), np.array([-100, 2]), "3 labels"),
    ],
)
def test_bad_input(logits: np.ndarray, truth: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        metrics.classification_metrics(logits, truth)


def test_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    generator, truth, held = np.random.default_rng(0), 0.8, 0
    for trial in range(400):
        low, high = metrics.bootstrap_interval(generator.random(300) < truth, seed=trial)
        held += low <= truth <= high
    assert 0.92 <= held / 400 <= 0.98


def test_interval_is_that_of_resampled_images() -> None:
    correct = np.arange(200) < 170
    generator = np.random.default_rng(1)
    means = correct[generator.integers(0, 200, size=(5000, 200))].mean(axis=1)
    expected = np.quantile(means, [0.025, 0.975])
    assert metrics.bootstrap_interval(correct, seed=0, resamples=5000) == pytest.approx(expected, abs=0.006)


def test_interval_is_seeded_and_ordered() -> None:
    correct = np.arange(50) < 40
    assert metrics.bootstrap_interval(correct, seed=3) == metrics.bootstrap_interval(correct, seed=3)
    narrow, wide = (metrics.bootstrap_interval(correct, seed=3, level=level) for level in (0.5, 0.99))
    assert wide[0] < narrow[0] < 0.8 < narrow[1] < wide[1]
    assert metrics.bootstrap_interval(np.ones(9, dtype=bool), seed=0) == (1.0, 1.0)


def test_processes_at_once_write_nothing(tmp_path: Path) -> None:
    code = (
        "import numpy as np; from hfft.metrics import classification_metrics\n"
        "for _ in range(20): print(classification_metrics(np.eye(8), np.arange(8))['accuracy'])"
    )
    environment = {"HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "PATH": ""}
    jobs = [
        subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [job.communicate()[0].split() for job in jobs] == [["1.0"] * 20] * 2
    assert not [path for path in tmp_path.rglob("*") if "metrics" in path.parts or path.suffix in {".arrow", ".lock"}]
