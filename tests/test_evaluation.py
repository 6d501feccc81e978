"""`evaluate` metrics against values worked out by hand, against scikit-learn, and in awkward places."""

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

from hfft import evaluation, metrics
from hfft.errors import DataError


def random_case(images: int = 400, labels: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, labels, images)
    logits = generator.normal(size=(images, labels)).astype(np.float32)
    logits[np.arange(images), truth] += 1.5
    return logits, truth


def test_by_hand() -> None:
    logits = np.log(np.array([[0.8, 0.2], [0.4, 0.6], [0.9, 0.1], [0.3, 0.7]]))
    result = evaluation.classification_metrics(logits, np.array([0, 1, 1, 1]))
    assert list(result) == ["accuracy", "f1_macro", "loss", "ece"]
    assert result["accuracy"] == 0.75
    assert result["f1_macro"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert result["loss"] == pytest.approx(-np.log([0.8, 0.6, 0.1, 0.7]).mean())
    # Four bins of one image each: the gaps are 0.2, 0.4, 0.9 and 0.3.
    assert result["ece"] == pytest.approx((0.2 + 0.4 + 0.9 + 0.3) / 4)


def test_against_scikit_learn() -> None:
    logits, truth = random_case()
    result = evaluation.classification_metrics(logits, truth)
    best, every = logits.argmax(axis=1), list(range(12))
    assert result["accuracy"] == np.mean(best == truth)
    assert result["f1_macro"] == pytest.approx(f1_score(truth, best, average="macro"))
    assert result["top5_accuracy"] == pytest.approx(top_k_accuracy_score(truth, logits, k=5, labels=every))
    assert result["loss"] == pytest.approx(log_loss(truth, metrics.probabilities(logits, 1.0), labels=every), rel=1e-5)
    matrix = metrics.confusion(logits, truth, 12)
    assert (matrix == confusion_matrix(truth, best, labels=every)).all()
    rows = metrics.per_class(matrix, [f"class {i}" for i in every])
    expected = precision_recall_fscore_support(truth, best, labels=every, zero_division=0)
    found = [[getattr(row, name) for row in rows] for name in ("precision", "recall", "f1", "support")]
    assert np.allclose(found, expected)


@pytest.mark.parametrize(("labels", "shown"), [(5, False), (6, True)])
def test_top5_only_where_it_says_something(labels: int, shown: bool) -> None:
    assert ("top5_accuracy" in evaluation.classification_metrics(*random_case(labels=labels))) is shown


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, truth = random_case()
    whole = evaluation.classification_metrics(logits, truth)
    monkeypatch.setattr(metrics, "_CHUNK", 7)
    assert evaluation.classification_metrics(logits, truth) == whole


def test_metric_classes_work_alone_and_describe_themselves() -> None:
    assert evaluation.Accuracy().compute(predictions=[0, 1, 1], references=[0, 1, 0]) == {
        "accuracy": pytest.approx(2 / 3)
    }
    assert evaluation.MacroF1().compute(predictions=[0, 1], references=[0, 1]) == {"f1_macro": 1.0}
    top2 = evaluation.TopK(2)
    assert top2.compute(predictions=[[0, 1], [2, 1]], references=[1, 0]) == {"top2_accuracy": 0.5}
    top2.add_batch(predictions=[[0, 1]], references=[1])
    top2.add_batch(predictions=[[2, 1]], references=[0])
    assert top2.compute() == {"top2_accuracy": 0.5}
    ece = evaluation.ExpectedCalibrationError()
    assert "Guo" in ece.citation
    assert set(ece.features) == {"predictions", "references", "confidences"}


def test_logits_that_are_not_numbers_give_a_loss_that_is_none() -> None:
    result = evaluation.classification_metrics(np.full((4, 3), np.nan), np.array([0, 1, 2, 0]))
    assert np.isnan(result["loss"])
    assert np.isnan(result["ece"])


def test_all_equal_logits_agree_everywhere() -> None:
    logits, truth = np.zeros((6, 8)), np.arange(6)
    accuracy = evaluation.classification_metrics(logits, truth)["accuracy"]
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
        evaluation.classification_metrics(logits, truth)


@pytest.mark.slow
def test_processes_at_once_write_nothing(tmp_path: Path) -> None:
    code = (
        "import numpy as np; from hfft.evaluation import classification_metrics\n"
        "for _ in range(20): print(classification_metrics(np.eye(8), np.arange(8))['accuracy'])"
    )
    environment = {"HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "PATH": ""}
    jobs = [
        subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [job.communicate()[0].split() for job in jobs] == [["1.0"] * 20] * 2
    assert not [path for path in tmp_path.rglob("*") if "metrics" in path.parts or path.suffix in {".arrow", ".lock"}]
