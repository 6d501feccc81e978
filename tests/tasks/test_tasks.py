"""What holds for each task: encoding, transformers' own loss, strata, answers, thresholds and probes."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, r2_score
from small_models import SMALL
from transformers import ViTConfig, ViTForImageClassification

from hfft.data.sampling import stratified
from hfft.errors import ArgumentError, DataError, HfftError, ModelError
from hfft.models.head import scale_head
from hfft.tasks.contract import THRESHOLDS, Task, needs_one_label
from hfft.tasks.multi_label import MULTI_LABEL, MultiLabel
from hfft.tasks.registry import TASKS, task_as, task_of
from hfft.tasks.regression import REGRESSION, Regression
from hfft.tasks.single_label import SINGLE_LABEL
from hfft.training.baselines import fit_probe, fit_with

CLASSES = ("cat", "dog", "owl")
TREE = ("pet/cat", "pet/dog", "owl")
NAMES = {"label_tree": TREE}
"""Of the classes, where a task has others than `CLASSES`."""
LABELS: dict[str, list[Any]] = {
    "single_label": ["dog", "cat", "owl", "dog"],
    "label_tree": ["pet/dog", "pet/cat", "owl", "pet/dog"],
    "multi_label": [("cat", "owl"), (), ("dog",), ("cat", "dog", "owl")],
    "regression": [(1.5, 2.0, -3.0), (0.0, 4.0, 1.0), (7.0, 0.5, 2.0), (1.0, 1.0, 1.0)],
}


@pytest.fixture(params=sorted(TASKS))
def task(request: pytest.FixtureRequest) -> Task:
    return TASKS[request.param]


def _names(task: Task) -> tuple[str, ...]:
    return NAMES.get(task.name, CLASSES)


def test_what_is_encoded_is_decoded(task: Task) -> None:
    names = _names(task)
    assert task.decode(task.encode(LABELS[task.name], names), names) == LABELS[task.name]


def test_the_loss_is_transformers_own(task: Task) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {**SMALL["vit"], "num_labels": 3, "problem_type": task.problem_type}
    config = ViTConfig(**options)
    model = ViTForImageClassification(config).eval()
    targets = torch.from_numpy(task.encode(LABELS[task.name], _names(task)))
    with torch.no_grad():
        outputs = model(torch.randn(4, 3, 32, 32), labels=targets)
    mean = task.loss(outputs.logits, targets, None, 0.0) / task.items(targets)
    torch.testing.assert_close(mean, outputs.loss)
    found = task.epoch_metrics(outputs.logits.numpy(), targets.numpy())
    assert found["loss"] == pytest.approx(outputs.loss.item(), rel=1e-5)
    assert set(found) <= {*task.metrics} | {"top5_accuracy"}
    assert task.metric in found


def test_the_count_that_the_trainer_divides_by_is_that_of_the_loss(task: Task) -> None:
    targets = torch.from_numpy(task.encode(LABELS[task.name], _names(task)))
    assert int(targets.ne(-100).sum()) == task.items(targets)
    if task.name == "regression":  # a number that the Trainer would take for nothing
        (number,) = task.encode([(-100.0,)], ["x"])[0]
        assert number != -100
        assert number == pytest.approx(-100)


def test_what_a_configuration_says_is_read_back(task: Task) -> None:
    config = SimpleNamespace(id2label=dict(enumerate(_names(task))))
    logits = np.random.default_rng(0).normal(size=(4, 3))
    solved = task.calibrated(logits, task.encode(LABELS[task.name], _names(task)))
    solved.write(config)
    assert task_of(config) == solved
    assert task_as(task.name, getattr(solved, "temperature", 1.0), getattr(config, THRESHOLDS, ())) == solved
    task.write(config)
    assert task_of(config) == task, "what belonged to other logits is gone"


@pytest.mark.parametrize("low", [1e-7, 0.3, 0.9999998])
def test_a_threshold_parts_scores_however_close(low: float) -> None:
    high = low * (1 + 1e-7) if low > 0.1 else 3 * low
    scores = np.array([low, high])
    logits = np.log(scores / (1 - scores))[:, None].repeat(2, axis=1)
    solved = MULTI_LABEL.calibrated(logits, np.array([[0, 1], [1, 1]], np.float32))
    assert solved.given(solved.scores(logits))[:, 0].tolist() == [False, True]
    assert len(str(solved.thresholds[0])) < 20


@pytest.mark.parametrize("found", [None, [0.5], ["a", "b", "c"], [float("nan")] * 3, {"cat": 1}])
def test_thresholds_of_a_stranger_that_make_no_sense_are_passed_over(found: Any) -> None:
    config = SimpleNamespace(id2label=dict(enumerate(CLASSES)), problem_type=MULTI_LABEL.problem_type)
    setattr(config, THRESHOLDS, found)
    assert task_of(config) == MULTI_LABEL


def test_what_cannot_be_told_is_refused() -> None:
    with pytest.raises(ModelError, match="single output"):
        task_of(SimpleNamespace(id2label={0: "x"}, problem_type=None), "mine")
    with pytest.raises(HfftError, match="no task 'segmentation'"):
        task_as("segmentation", 1.0, ())
    with pytest.raises(ArgumentError, match="hfft sweep takes one label per image so far, and this is regression"):
        needs_one_label(REGRESSION, "hfft sweep")


@pytest.mark.parametrize("name", ["multi_label", "regression"])
def test_options_without_a_meaning_are_refused(name: str) -> None:
    with pytest.raises(ArgumentError, match="--label_smoothing_factor"):
        TASKS[name].check_options(0.1)
    TASKS[name].check_options(0.0)
    SINGLE_LABEL.check_options(0.1)
    with pytest.raises(ArgumentError, match="--class_weights balanced"):
        REGRESSION.class_weights(np.zeros((3, 1)), 1)


def test_balanced_weights_make_having_a_label_count_as_much_as_lacking_it() -> None:
    targets = np.array([[1, 0, 0], [0, 0, 0], [0, 0, 0], [1, 1, 0]], np.float32)
    weights = MULTI_LABEL.class_weights(targets, 3).numpy()
    assert weights.tolist() == [1, 3, 1]
    logits, truth = torch.zeros(4, 3), torch.from_numpy(targets)
    parts = [float(MULTI_LABEL.loss(logits[:, [1]], truth[:, [1]], torch.tensor([w]), 0.0)) for w in (1.0, weights[1])]
    assert parts[1] == pytest.approx(parts[0] / 4 * 6)


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=8, max_size=60), st.integers(0, 9))
def test_a_sample_of_several_labels_keeps_their_shares(rows: list[list[bool]], seed: int) -> None:
    targets = np.array(rows, np.float32)
    strata = MULTI_LABEL.strata(targets)
    half = len(rows) // 2
    taken = stratified(strata, half, seed)
    assert len(set(taken.tolist())) == half
    assert half < len(np.unique(strata)) or set(strata[taken]) == set(strata), "none is lost"
    rarest = int(targets.sum(axis=0).argmin())
    if targets[:, rarest].any():
        assert (strata[targets[:, rarest] > 0] == rarest).all()


def test_strata_of_numbers_are_quantiles() -> None:
    values = np.random.default_rng(0).lognormal(size=(100, 1)).astype(np.float32)
    strata = REGRESSION.strata(values)
    assert np.bincount(strata).tolist() == [10] * 10
    order = values[:, 0].argsort()
    assert (np.diff(strata[order]) >= 0).all()


def test_thresholds_have_the_best_f1() -> None:
    random = np.random.default_rng(0)
    targets = (random.random((80, 3)) < (0.1, 0.4, 0.0)).astype(np.float32)
    logits = random.normal(size=(80, 3)) + 1.5 * targets - 1
    solved = MULTI_LABEL.calibrated(logits, targets)
    assert isinstance(solved, MultiLabel)
    scores, given_labels = solved.scores(logits), solved.given(solved.scores(logits))
    for label in range(2):
        steps = [0.0, *scores[:, label]]
        best = max(f1_score(targets[:, label], scores[:, label] >= step, zero_division=0.0) for step in steps)
        assert f1_score(targets[:, label], given_labels[:, label]) == pytest.approx(best)
    assert solved.thresholds[2] == 0.5, "nobody knows"
    values = solved.judge(logits, targets, CLASSES).metrics.values
    each = [average_precision_score(targets[:, place], scores[:, place]) for place in range(2)]
    assert values["map"] == pytest.approx(np.mean(each)), "a label that no image has does not count"
    assert values["subset_accuracy"] == pytest.approx((given_labels == (targets > 0)).all(axis=1).mean())
    assert values["f1_micro"] == pytest.approx(f1_score(targets.ravel(), given_labels.ravel()))


def test_a_single_label_that_is_there_or_not() -> None:
    targets = np.array([[1], [0], [1], [0]], np.float32)
    logits = np.array([[2.0], [-1.0], [1.0], [-3.0]])
    found = MULTI_LABEL.judge(logits, targets, ["broken"])
    assert found.metrics.values["map"] == found.metrics.values["f1_macro"] == 1
    assert [row.support for row in found.per_class] == [2]


def test_numbers_are_judged_in_their_own_units() -> None:
    random = np.random.default_rng(0)
    targets = random.normal([1000, 0.5], [200, 0.1], (50, 2)).astype(np.float32)
    task = REGRESSION.fitted_to(targets)
    logits = (targets - task.offset) / task.scale + random.normal(0, 0.3, (50, 2))
    values = task.scores(logits)
    found = task.judge(logits, targets, ["warmth", "light"]).metrics.values
    assert found["r2"] == pytest.approx(r2_score(targets, values))
    assert found["mae of warmth"] == pytest.approx(np.abs(values - targets)[:, 0].mean())
    assert found["rmse of light"] == pytest.approx(np.sqrt(((values - targets)[:, 1] ** 2).mean()))
    assert task.epoch_metrics(logits, targets)["loss"] == pytest.approx(0.09, rel=0.3)
    (row,) = task.aligned([(1.0, 2.0)], ["light", "warmth"], ["warmth", "light"])
    assert row == (2.0, 1.0)
    with pytest.raises(DataError, match="1 numbers each, and the model gives 2"):
        task.aligned([(1.0,)], ["light"], ["warmth", "light"])


def test_a_target_that_never_varies_divides_by_nothing() -> None:
    task = REGRESSION.fitted_to(np.full((4, 1), 7, np.float32))
    assert task.scale == (1.0,)
    assert task.scores(np.zeros((2, 1))).tolist() == [[7.0], [7.0]]


@pytest.mark.parametrize("value", [3.5, 28.1, 2000.05])
def test_the_interval_of_a_target_that_never_varies_holds_its_score(value: float) -> None:
    targets = np.full((20, 1), value, np.float32)
    scored = REGRESSION.scored(targets + np.linspace(-1, 1, 20)[:, None], targets)
    assert scored.score == 0
    assert scored.interval == (0, 0)


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_a_scaled_head_gives_the_targets_own_numbers(kind: str, pretrained: Any) -> None:
    from transformers import AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(pretrained(kind)).eval()
    task = Regression((1000.0, 0.5), (200.0, 0.1))
    inputs = {"pixel_values": torch.randn(2, 3, 32, 32)}
    with torch.no_grad():
        before = model(**inputs).logits.numpy()
        assert task.affine is not None
        scale_head(model, *task.affine, inputs)
        after = model(**inputs).logits.numpy()
    np.testing.assert_allclose(after, task.scores(before), rtol=1e-4)


def test_a_head_that_cannot_be_scaled_is_refused(pretrained: Any) -> None:
    from transformers import AutoModelForImageClassification

    model: Any = AutoModelForImageClassification.from_pretrained(pretrained("vit")).eval()
    model.classifier.register_forward_hook(lambda module, args, output: output.tanh())
    with pytest.raises(ModelError, match="not a linear layer"):
        scale_head(model, (2.0, 2.0), (1.0, 1.0), {"pixel_values": torch.randn(2, 3, 32, 32)})


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_probe_that_fits_the_task_learns(task: Task, outputs: int) -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(160, 6))
    drawn = features[:, :outputs] + 0.05 * random.normal(size=(160, outputs))
    targets: dict[str, Any] = {
        "single_label": (drawn[:, 0] > 0).astype(np.int64),
        "label_tree": (drawn[:, 0] > 0).astype(np.int64),
        "multi_label": (drawn > 0).astype(np.float32),
        "regression": (100 + 20 * drawn).astype(np.float32),
    }
    truth = targets[task.name]
    predict = fit_probe(features[:120], truth[:120], 0, task)
    found = task.compared(predict(features[120:]), truth[120:])
    known = task.compared(task.constant(truth[:120], 40), truth[120:])
    assert found[task.metric] > 0.85
    assert known[task.metric] < 0.75


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_probe_knows_a_single_label_that_all_images_have_or_none(share: float) -> None:
    features = np.random.default_rng(0).normal(size=(24, 5))
    probe = fit_with(features, np.full((24, 1), share, np.float32), 1.0, MULTI_LABEL)
    assert np.array_equal(probe(features[:2]), [[share], [share]])


def test_a_probe_can_be_sent_to_other_processes(task: Task) -> None:
    features = np.random.default_rng(0).normal(size=(24, 5))
    targets = task.encode(LABELS[task.name] * 6, _names(task))
    probe = fit_with(features, targets, 1.0, task)
    assert np.array_equal(pickle.loads(pickle.dumps(probe))(features), probe(features))  # noqa: S301  (its own)


def test_an_interval_that_says_nothing_is_not_told() -> None:
    assert Regression().reached(-0.494, 4, (-56977.817, 1.0)) == "R2 -0.494 on 4 images (too few for an interval)"
    assert Regression().reached(0.5, 90, (0.25, 0.75)) == "R2 0.500 on 90 images (95 % interval 0.250 to 0.750)"


def test_what_a_constant_target_is_missed_by_does_not_outweigh_the_others() -> None:
    row = {"a": "0.1", "predicted a": "0.1001", "b": "0"}
    rows = [{**row, "predicted b": "9"}, row | {"b": "1", "predicted b": "1"}, row | {"predicted b": "0"}]
    assert [told.wrong > 1 for told in REGRESSION.told_of(rows, ["a", "b"])] == [True, False, False]
