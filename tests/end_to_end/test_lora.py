"""Low-rank adapters from a flag to a stock checkpoint, and back from PEFT's own files."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MODELS, processor_of
from finished import make_images
from huggingface_hub import ModelCard
from killed import KillAt, Killed
from peft import PeftModel
from runs import equal, losses, record, run, weights
from safetensors.torch import load_file
from tagged import TAGS, make_tagged
from transformers import AutoModelForImageClassification

import hfft
from hfft.cli import main
from hfft.cli.train import finetune_settings
from hfft.errors import ArgumentError, ModelError
from hfft.hub.push import Target, collect
from hfft.jobs.finetune import finetune
from hfft.models.delta import read_delta
from hfft.parsing import split_values
from hfft.report.record import read_record

POLICIES = {"vit": "lora:last_n=1,r=4,dropout=0.1", "swin": "lora:dora=true"}


class World:
    """Images, small models, and a finished run on each."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.images = folder, make_images(folder / "images")
        for kind in POLICIES:
            torch.manual_seed(0)
            model = MODELS[kind]()
            model.save_pretrained(folder / kind)
            processor_of(model).save_pretrained(folder / kind)

    def words(self, kind: str, name: str, *flags: Any) -> list[str]:
        data = ("--train_dir", self.images, "--validation_dir", self.images, "--output_dir", self.folder / name)
        small: tuple[Any, ...] = ("--num_train_epochs", 2, "--per_device_train_batch_size", 6)
        small += ("--cache_dir", self.folder / "cache")
        small += ("--learning_rate", 3e-2, "--logging_strategy", "steps", "--logging_steps", 1, "--baselines", "none")
        given = ("--model_name_or_path", self.folder / kind, "--policy", POLICIES[kind], *data, *small, *flags)
        return [str(word) for word in given]

    def run(self, kind: str, name: str, *flags: Any) -> Path:
        assert run(*self.words(kind, name, *flags)) == 0
        return self.folder / name


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("lora"))


@pytest.fixture(scope="module", params=sorted(POLICIES))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def finished(world: World, kind: str) -> Path:
    return world.run(kind, f"{kind}-cached", "--cache", "disk")


def _base(world: World, kind: str) -> Any:
    base = AutoModelForImageClassification.from_pretrained(
        world.folder / kind, num_labels=3, ignore_mismatched_sizes=True
    )
    return base.eval()


@torch.no_grad()
def _logits(model: Any) -> torch.Tensor:
    torch.manual_seed(1)
    found: torch.Tensor = model(pixel_values=torch.randn(4, 3, 32, 32)).logits
    return found


def test_cached_and_uncached_are_equal(world: World, kind: str, finished: Path) -> None:
    other = world.run(kind, f"{kind}-uncached", "--cache", "off")
    assert losses(finished) == losses(other)
    assert equal(weights(finished), weights(other))
    assert (record(finished)["cache"]["mode"], record(other)["cache"]["mode"]) == ("disk", "off")


def test_what_is_frozen_stays_so(world: World, kind: str, finished: Path) -> None:
    frozen = record(finished)["frozen"]
    assert frozen["tensors"]
    assert frozen["sha256_before"] == frozen["sha256_after"]
    base = _base(world, kind).state_dict()
    after = AutoModelForImageClassification.from_pretrained(finished).state_dict()  # files have other names
    changed = {
        name for name in after if base[name].shape != after[name].shape or not torch.equal(base[name], after[name])
    }
    ends = tuple(f"{end}.weight" for end in ("q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"))
    within = "vit.layers.2." if kind == "vit" else "swin.encoder.layers."
    assert changed == {"classifier.weight", "classifier.bias"} | {
        name for name in after if name.startswith(within) and name.endswith(ends)
    }
    assert read_delta(finished / "delta.safetensors")[0].tensors.keys() == changed


def test_the_checkpoint_is_stock_and_peft_loads_the_adapters(world: World, kind: str, finished: Path) -> None:
    stock, report = AutoModelForImageClassification.from_pretrained(finished, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    adapted = PeftModel.from_pretrained(_base(world, kind), finished / "adapter").eval()
    assert not torch.allclose(_logits(stock.eval()), _logits(_base(world, kind)), atol=1e-2)
    torch.testing.assert_close(_logits(adapted), _logits(stock), rtol=1e-5, atol=1e-5)


def test_merge_folds_adapters_in(world: World, kind: str, finished: Path, tmp_path: Path) -> None:
    """From the adapters alone comes the checkpoint that the run wrote."""
    alone = tmp_path / "alone"
    shutil.copytree(finished / "adapter", alone / "adapter")
    for name in ("config.json", "preprocessor_config.json", "hfft.json"):
        shutil.copy(finished / name, alone)
    assert main(["merge", str(alone), "--output_dir", str(tmp_path / "merged")]) == 0
    merged = AutoModelForImageClassification.from_pretrained(tmp_path / "merged").eval()
    stock = AutoModelForImageClassification.from_pretrained(finished).eval()
    assert merged.state_dict().keys() == stock.state_dict().keys()
    torch.testing.assert_close(_logits(merged), _logits(stock), rtol=1e-5, atol=1e-5)
    assert merged.config.id2label == stock.config.id2label
    torch.testing.assert_close(_logits(hfft.load(alone)[0]), _logits(stock), rtol=1e-5, atol=1e-5)
    torch.manual_seed(5)
    MODELS[kind]().save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match="is not the base model that"):
        hfft.load(alone, base=str(tmp_path / "other"))


