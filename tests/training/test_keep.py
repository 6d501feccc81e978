"""Which weights are handed back: no epoch is chosen by images that are too few to choose by."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from finished import make_images, make_model
from runs import equal, record, run, weights

from hfft.training import callbacks, setup


def test_a_metric_that_is_undefined_is_never_the_best() -> None:
    args = SimpleNamespace(metric_for_best_model=None, greater_is_better=None)
    undefined, found = (callbacks.deciding(args, {"eval_r2": value}, "r2") for value in (float("nan"), -3.0))
    assert undefined < found


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a runner of small jobs whose first epoch is the best on validation."""
    evaluations = itertools.count()
    monkeypatch.setattr(callbacks, "deciding", lambda args, metrics, metric: -next(evaluations))
    images, base = make_images(tmp_path / "images"), make_model(tmp_path / "base", kind="resnet")

    def go(name: str, *flags: Any) -> Path:
        given: tuple[Any, ...] = ("--model_name_or_path", base, "--train_dir", images, "--validation_dir", images)
        given += ("--num_train_epochs", 2, "--per_device_train_batch_size", 6)
        given += ("--output_dir", tmp_path / name, "--figures", "false", "--baselines", "none", "--use_cpu", "true")
        assert run(*given, *flags) == 0
        return tmp_path / name

    return go


@pytest.mark.parametrize("policy", ["head", "lp_ft"])
def test_few_validation_images_choose_no_epoch(start: Any, policy: str) -> None:
    auto, last = start("auto", "--policy", policy), start("last", "--policy", policy, "--keep", "last")
    assert equal(weights(auto), weights(last))
    for folder, decisions in ((auto, 1), (last, 0)):
        assert record(folder)["best_epoch"] is None
        assert len(record(folder)["decisions"]) == decisions
        assert "| 2 (last) |" in (folder / "README.md").read_text()
    assert record(auto)["decisions"][0].startswith("Keep auto: the last weights, since 18 validation images")
    best = start("best", "--policy", policy, "--keep", "best")
    assert record(best)["best_epoch"] == 1
    assert not equal(weights(best), weights(auto))


@pytest.mark.parametrize(
    "flags",
    [
        ("--metric_for_best_model", "accuracy"),
        ("--early_stopping_patience", 2),
        ("--head_init", "probe"),
        ("--load_best_model_at_end", "true"),
    ],
    ids=lambda flags: flags[0],
)
def test_whoever_asks_for_the_best_gets_it(start: Any, flags: tuple[Any, ...]) -> None:
    found = [start(name, *flags, *more) for name, more in (("auto", ()), ("best", ("--keep", "best")))]
    assert equal(*map(weights, found))
    assert record(found[0])["best_epoch"] == record(found[1])["best_epoch"] in (0, 1)
    assert record(found[0])["decisions"] == []


def test_enough_validation_images_choose(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "ENOUGH", 18)
    auto, best = start("auto"), start("best", "--keep", "best")
    assert equal(weights(auto), weights(best))
    assert record(auto)["best_epoch"] == record(best)["best_epoch"] == 1
