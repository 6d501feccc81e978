"""The delta: exactly what changed, the same bits once applied, and a named reason whenever it does not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import CLASSES
from finished import make_images, make_model, run_finetune
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForImageClassification

from hfft.cli import main
from hfft.demo import EMBEDDED_MODEL, embedded_model
from hfft.errors import HfftError, ModelError
from hfft.inference.classifier import classify, load_classifier
from hfft.models.checkpoint import load, merge, save_checkpoint
from hfft.models.delta import Pretrained, write_delta
from hfft.report.record import read_record
from hfft.tasks.multi_label import MULTI_LABEL
from hfft.tasks.registry import task_of

DELTA_FILES = (
    *("delta.safetensors", "config.json", "preprocessor_config.json", "hfft.json", "README.md"),
    "known_images.safetensors",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base model, images and one finished run."""
    folder = tmp_path_factory.mktemp("delta")
    make_images(folder / "images", CLASSES)
    make_model(folder / "base", ("one", "two"), seed=1)
    make_model(folder / "other", ("one", "two"), seed=2)
    run_finetune(folder / "base", folder / "images", folder / "output")
    return folder


def delta_alone(output: Path, folder: Path) -> Path:
    folder.mkdir()
    for name in DELTA_FILES:
        shutil.copyfile(output / name, folder / name)
    return folder


@pytest.fixture
def delta(place: Path, tmp_path: Path) -> Path:
    return delta_alone(place / "output", tmp_path / "delta")


def info_of(path: Path) -> dict[str, object]:
    with safe_open(path, framework="pt") as file:
        info: dict[str, object] = json.loads(file.metadata()["hfft_delta"])
    return info


def test_holds_what_changed_and_the_head(place: Path) -> None:
    before, after = (load(place / name)[0].state_dict() for name in ("base", "output"))
    found = load_file(place / "output" / "delta.safetensors")
    head = {"classifier.weight", "classifier.bias"}
    assert found.keys() == head | {name for name in after if not torch.equal(before[name], after[name])}
    assert all(torch.equal(found[name], after[name]) for name in found)
    assert len(found) > 10
    assert all(name.startswith(("vit.layers.2.", "vit.layernorm.")) or name in head for name in found)
    info, record = info_of(place / "output" / "delta.safetensors"), read_record(place / "output" / "hfft.json")
    assert (info["base_id"], info["base_sha256"]) == (str(place / "base"), record.base.sha256)
    assert set(info["fresh"]) == head  # type: ignore[call-overload]


@pytest.mark.parametrize("policy", ["head", "last_n:2", "full"])
def test_merged_bytes_for_each_policy(place: Path, tmp_path: Path, policy: str) -> None:
    run_finetune(place / "base", place / "images", tmp_path / "output", policy)
    delta_alone(tmp_path / "output", tmp_path / "delta")
    merge(tmp_path / "delta", tmp_path / "merged")
    for file in (tmp_path / "merged").iterdir():
        assert file.read_bytes() == (tmp_path / "output" / file.name).read_bytes(), file.name
    assert AutoModelForImageClassification.from_pretrained(tmp_path / "merged").num_labels == 3


def test_batch_norm_buffers_travel(pretrained: Callable[[str], Path], place: Path, tmp_path: Path) -> None:
    base = pretrained("timm")
    run_finetune(base, place / "images", tmp_path / "output")
    found = load_file(tmp_path / "output" / "delta.safetensors")
    assert any(name.endswith("running_mean") for name in found)
    assert any(name.endswith("num_batches_tracked") for name in found)
    merge(delta_alone(tmp_path / "output", tmp_path / "delta"), tmp_path / "merged")
    merged, original = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("merged", "output"))
    assert merged == original


def test_the_same_run_writes_the_same_bytes(place: Path, tmp_path: Path) -> None:
    run_finetune(place / "base", place / "images", tmp_path / "again")
    again = (tmp_path / "again" / "delta.safetensors").read_bytes()
    assert again == (place / "output" / "delta.safetensors").read_bytes()


def test_load_gives_the_same_bits(place: Path, delta: Path) -> None:
    whole, _ = load(place / "output")
    model, processor = load(delta)
    assert not model.training
    assert type(processor).__name__.startswith("ViTImageProcessor")
    expected = whole.state_dict()
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_predict_takes_a_delta(place: Path, delta: Path) -> None:
    files = sorted((place / "images" / "red").iterdir())
    whole, from_delta = (list(classify(load_classifier(folder), files)) for folder in (place / "output", delta))
    assert whole == from_delta


