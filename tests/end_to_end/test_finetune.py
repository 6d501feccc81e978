"""The main job on small models and images: exactness of the cache, frozen tensors, results, refusals."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from runs import Folder, losses, run
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from hfft.cli import main
from hfft.errors import HfftError
from hfft.inference.classifier import classify, load_classifier
from hfft.planning.registry import find_anatomy
from hfft.report.card import DEEP_GREY

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("policy", ["head", "last_block"])
@pytest.mark.parametrize("kind", ["resnet", "vit", "swin", "timm"])
def test_cached_and_uncached_runs_are_equal_to_the_last_bit(job: Callable[..., Path], kind: str, policy: str) -> None:
    flags = ("--policy", policy, "--augment", "crop", "--views", 2)
    cached = job(kind, "cached", "--cache", "disk", *flags)
    uncached = job(kind, "uncached", "--cache", "off", *flags)
    assert len(losses(cached)) == 6
    assert losses(cached) == losses(uncached)
    first, second = (load_file(folder / "model.safetensors") for folder in (cached, uncached))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert json.loads((cached / "hfft.json").read_text())["cache"]["mode"] == "disk"
    assert json.loads((uncached / "hfft.json").read_text())["cache"]["mode"] == "off"


def test_views_differ_between_epochs(job: Callable[..., Path]) -> None:
    one = job("resnet", "one", "--augment", "crop", "--views", 1, "--learning_rate", 1e-12, "--policy", "head")
    two = job("resnet", "two", "--augment", "crop", "--views", 2, "--learning_rate", 1e-12, "--policy", "head")
    assert losses(one)[:3] == losses(two)[:3]
    assert losses(one)[3:] != losses(two)[3:]


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_bfloat16_cache_stays_close(job: Callable[..., Path], kind: str) -> None:
    exact = job(kind, "exact", "--cache", "memory")
    narrow = job(kind, "narrow", "--cache", "memory", "--cache_dtype", "bfloat16")
    assert losses(exact) != losses(narrow)
    torch.testing.assert_close(torch.tensor(losses(narrow)), torch.tensor(losses(exact)), rtol=2e-2, atol=0)


@pytest.mark.parametrize("kind", ["resnet", "vit", "timm"])
@pytest.mark.parametrize("cache", ["auto", "off"])
def test_exactly_the_trainable_tensors_change(job: Callable[..., Path], tmp_path: Path, kind: str, cache: str) -> None:
    folder = job(kind, "out", "--cache", cache, "--keep", "last")
    before = AutoModelForImageClassification.from_pretrained(tmp_path / f"pretrained-{kind}").state_dict()
    model = AutoModelForImageClassification.from_pretrained(folder)
    after = model.state_dict()
    anatomy = find_anatomy(model)
    parts = {f"block {len(anatomy.blocks)}", "neck", "head"}
    expected = {name for name in model.state_dict() if anatomy.part_of(name) in parts}
    changed = {
        name for name in after if after[name].shape != before[name].shape or not torch.equal(after[name], before[name])
    }
    assert changed == expected


def test_two_runs_with_one_seed_are_identical(job: Callable[..., Path]) -> None:
    first, second = (load_file(job("vit", name) / "model.safetensors") for name in ("first", "second"))
    third = load_file(job("vit", "third", "--seed", 7) / "model.safetensors")
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert any(not torch.equal(tensor, third[name]) for name, tensor in first.items())


def test_a_second_run_fills_nothing_and_a_damaged_shard_is_said(
    job: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job("resnet", "first")
    assert "0 of 24 rows were there already" in capsys.readouterr().out
    second = job("resnet", "second")
    assert "24 of 24 rows were there already" in capsys.readouterr().out
    assert json.loads((second / "hfft.json").read_text())["cache"]["hits"] == 24
    shard = next((tmp_path / "activations").glob("*/*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-3])
    third = job("resnet", "third")
    assert f"Damaged shard computed again: {shard}" in capsys.readouterr().out
    assert losses(third) == losses(second)


RESULTS = {
    "model.safetensors",
    "config.json",
    "preprocessor_config.json",
    "hfft.json",
    "trace.csv",
    "predictions.csv",
    "curves.png",
    "confusion_matrix.png",
    "all_results.json",
    "train_results.json",
    "eval_results.json",
    "trainer_state.json",
    "README.md",
}


@pytest.mark.parametrize("kind", ["resnet", "timm"])
def test_results_are_complete_and_stock_transformers_reads_them(
    job: Callable[..., Path], image_folder: Folder, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    test_images = image_folder("test", per_class=3, seed=5)
    folder = job(kind, "out", "--test_dir", test_images, "--figures", "true")
    assert {file.name for file in folder.iterdir()} >= RESULTS
    printed = capsys.readouterr().out
    assert "Test accuracy" in printed
    assert "to the last bit" in printed
    model = AutoModelForImageClassification.from_pretrained(folder)
    assert model.config.id2label == {0: "blue", 1: "green", 2: "red"}
    processor = AutoImageProcessor.from_pretrained(folder)
    with (folder / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    for row in rows:
        image = Image.open(test_images.parent / "images" / row["file"]).convert("RGB")
        with torch.no_grad():
            logits = model(**processor(image, return_tensors="pt")).logits
        probabilities = (logits / model.config.calibration_temperature).softmax(-1)[0]
        assert model.config.id2label[int(probabilities.argmax())] == row["prediction"]
        assert abs(float(probabilities.max()) - float(row["probability"])) < 1e-4
    figures = json.loads((folder / "all_results.json").read_text())
    assert {"test_accuracy", "eval_accuracy", "eval_loss", "train_loss"} <= figures.keys()
    values = json.loads((folder / "hfft.json").read_text())["metrics"]["test"]["values"]
    for name in ("accuracy", "loss", "ece"):
        assert figures[f"test_{name}"] == values[name]
    with (folder / "trace.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2


@pytest.mark.processes
def test_a_pipeline_without_hfft_loads_the_result(job: Callable[..., Path], tmp_path: Path) -> None:
    folder = job("vit", "out")
    Image.new("RGB", (50, 40), "red").save(tmp_path / "red.png")
    program = (
        "import sys; sys.modules['hfft'] = None\n"
        "from transformers import pipeline\n"
        f"print(pipeline('image-classification', {str(folder)!r})({str(tmp_path / 'red.png')!r})[0]['label'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in {"blue", "green", "red"}


def test_keep_best_hands_back_the_best_epoch(job: Callable[..., Path]) -> None:
    folder = job("resnet", "out", "--num_train_epochs", 4, "--learning_rate", 0.3, "--keep", "best")
    with (folder / "trace.csv").open() as file:
        accuracies = [float(row["accuracy"]) for row in csv.DictReader(file)]
    record = json.loads((folder / "hfft.json").read_text())
    assert record["metrics"]["validation"]["values"]["accuracy"] == max(accuracies)
    assert accuracies[int(record["best_epoch"]) - 1] == max(accuracies)


def test_a_yaml_file_is_the_same_as_flags_and_flags_win(
    job: Callable[..., Path], image_folder: Folder, tmp_path: Path
) -> None:
    job("resnet", "flags")
    config = tmp_path / "config.yaml"
    config.write_text(
        f"model_name_or_path: {tmp_path / 'pretrained-resnet'}\ntrain_dir: {tmp_path / 'images'}\n"
        f"output_dir: {tmp_path / 'nowhere'}\nper_device_train_batch_size: 6\nnum_train_epochs: 2\n"
        "logging_strategy: steps\nlogging_steps: 1\ntrain_val_split: 0.25\ndisable_tqdm: true\nlearning_rate: 5e-4\n"
    )
    assert main(["finetune", str(config), "--output_dir", str(tmp_path / "yaml")]) == 0
    assert losses(tmp_path / "yaml") == losses(tmp_path / "flags")
    assert not (tmp_path / "nowhere").exists()


BAD_ARGUMENTS = [
    (["--polcy", "head"], "did you mean --policy"),
    (["--policy", "last"], "--policy"),
    (["--policy", "last_n:9"], "1 to 2"),
    (["--num_train_epochs", "many"], "num_train_epochs"),
    (["--num_train_epochs", "-1"], "--num_train_epochs"),
    (["--learning_rate", "0"], "--learning_rate"),
    (["--train_val_split", "1.5"], "--train_val_split"),
    (["--augment", "spin"], "augment"),
    (["--cache", "cloud"], "cache"),
    (["--dataset_name", "x", "--train_dir", "y"], "exclude each other"),
    (["--lr_scheduler_type", "zigzag"], "zigzag"),
    (["missing.yaml"], "missing.yaml"),
]


@pytest.mark.parametrize(("flags", "words"), BAD_ARGUMENTS, ids=[" ".join(flags) for flags, _ in BAD_ARGUMENTS])
def test_wrong_arguments_are_one_line_and_exit_code_2(
    pretrained: Folder,
    image_folder: Folder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    words: str,
) -> None:
    given = ["--model_name_or_path", pretrained("resnet"), "--output_dir", tmp_path / "out"]
    if "--dataset_name" not in flags:
        given += ["--train_dir", image_folder()]
    capsys.readouterr()
    assert run(*([*flags, *given] if flags[0].endswith(".yaml") else [*given, *flags])) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("hfft: error: ")
    assert "\n" not in error
    assert words in error
    assert not list((tmp_path / "out").glob("*"))


def _empty(folder: Path) -> list[Any]:
    (folder / "empty").mkdir()
    return ["--train_dir", folder / "empty"]


def _not_a_classifier(folder: Path) -> list[Any]:
    (folder / "bert").mkdir()
    (folder / "bert" / "config.json").write_text('{"model_type": "bert"}')
    return ["--model_name_or_path", folder / "bert"]


def _pickle_only(folder: Path) -> list[Any]:
    model = AutoModelForImageClassification.from_pretrained(folder / "pretrained-resnet")
    target = folder / "pickled"
    model.save_pretrained(target)
    AutoImageProcessor.from_pretrained(folder / "pretrained-resnet").save_pretrained(target)
    torch.save(model.state_dict(), target / "pytorch_model.bin")
    (target / "model.safetensors").unlink()
    return ["--model_name_or_path", target]


def test_a_pickle_is_read_where_that_is_asked_for(pretrained: Folder, image_folder: Folder, tmp_path: Path) -> None:
    pretrained("resnet")
    given = [*_pickle_only(tmp_path), "--train_dir", image_folder(), "--output_dir", tmp_path / "out"]
    assert run(*given, "--num_train_epochs", 1, "--allow_pickle", "true") == 0
    before = AutoModelForImageClassification.from_pretrained(tmp_path / "pretrained-resnet").state_dict()
    after = AutoModelForImageClassification.from_pretrained(tmp_path / "out").state_dict()
    name = "resnet.embedder.embedder.convolution.weight"
    assert torch.equal(before[name], after[name])


def _corrupt(folder: Path) -> list[Any]:
    weights = folder / "pretrained-resnet" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    return []


def _output_is_a_file(folder: Path) -> list[Any]:
    (folder / "file").write_text("mine")
    return ["--output_dir", folder / "file"]


def _output_holds_a_run(folder: Path) -> list[Any]:
    (folder / "taken").mkdir()
    (folder / "taken" / "hfft.json").write_text("{}")
    return ["--output_dir", folder / "taken"]


def _unreadable_image(folder: Path) -> list[Any]:
    (folder / "images" / "red" / "000.png").write_text("not an image")
    return []


BAD_INPUT: list[tuple[str, Callable[[Path], list[Any]], str]] = [
    ("missing folder", lambda folder: ["--train_dir", folder / "nowhere"], "nowhere"),
    ("empty folder", _empty, "empty"),
    ("unreadable model path", lambda folder: ["--model_name_or_path", folder / "no-model"], "no-model"),
    ("no classifier", _not_a_classifier, "bert"),
    ("pickle only", _pickle_only, "--allow_pickle"),
    ("corrupt weights", _corrupt, "pretrained-resnet"),
    ("output is a file", _output_is_a_file, "is a file"),
    ("output holds a run", _output_holds_a_run, "--overwrite_output_dir"),
    ("unreadable image", _unreadable_image, "red/000.png"),
    ("unknown plugin", lambda folder: ["--plugin", "nobody"], "nobody"),
    ("memory too small", lambda folder: ["--cache", "memory", "--cache_max_gb", "0.0000001"], "--cache_max_gb"),
]


@pytest.mark.parametrize(("make", "words"), [case[1:] for case in BAD_INPUT], ids=[case[0] for case in BAD_INPUT])
def test_bad_input_is_one_clear_line(
    pretrained: Folder,
    image_folder: Folder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    make: Callable[[Path], list[Any]],
    words: str,
) -> None:
    given = ["--model_name_or_path", pretrained("resnet"), "--train_dir", image_folder()]
    assert run(*given, "--output_dir", tmp_path / "out", *make(tmp_path)) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("hfft: error: ")
    assert words in error
    assert not (tmp_path / "out" / "hfft.json").exists()


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(HfftError):
        main(["finetune", "--debug", "--train_dir", str(tmp_path / "nowhere"), "--output_dir", str(tmp_path / "out")])


def test_overwrite_replaces_a_run(job: Callable[..., Path]) -> None:
    first = losses(job("resnet", "out"))
    second = losses(job("resnet", "out", "--overwrite_output_dir", "true", "--seed", 3))
    assert first != second


def test_the_card_says_what_stock_tools_make_of_deep_grey(
    pretrained: Folder, image_folder: Folder, tmp_path: Path
) -> None:
    """Three shades of 16 bits, all of them white for Pillow: hfft tells them apart, the stock pipeline does not."""
    images, random = tmp_path / "deep", np.random.default_rng(0)
    for label, shade in (("dark", 10_000), ("grey", 30_000), ("light", 50_000)):
        (images / label).mkdir(parents=True)
        for number in range(8):
            pixels = random.integers(shade, shade + 9000, (40, 36)).astype(np.uint16)
            pixels[0, 0] = 65535
            Image.fromarray(pixels).save(images / label / f"{number}.png")
    files = sorted(str(file) for file in images.glob("*/*.png"))
    model, trained = pretrained("resnet"), ("--policy", "full", "--learning_rate", 1e-2, "--num_train_epochs", 6)
    out, common = tmp_path / "out", ("--per_device_train_batch_size", 4, "--baselines", "none", "--figures", "false")
    assert run("--train_dir", images, "--model_name_or_path", model, "--output_dir", out, *trained, *common) == 0
    stock = [row[0]["label"] for row in pipeline("image-classification", model=str(out))(files)]
    ours = [each.label for each in classify(load_classifier(out), files)]
    truth = [Path(file).parent.name for file in files]
    assert sum(map(str.__eq__, ours, truth)) > 20
    assert len(set(stock)) == 1
    card = (out / "README.md").read_text()
    assert "100.0% of the training images are grey of more than 8 bits" in card
    assert DEEP_GREY in card
    plain = tmp_path / "plain"
    assert run("--train_dir", image_folder(), "--model_name_or_path", model, "--output_dir", plain, *common) == 0
    assert "of the training images are grey of more" not in (plain / "README.md").read_text()


def test_no_file_holds_a_token(job: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Record, card, checkpoints, trackers, cache: nothing of what a run leaves anywhere."""
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_environment")
    tokens = ("--token", "hf_of_the_model", "--hub_token", "hf_of_the_hub")
    job("resnet", "out", *tokens, "--report_to", "tensorboard", "--save_strategy", "epoch", "--policy", "lp_ft")
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {"hfft.json", "README.md", "tensors.safetensors"} <= {file.name for file in files}
    assert any(file.name.startswith("events.") for file in files)
    assert not [file for file in files if b"hf_of_the" in file.read_bytes()]
