"""The temperature where no validation set is given: fitted to images that models without them speak of."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from finished import make_images, make_model
from torch.utils.data import Dataset
from transformers import TrainerControl

from hfft.arguments import DataArguments, FinetuneArguments, ModelArguments, PolicyArguments
from hfft.errors import ArgumentError
from hfft.jobs.advice.crossed import CrossPlan, _EndAt
from hfft.jobs.advice.folds import Folds
from hfft.jobs.finetune import finetune, set_up
from hfft.jobs.run import Run
from hfft.output_folder import KNOWN
from hfft.report.record import CROSSED, RunRecord, read_record
from hfft.training.phases import train_phases
from hfft.training.progress import Progress
from hfft.training.setup import Settings
from hfft.trust.calibration import fit_temperature, temperature_of
from hfft.trust.known import read_known


@dataclass(frozen=True)
class Ended:
    """A run, what it said, and its record."""

    run: Run
    said: str
    record: RunRecord


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images") / "images", count=8)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base") / "base")


def settings_of(base: Path, images: Path, output: Path, policy: str = "last_block", **training: Any) -> Settings:
    options: dict[str, Any] = {"num_train_epochs": 2.0, "use_cpu": True, "disable_tqdm": True, "report_to": "none"}
    options |= {
        "per_device_train_batch_size": 4,
        "learning_rate": 0.01,
        "baselines": "none",
        "figures": False,
        "keep": "best",
    }
    settings = Settings(
        ModelArguments(model_name_or_path=str(base)),
        DataArguments(train_dir=str(images)),
        PolicyArguments(policy=policy),
        training=FinetuneArguments(output_dir=str(output), **(options | training)),
    )
    settings.cache.cache = "memory"
    return settings


def ended(settings: Settings) -> Ended:
    said: list[str] = []
    run = finetune(settings, said.append)
    return Ended(run, "\n".join(said), read_record(run.folder / "hfft.json"))


@pytest.fixture(scope="module")
def crossed(base: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    return ended(settings_of(base, images, tmp_path_factory.mktemp("crossed") / "out", calibration_folds=3))


@pytest.fixture(scope="module")
def plain(base: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    return ended(settings_of(base, images, tmp_path_factory.mktemp("plain") / "out", calibration_folds=0))


def test_it_is_fitted_to_all_images_that_were_not_seen(crossed: Ended) -> None:
    run, found = crossed.run, crossed.run.trust.crossed
    assert found.folds == 3
    assert sorted(found.labels) == sorted(run.sets.train.labels)
    validation = run.predictions["validation"]
    logits = np.concatenate([validation.predictions, found.logits])
    labels = np.concatenate([validation.label_ids, found.labels])
    assert temperature_of(run.model.config) == fit_temperature(logits, labels)
    calibration = crossed.record.calibration
    assert (calibration.folds, calibration.images) == (3, len(labels))
    assert calibration.after is not None
    assert "one of 3 trained without them, had not seen: expected calibration error" in crossed.said


def test_sets_of_labels_count_all_images_that_were_not_seen(crossed: Ended, plain: Ended) -> None:
    every, few = (read_known(ended.run.folder / KNOWN, 3).truth for ended in (crossed, plain))
    fewest = 19  # before a set of 95 % leaves any label out
    assert len(every) == 24 >= fewest > len(few) == len(plain.run.sets.validation)


def test_the_models_of_the_folds_are_others_than_the_result(crossed: Ended) -> None:
    run = crossed.run
    from hfft.data.preprocessing import collate

    run.model.eval()
    pixels = [run.setup.plain_pixels(run.sets.train.image(row)) for row in range(len(run.sets.train))]
    logits = run.model(**collate(pixels)).logits.detach().numpy()
    differences = np.abs(logits - run.trust.crossed.logits).max(axis=1)
    assert (differences > 1e-4).all()


def test_the_weights_are_those_of_a_run_without_it(crossed: Ended, plain: Ended) -> None:
    assert plain.run.trust.crossed.folds == 0
    assert plain.record.calibration.images == len(plain.run.sets.validation)
    assert (crossed.run.folder / "model.safetensors").read_bytes() == (
        plain.run.folder / "model.safetensors"
    ).read_bytes()
    assert crossed.record.identity == plain.record.identity


def test_what_nothing_was_chosen_on_comes_first(crossed: Ended, plain: Ended) -> None:
    (first, metrics), (second, _) = crossed.record.leading_metrics()
    assert (first, second) == (CROSSED, "validation")
    right = crossed.run.trust.crossed.logits.argmax(1) == crossed.run.trust.crossed.labels
    assert metrics.values["accuracy"] == pytest.approx(right.mean())
    lines = crossed.said.splitlines()
    places = [
        next(n for n, line in enumerate(lines) if line.startswith(f"{name} accuracy"))
        for name in ("Cross-validation", "Validation")
    ]
    assert places[0] < places[1]
    assert "optimistic" not in lines[places[0]]
    assert "optimistic" in lines[places[1]]
    card = (crossed.run.folder / "README.md").read_text()
    assert card.index("| cross-validation |") < card.index("| validation (optimistic) |")
    assert "name: Accuracy (optimistic)" in card
    assert "cross-validation" not in card.partition("---\n\n")[0]  # what the Hub lists are splits
    assert CROSSED not in plain.record.metrics


@pytest.mark.parametrize(
    ("policy", "start"), [("last_block", "random"), ("last_block", "probe"), ("lp_ft", "random"), ("gradual", "random")]
)
def test_a_fold_is_the_training_on_the_other_images(
    policy: str, start: str, base: Path, images: Path, tmp_path: Path
) -> None:
    settings = settings_of(base, images, tmp_path / "out", policy, keep="last", calibration_folds=2)
    settings.policy.head_init = start
    found = ended(settings)
    crossed, train = found.run.trust.crossed, found.run.sets.train
    assert crossed.folds == 2, found.said
    for number, (rows, held_out) in enumerate(Folds.of(train, 2, settings.training.seed)):
        setup = set_up(settings)
        sets = replace(setup.sets, train=train.select(rows.tolist()), validation=train.select(held_out.tolist()))
        trainer = train_phases(replace(setup, sets=sets), Progress(), lambda line: None)
        assert isinstance(trainer.eval_dataset, Dataset)
        alone = trainer.predict(trainer.eval_dataset).predictions
        np.testing.assert_allclose(crossed.logits[crossed.number == number], alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"policy": "lp_ft", "keep": "best"}, "each phase begins with the best weights of the one before"),
        ({"policy": "lp_ft", "keep": "last", "find_lr": True}, "each phase finds its own learning rate"),
        ({"ema_decay": 0.9}, "the weights are averages over steps"),
    ],
)
def test_where_it_cannot_be_done_it_says_so(
    change: dict[str, Any], reason: str, base: Path, images: Path, tmp_path: Path
) -> None:
    assert CrossPlan.of(set_up(settings_of(base, images, tmp_path, **change))).missing == reason


def test_without_a_cache_it_says_so(base: Path, images: Path, tmp_path: Path) -> None:
    settings = settings_of(base, images, tmp_path / "out", num_train_epochs=1.0)
    settings.cache.cache = "off"
    found = ended(settings)
    assert "The temperature is not cross-fitted: activations are not cached" in found.said
    assert found.record.calibration.folds == 0


def test_a_validation_set_that_is_given_is_enough(base: Path, images: Path, tmp_path: Path) -> None:
    settings = settings_of(base, images, tmp_path)
    settings.data.validation_dir = str(images)
    assert CrossPlan.of(set_up(settings)) == CrossPlan()


def test_the_trainings_end_with_the_epoch_that_is_kept() -> None:
    control = TrainerControl()
    for epoch in (0.5, 1.0, 1.5):
        _EndAt(2.0).on_step_end(None, SimpleNamespace(epoch=epoch), control)
    assert not control.should_training_stop
    _EndAt(2.0).on_step_end(None, SimpleNamespace(epoch=2 / 3 * 3), control)
    assert control.should_training_stop


def test_images_that_are_alone_in_their_class_count_as_wrong(base: Path, images: Path, tmp_path: Path) -> None:
    rare = tmp_path / "images"
    shutil.copytree(images, rare)
    for file in sorted((rare / "red").iterdir())[2:]:  # one to train on, one to validate with
        file.unlink()
    found = ended(settings_of(base, rare, tmp_path / "out"))
    crossed, train = found.run.trust.crossed, found.run.sets.train
    red = train.labels == found.run.sets.labels.index("red")
    assert red.sum() == 1
    assert (crossed.known == ~red).all()
    assert (crossed.labels == train.labels).all()
    figures = found.record.metrics[CROSSED]
    assert figures.values["accuracy"] == pytest.approx((crossed.logits.argmax(1) == train.labels).mean())
    assert figures.images == len(train)
    assert "Training images without another of their class outside their fold: 1, whose answers" in found.said
    assert found.record.calibration.images == len(train) - 1 + len(found.run.sets.validation)


def test_where_every_image_is_alone_nothing_is_trained_without_it(base: Path, images: Path, tmp_path: Path) -> None:
    few = tmp_path / "images"
    for number, file in enumerate(sorted(images.rglob("*.png"))[:8]):
        (few / str(number % 4)).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, few / str(number % 4) / file.name)
    assert CrossPlan.of(set_up(settings_of(base, few, tmp_path / "out"))).missing == "no class has two training images"


def test_one_fold_is_none() -> None:
    with pytest.raises(ArgumentError, match="--calibration_folds must be 0 or at least 2, not 1"):
        FinetuneArguments(output_dir="x", use_cpu=True, calibration_folds=1)
