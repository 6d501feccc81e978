"""Baselines and the most confident mistakes: what stands beside a result so that it can be believed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from hfft.arguments import DataArguments
from hfft.cli import main
from hfft.data.load import load_image_sets
from hfft.metrics import probabilities
from hfft.report.mistakes import find_mistakes, write_mistakes
from hfft.training.baselines import fit_probe, pooled
from hfft.training.progress import Baselines

Folder = Callable[..., Path]


@pytest.fixture
def start(image_folder: Folder, pretrained: Folder, tmp_path: Path) -> Callable[..., Path]:
    """Return a runner of one-epoch jobs with a test split."""
    images, tests = image_folder(), image_folder("test", per_class=4, seed=5)

    def go(kind: str, name: str, *flags: str) -> Path:
        model = tmp_path / f"pretrained-{kind}"
        if not model.exists():
            pretrained(kind)
        given = ["--train_dir", str(images), "--test_dir", str(tests), "--model_name_or_path", str(model)]
        given += ["--output_dir", str(tmp_path / name), "--num_train_epochs", "1", "--disable_tqdm", "true"]
        given += ["--figures", "false"]
        assert main(["finetune", *given, *flags]) == 0
        return tmp_path / name

    return go


@pytest.mark.parametrize(
    "kind", ["resnet", "vit", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("swin", "timm"))]
)
def test_the_probe_and_the_commonest_class_stand_beside_the_result(
    start: Callable[..., Path], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = start(kind, "out", "--figures", "true")
    printed = capsys.readouterr().out
    record = json.loads((folder / "hfft.json").read_text())
    assert record["baselines"].keys() == {"majority", "linear_probe"}
    assert record["baselines"]["majority"]["accuracy"] == pytest.approx(1 / 3)
    # Three colours are told apart by the features of a network that was never trained.
    assert record["baselines"]["linear_probe"]["accuracy"] > 0.5
    assert 0 < record["seconds"]["baselines"] < record["seconds"]["total"]
    assert record["test_evaluations"] == 1
    card = (folder / "README.md").read_text()
    assert "linear probe" in card
    accuracy = record["metrics"]["test"]["values"]["accuracy"]
    for name, difference in record["differences"].items():
        assert difference["value"] == pytest.approx(accuracy - record["baselines"][name]["accuracy"])
        assert difference["low"] <= difference["value"] <= difference["high"]
    assert record["metrics"]["test"]["method"] == "Wilson"
    assert f"Test accuracy {accuracy:.3f} ({round(accuracy * 12)} of 12) (95% interval" in printed
    assert "against the linear probe (" in printed
    assert printed.index("Test accuracy") < printed.index("Validation accuracy")
    assert "optimistic" not in printed  # four validation images choose no epoch
    assert "mistakes.png" in card if record["mistakes"] else "mistakes.png" not in card


@pytest.mark.parametrize(("cache", "policy"), [("auto", "last_block"), ("off", "full")])
def test_baselines_change_nothing_in_the_result(start: Callable[..., Path], cache: str, policy: str) -> None:
    flags = ("--cache", cache, "--policy", policy)
    first = load_file(start("vit", "with", *flags) / "model.safetensors")
    second = load_file(start("vit", "without", *flags, "--baselines", "none") / "model.safetensors")
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_the_test_images_change_nothing_in_the_weights(start: Callable[..., Path], image_folder: Folder) -> None:
    """Held out means held out: other test images give the same bits."""
    others = image_folder("others", per_class=2, seed=9)
    first, second = start("resnet", "first"), start("resnet", "second", "--test_dir", str(others))
    records = [json.loads((folder / "hfft.json").read_text()) for folder in (first, second)]
    assert records[0]["files"] == records[1]["files"]
    assert records[0]["metrics"]["validation"] == records[1]["metrics"]["validation"]
    assert [record["metrics"]["test"]["images"] for record in records] == [12, 6]


def test_the_probe_is_the_same_with_and_without_the_cache(start: Callable[..., Path]) -> None:
    found = [
        json.loads((start("resnet", cache, "--cache", cache) / "hfft.json").read_text())["baselines"]
        for cache in ("memory", "off")
    ]
    assert found[0] == found[1]


def test_full_fine_tuning_is_there_where_it_is_asked_for(start: Callable[..., Path]) -> None:
    folder = start("resnet", "out", "--baselines", "full")
    record = json.loads((folder / "hfft.json").read_text())
    assert "full_fine-tuning" in record["baselines"]
    assert record["policy"] == "last_block"
    assert start("resnet", "none", "--baselines", "none").joinpath("hfft.json").exists()
    assert json.loads((folder.parent / "none" / "hfft.json").read_text())["baselines"] == {}


def test_the_probe_learns_and_takes_a_single_image_per_class() -> None:
    random = np.random.RandomState(0)
    labels = np.arange(60) % 3
    features = random.randn(60, 8)
    features[np.arange(60), labels] += 6
    assert (fit_probe(features[:30], labels[:30], 0)(features[30:]) == labels[30:]).mean() > 0.9
    assert fit_probe(features[:3], labels[:3], 0)(features[:3]).tolist() == [0, 1, 2]


@pytest.mark.parametrize("shape", [(2, 6), (2, 5, 6), (2, 6, 3, 4), (2, 3, 2, 1, 1)])
def test_features_are_pooled_to_one_row_per_image(shape: tuple[int, ...]) -> None:
    assert pooled(torch.zeros(shape)).shape == (2, 6)


def test_figures_are_those_of_the_split_that_is_asked_for() -> None:
    baselines = Baselines({"majority": {"validation": np.array([1, 1]), "test": np.array([0, 0])}})
    assert baselines.metrics("test", np.array([0, 1]))["majority"]["accuracy"] == 0.5
    assert baselines.metrics("validation", np.array([1, 1]))["majority"]["accuracy"] == 1.0


def test_mistakes_come_most_confident_first_and_are_drawn(image_folder: Folder, tmp_path: Path) -> None:
    images = load_image_sets(DataArguments(train_dir=str(image_folder(per_class=2))), 0).train
    logits = np.zeros((3, 3), np.float32)
    logits[0, images.labels[0]] = 5  # right
    logits[1, (images.labels[1] + 1) % 3] = 2  # wrong
    logits[2, (images.labels[2] + 1) % 3] = 4  # wrong and surer
    labels = ("blue", "green", "red")
    found = find_mistakes(images, labels, probabilities(logits, 1.0))
    assert [mistake.row for mistake in found] == [2, 1]
    assert found[0].probability == pytest.approx(np.exp(4) / (np.exp(4) + 2), abs=1e-5)
    assert found[0].file == images.files[2]
    sheet = tmp_path / "mistakes.png"
    (images.root or tmp_path).joinpath(found[1].file).unlink()  # gone since: still a sheet
    assert write_mistakes(sheet, images, labels, found)
    assert Image.open(sheet).size[0] > 500
    assert not write_mistakes(sheet, images, labels, [])
    assert not sheet.exists()


@pytest.mark.parametrize("kind", ["resnet", "vit", "timm"])
def test_the_probe_reads_the_same_features_with_and_without_a_cache(
    kind: str, pretrained: Callable[[str], Path], image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    model, images = pretrained(kind), image_folder()
    found = []
    for cache in ("memory", "off"):
        folder = tmp_path / cache
        flags = ["--model_name_or_path", model, "--train_dir", images, "--output_dir", folder, "--policy", "head"]
        flags += ["--cache", cache, "--num_train_epochs", "1", "--disable_tqdm", "true"]
        flags += ["--figures", "false"]
        assert main(["finetune", *(str(flag) for flag in flags)]) == 0
        found.append(json.loads((folder / "hfft.json").read_text())["baselines"])
    assert found[0] == found[1]