def test_merge_of_a_run_gives_its_checkpoint_to_the_bit(finished: Path, tmp_path: Path) -> None:
    assert main(["merge", str(finished), "--output_dir", str(tmp_path / "merged")]) == 0
    assert equal(weights(tmp_path / "merged"), weights(finished))


def test_interrupted_and_resumed_is_the_same_to_the_bit(world: World, kind: str, finished: Path) -> None:
    quick = ("--disable_tqdm", "true", "--figures", "false", "--calibration_folds", "0")
    words = world.words(kind, f"{kind}-resumed", *quick, "--save_strategy", "steps", "--save_steps", 1)
    with pytest.raises(Killed):
        finetune(finetune_settings(words), say=lambda line: None, callbacks=(KillAt(4),))
    assert main(["finetune", *words, "--resume_from_checkpoint", "true"]) == 0
    output = world.folder / f"{kind}-resumed"
    assert equal(weights(output), weights(finished))
    adapters = [load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (output, finished)]
    assert equal(*adapters)


@pytest.mark.parametrize("task", ["label_tree", "multi_label", "regression"])
def test_other_tasks(world: World, task: str, tmp_path: Path) -> None:
    """The head that lies beside the adapters is the one that was scaled to the targets' units, where there are any."""
    table = make_tagged(tmp_path / "images", count=16)
    flags = {
        "label_tree": ("--label_column_name", "warmer", "--label_tree", "true"),
        "multi_label": ("--label_columns", *TAGS),
        "regression": ("--label_columns", "warmth", "light"),
    }[task]
    if task == "label_tree":
        head, *rows = table.read_text().splitlines()
        named = [f"{row},{'warm/red' if 'red' in row else 'cold'}" for row in rows]
        table.write_text("\n".join([f"{head},warmer", *named]))
    common = ("--model_name_or_path", world.folder / "vit", "--dataset_name", table, "--policy", "lora:last_n=1,r=2")
    small = ("--num_train_epochs", 2, "--per_device_train_batch_size", 4, "--baselines", "none")
    runs = [tmp_path / mode for mode in ("disk", "off")]
    for output in runs:
        assert run(*common, *small, *flags, "--output_dir", output, "--cache", output.name) == 0
    assert equal(*(weights(output) for output in runs))
    stock = AutoModelForImageClassification.from_pretrained(runs[0]).eval()
    base = AutoModelForImageClassification.from_pretrained(
        world.folder / "vit", num_labels=stock.config.num_labels, ignore_mismatched_sizes=True
    )
    adapted = PeftModel.from_pretrained(base, runs[0] / "adapter").eval()
    assert record(runs[0])["task"] == task
    torch.testing.assert_close(_logits(adapted), _logits(stock), rtol=1e-4, atol=1e-5)


def test_predict_evaluate_and_card_follow(world: World, finished: Path, tmp_path: Path) -> None:
    found = hfft.evaluate(model=str(finished), validation_dir=str(world.images), output_dir=str(tmp_path / "test"))
    assert found.metrics.values["accuracy"] == pytest.approx(
        record(finished)["metrics"]["validation"]["values"]["accuracy"]
    )
    text = ModelCard.load(finished / "README.md").text
    assert "## Adapters" in text
    assert "frozen tensors stayed as they were; the adapters' product is added to some" in text
    assert "bit-identical" not in text
    assert "PeftModel.from_pretrained(base, " in text
    assert hfft.load_classifier(str(finished)).labels == ("blue", "green", "red")


def test_another_run_in_the_same_folder_removes_the_adapters(world: World, kind: str, finished: Path) -> None:
    config = json.loads((finished / "adapter" / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(config["target_modules"])
    output = world.folder / f"{kind}-again"
    shutil.copytree(finished, output)
    flags = ("--overwrite_output_dir", "true", "--policy", "head", "--num_train_epochs", 1)
    world.run(kind, output.name, *flags)
    assert not (output / "adapter").exists()


def test_pushed_with_the_adapters(finished: Path) -> None:
    adapters = {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"}
    whole, small = (collect(finished, Target("a/b", delta_only=only)) for only in (False, True))
    assert {"model.safetensors", "delta.safetensors", *adapters} <= whole.keys()
    assert adapters <= small.keys()
    assert not {"model.safetensors", "delta.safetensors"} & small.keys()
    place = str(Path(read_record(finished / "hfft.json").base.id).parent)
    contents = [value if isinstance(value, bytes) else value.read_bytes() for value in small.values()]
    assert not [text for text in contents if place.encode() in text]


def test_without_peft_it_is_refused_before_images_are_read(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("hfft.models.adapters.find_spec", lambda name: None if name == "peft" else found(name))
    words = world.words("vit", "refused", "--train_dir", world.folder / "nowhere")
    assert main(["finetune", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert error == 'hfft: error: --policy lora needs peft: pip install "hfft[lora]"'


def test_plan_says_what_can_be_cached(world: World) -> None:
    whole = hfft.plan(model_name_or_path=str(world.folder / "vit"), policy="lora")
    last = hfft.plan(model_name_or_path=str(world.folder / "vit"), policy="lora:last_n=1")
    assert "the stem alone, which is all before vit.layers.0, is the frozen prefix" in str(whole)
    assert "everything before vit.layers.2 is the frozen prefix" in str(last)


def test_several_policies_on_one_model_are_for_sweep(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ArgumentError, match="compare it with hfft sweep"):
        hfft.advise(train_dir=str(world.images), policies="head,lora:last_n=1,r=4")
    assert split_values("head,lora:last_n=1,r=4,lora:r=2") == ["head", "lora:last_n=1,r=4", "lora:r=2"]