def test_merge_into_its_own_folder(place: Path, delta: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", str(delta), "--output_dir", str(delta)]) == 0
    assert (delta / "model.safetensors").read_bytes() == (place / "output" / "model.safetensors").read_bytes()
    assert main(["merge", str(delta), "--output_dir", str(delta)]) == 1
    assert "holds a checkpoint already" in capsys.readouterr().err


def test_base_may_have_moved(place: Path, delta: Path, tmp_path: Path) -> None:
    rewrite(delta, info={"base_id": str(tmp_path / "gone")})
    with pytest.raises(ModelError, match=r"gone.*--base"):
        load(delta)
    model, _ = load(delta, base=str(place / "base"))
    assert model.num_labels == 3


def rewrite(
    folder: Path,
    change: Callable[[dict[str, Tensor]], object] = lambda tensors: None,
    info: dict[str, object] | None = None,
) -> None:
    """Write the delta again with other tensors or metadata, hashes of the tensors made to fit."""
    path = folder / "delta.safetensors"
    tensors, metadata = load_file(path), info_of(path)
    change(tensors)
    metadata["tensors"] = Pretrained.of(tensors).tensors
    save_file(tensors, path, {"hfft_delta": json.dumps(metadata | (info or {}))})


def drop(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.pop("classifier.bias"))


def reshape(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({"classifier.bias": torch.zeros(4)}))


def retype(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({"classifier.bias": torch.zeros(3, dtype=torch.float16)}))


def add(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({"nothing.weight": torch.zeros(4)}))


def lose(folder: Path) -> None:
    path = folder / "delta.safetensors"
    tensors, info = load_file(path), info_of(path)
    tensors.pop("classifier.weight")
    save_file(tensors, path, {"hfft_delta": json.dumps(info)})


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "delta.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "delta.safetensors").write_bytes(content)


def truncate(folder: Path) -> None:
    content = (folder / "delta.safetensors").read_bytes()
    (folder / "delta.safetensors").write_bytes(content[: len(content) // 2])


def no_metadata(folder: Path) -> None:
    save_file(load_file(folder / "delta.safetensors"), folder / "delta.safetensors")


def newer_format(folder: Path) -> None:
    rewrite(folder, info={"format": 2})


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def no_delta(folder: Path) -> None:
    (folder / "delta.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop, r"lacks the tensor 'classifier\.bias', which the base does not give"),
        (reshape, r"the tensor 'classifier\.bias' is \(4,\) .*takes \(3,\)"),
        (retype, r"the tensor 'classifier\.bias' is .*float16.* takes .*float32"),
        (add, r"has no tensor 'nothing\.weight'"),
        (lose, r"lacks the tensor 'classifier\.weight', which its metadata lists"),
        (flip_a_bit, r"the tensor '[\w.]+' is not what was written"),
        (truncate, "cannot read .*delta.safetensors"),
        (no_metadata, "is not a delta that hfft wrote"),
        (newer_format, "has delta format 2, but this hfft reads 1"),
        (no_config, "holds no config.json"),
        (no_delta, "holds neither model.safetensors nor delta.safetensors"),
    ],
)
def test_damage_is_named_and_nothing_is_loaded(delta: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(delta)
    with pytest.raises(HfftError, match=message) as caught:
        load(delta)
    assert "\n" not in str(caught.value)


def test_another_base_is_refused(place: Path, delta: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"other is not the base model .* SHA-256"):
        load(delta, base=str(place / "other"))
    shutil.copytree(place / "base", tmp_path / "lacking")
    path = tmp_path / "lacking" / "model.safetensors"
    tensors = load_file(path)
    path.unlink()  # the tensors are mapped, and older versions of safetensors write into a file that is there
    name = next(name for name in tensors if name.endswith("patch_embeddings.projection.weight"))
    save_file({**tensors, name: tensors[name][:8].clone()}, path, {"format": "pt"})
    with pytest.raises(ModelError, match=r"has the tensor '.*projection\.weight' in the shape \(8, "):
        load(delta, base=str(tmp_path / "lacking"))
    del tensors[name]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ModelError, match=r"has the tensor '.*projection\.weight' not at all"):
        load(delta, base=str(tmp_path / "lacking"))


def test_tensors_that_the_base_lacks_travel(place: Path, tmp_path: Path) -> None:
    """A frozen tensor that no checkpoint gives was drawn at random, and nobody could draw it again."""
    shutil.copytree(place / "base", tmp_path / "lacking")
    path = tmp_path / "lacking" / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("patch_embeddings.projection.bias"))
    del tensors[name]
    save_file(tensors, path, {"format": "pt"})
    run_finetune(tmp_path / "lacking", place / "images", tmp_path / "output", "head")
    assert name in load_file(tmp_path / "output" / "delta.safetensors")
    merge(delta_alone(tmp_path / "output", tmp_path / "delta"), tmp_path / "merged")
    merged, original = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("merged", "output"))
    assert merged == original


def test_the_embedded_model_is_a_base(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, processor = embedded_model(["cat", "dog"])
    given = {name: tensor for name, tensor in model.state_dict().items() if "classifier" not in name}
    pretrained = Pretrained.of(given)
    with torch.no_grad():
        model.timm_model.bn2.bias.add_(1)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    write_delta(tmp_path, model, pretrained, (EMBEDDED_MODEL, ""))
    whole = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    loaded, _ = load(tmp_path)
    assert load_file(tmp_path / "delta.safetensors").keys() == {
        "timm_model.bn2.bias",
        "timm_model.classifier.weight",
        "timm_model.classifier.bias",
    }
    assert all(torch.equal(tensor, whole[name]) for name, tensor in loaded.state_dict().items())


def test_a_delta_of_the_embedded_model_keeps_its_task(tmp_path: Path) -> None:
    model, processor = embedded_model(["cat", "dog"])
    given = {name: tensor for name, tensor in model.state_dict().items() if "classifier" not in name}
    task = replace(MULTI_LABEL, thresholds=(0.25, 0.75))
    task.write(model.config)
    write_delta(tmp_path, model, Pretrained.of(given), (EMBEDDED_MODEL, ""))
    save_checkpoint(model, processor, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert task_of(load(tmp_path)[0].config) == task


def test_no_pickle_is_read(place: Path, delta: Path, tmp_path: Path) -> None:
    (tmp_path / "pickled").mkdir()
    for file in (place / "base").iterdir():
        if file.suffix == ".json":
            shutil.copy(file, tmp_path / "pickled")
    torch.save(load_file(place / "base" / "model.safetensors"), tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        load(delta, base=str(tmp_path / "pickled"))
