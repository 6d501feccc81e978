"""What the head begins with: the linear probe as epoch 0, random numbers, or what the checkpoint brought."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from runs import Folder, Job, equal, losses, record, trace, weights
from torch import nn

from hfft.cli import main
from hfft.cli.train import finetune_settings
from hfft.data.preprocessing import PixelDataset, collate
from hfft.jobs.finetune import set_up
from hfft.training.baselines import HeadInputs, LinearProbe, fit_probe
from hfft.training.phases import make_ready, to_device
from hfft.training.progress import Progress
from hfft.training.recipe.head import begin_with_probe, fold


@pytest.mark.parametrize(
    "kind", ["resnet", "vit", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("swin", "timm"))]
)
def test_epoch_0_is_the_probe_and_a_candidate_for_the_best_weights(job: Job, kind: str) -> None:
    """With a rate at which nothing moves, all epochs are the probe."""
    folder = job(kind, "out", "--head_init", "probe", "--learning_rate", 1e-30)
    first, probe = trace(folder)[0], record(folder)["baselines"]["linear_probe"]["accuracy"]
    assert float(first["epoch"]) == 0
    assert float(first["accuracy"]) == pytest.approx(probe)
    assert first["observation"].startswith("Before training")
    assert record(folder)["metrics"]["validation"]["values"]["accuracy"] >= probe


def test_epoch_0_is_the_ensemble_the_same_one_each_time(job: Job) -> None:
    first = job("resnet", "first", "--policy", "head", "--head_init", "ensemble", "--learning_rate", 1e-30)
    again = job("resnet", "again", "--policy", "head", "--head_init", "ensemble", "--learning_rate", 1e-30)
    assert equal(weights(first), weights(again))
    assert float(trace(first)[0]["epoch"]) == 0
    probe = job("resnet", "probe", "--policy", "head", "--head_init", "probe", "--learning_rate", 1e-30)
    assert not equal(weights(first), weights(probe))


def test_a_training_that_ruins_the_head_hands_back_the_probe(job: Job) -> None:
    folder = job(
        "resnet",
        "out",
        "--head_init",
        "probe",
        "--policy",
        "head",
        "--learning_rate",
        10,
        "--lr_scheduler_type",
        "constant",
    )
    probe = record(folder)["baselines"]["linear_probe"]["accuracy"]
    assert min(float(row["accuracy"]) for row in trace(folder)) < probe
    assert record(folder)["metrics"]["validation"]["values"]["accuracy"] >= probe


@pytest.mark.parametrize("kind", ["resnet", pytest.param("vit", marks=pytest.mark.slow)])
def test_the_probe_gives_the_same_bits_with_and_without_a_cache_and_a_comparison(job: Job, kind: str) -> None:
    runs = [
        job(kind, "cached", "--head_init", "probe"),
        job(kind, "uncached", "--head_init", "probe", "--cache", "off"),
        job(kind, "alone", "--head_init", "probe", "--baselines", "none"),
    ]
    for other in runs[1:]:
        assert losses(other) == losses(runs[0])
        assert equal(weights(other), weights(runs[0]))
    assert trace(runs[2])[0]["epoch"] == "0"


def test_a_random_head_is_as_before_and_another_than_the_probe(job: Job) -> None:
    folder = job("resnet", "random")
    assert [float(row["epoch"]) for row in trace(folder)] == [1, 2]
    assert losses(folder) != losses(job("resnet", "probe", "--head_init", "probe"))


def test_the_checkpoints_own_head_is_kept(job: Job) -> None:
    first = job("resnet", "first")
    again = ("--model_name_or_path", first, "--learning_rate", 1e-30, "--head_init", "pretrained")
    kept = job("resnet", "kept", *again)
    assert torch.equal(weights(kept)["classifier.1.weight"], weights(first)["classifier.1.weight"])
    assert trace(kept)[0]["epoch"] == "0"


def test_a_head_that_is_not_there_cannot_be_kept(
    pretrained: Folder, image_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model_name_or_path", pretrained("vit"), "--train_dir", image_folder(), "--output_dir", tmp_path / "out"]
    assert main(["finetune", *(str(flag) for flag in flags), "--head_init", "pretrained"]) == 2
    assert "brings no head for these 3 classes" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["resnet", "vit", "convnext", "timm-convnext", "swin"])
@pytest.mark.parametrize("cache", ["memory", "off"])
def test_the_models_logits_are_those_of_the_probe(
    kind: str, cache: str, pretrained: Folder, image_folder: Folder, tmp_path: Path
) -> None:
    """Also where a norm and dropout stand before the linear layer of the head."""
    flags = ["--model_name_or_path", pretrained(kind), "--train_dir", image_folder(), "--output_dir", tmp_path / "out"]
    flags += ["--cache", cache, "--baselines", "none", "--head_init", "probe"]
    setup, progress = set_up(finetune_settings([str(flag) for flag in flags])), Progress()
    to_device(setup)
    prepared = make_ready(setup, setup.plan.phases, lambda line: None)[0].prepared
    begin_with_probe(setup, progress, prepared, lambda line: None)
    assert progress.probe is not None
    reader = HeadInputs(setup, prepared.suffix)
    for split in ("train", "validation"):
        wanted = reader.features(prepared.datasets[split], split) @ progress.probe.weight.T + progress.probe.bias
        pixels = PixelDataset(getattr(setup.sets, split), setup.plain_pixels)
        batch = collate([pixels[row] for row in range(len(pixels))])
        with torch.no_grad():
            found = setup.model.eval()(pixel_values=batch["pixel_values"]).logits
        torch.testing.assert_close(found.double(), torch.from_numpy(wanted), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_folded_probe_computes_what_the_probe_computes(classes: int) -> None:
    """Also with features that hardly vary, that do not vary, and of very different scales."""
    random = np.random.RandomState(0)
    labels = np.arange(90) % classes
    features = random.randn(90, 8)
    features[np.arange(90), labels] += 3
    features = (features * np.logspace(-3, 3, 8) + 5).astype(np.float32).astype(np.float64)
    features[:, 6] = 7.0
    features[:, 7] = 1 + 1e-7 * random.randn(90)
    probe = fit_probe(features, labels, 0)
    assert isinstance(probe, LinearProbe)
    linear = nn.Linear(8, classes)
    fold(probe, linear)
    logits = linear(torch.from_numpy(features).float()).detach().numpy()
    assert np.allclose(logits, features @ probe.weight.T + probe.bias, atol=1e-3)
    assert (logits.argmax(1) == probe(features)).all()
    assert (probe(features) == labels).mean() > 0.9
