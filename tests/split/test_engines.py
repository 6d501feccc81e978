"""The frozen prefix in an inference engine: close to PyTorch for every kind of model, in batches of any size."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from small_models import small_model
from timm_models import small_timm
from torch import Tensor
from transformers import PreTrainedModel

from hfft.planning.freezing import freeze
from hfft.planning.plan import make_plan
from hfft.planning.registry import find_anatomy
from hfft.split.cut import cut_phase
from hfft.split.engines import Engine, EngineError, difference, export_engine, is_whole, missing_packages
from hfft.split.halves import Prefix

BATCH = 4


def prefix_of(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Prefix:
    anatomy = find_anatomy(model)
    phase = make_plan(model, anatomy, "last_block", 1).phases[0]
    freeze(model, phase)
    cut = cut_phase(model, anatomy, phase, inputs)
    assert cut.split is not None
    return Prefix(cut.split, anatomy, cut.class_token, torch.device("cpu"), None, torch.channels_last)


def images(inputs: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = inputs["pixel_values"].shape[1:]
    return {"pixel_values": torch.randn(count, *shape, generator=generator)}


def model_of(kind: str) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    name = kind.removeprefix("timm ")
    return small_timm(name) if name != kind else small_model(kind)


@pytest.mark.parametrize("kind", ["resnet", "vit", "convnext", "swin", "dinov2", "timm efficientnet", "timm resnet"])
def test_onnxruntime_gives_the_activations_of_torch(kind: str, tmp_path: Path) -> None:
    model, inputs = model_of(kind)
    prefix = prefix_of(model, inputs)
    engine = export_engine("onnxruntime", prefix, images(inputs, BATCH), tmp_path)
    for count in (1, BATCH, 2 * BATCH + 3):
        batch = images(inputs, count)
        found, expected = engine.capture(batch), prefix.capture(batch)
        assert {key: (v.shape, v.dtype) for key, v in found.items()} == {
            key: (v.shape, v.dtype) for key, v in expected.items()
        }
        assert difference(found, expected) < 1e-4


def test_a_row_does_not_depend_on_its_batch(tmp_path: Path) -> None:
    model, inputs = model_of("resnet")
    prefix = prefix_of(model, inputs)
    engine = export_engine("onnxruntime", prefix, images(inputs, BATCH), tmp_path)
    batch = images(inputs, BATCH)
    (whole,) = engine.capture(batch).values()
    for row in range(BATCH):
        (alone,) = engine.capture({"pixel_values": batch["pixel_values"][row : row + 1]}).values()
        assert torch.equal(alone[0], whole[row])


def test_lanes_that_compute_at_once_give_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    model, inputs = model_of("resnet")
    prefix = prefix_of(model, inputs)
    engine = export_engine("onnxruntime", prefix, images(inputs, BATCH), tmp_path)
    assert engine.lanes == 4
    whole = images(inputs, 12 * BATCH)["pixel_values"]
    batches = [{"pixel_values": part} for part in whole.split(BATCH)]
    with ThreadPoolExecutor(engine.lanes) as pool:
        together = list(pool.map(engine.capture, batches))
    for found, batch in zip(together, batches, strict=True):
        assert all(torch.equal(found[key], value) for key, value in engine.capture(batch).items())


@pytest.mark.skipif(bool(missing_packages("openvino")), reason="OpenVINO is an extra")
@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_openvino_gives_the_activations_of_torch(kind: str, tmp_path: Path) -> None:
    model, inputs = model_of(kind)
    prefix = prefix_of(model, inputs)
    engine = export_engine("openvino", prefix, images(inputs, BATCH), tmp_path)
    first, second = (images(inputs, count) for count in (BATCH, BATCH + 1))
    made = engine.capture(first), engine.capture(second)
    assert difference(made[0], prefix.capture(first)) < 1e-4  # not written over by the second call
    assert difference(made[1], prefix.capture(second)) < 1e-4


def test_a_damaged_export_is_made_again(tmp_path: Path) -> None:
    model, inputs = model_of("resnet")
    prefix, batch = prefix_of(model, inputs), images(inputs, BATCH)
    engine = export_engine("onnxruntime", prefix, batch, tmp_path)
    engine.file.write_bytes(engine.file.read_bytes()[:-100])
    assert not is_whole(engine)
    again = export_engine("onnxruntime", prefix, batch, tmp_path)
    assert is_whole(again)
    assert difference(again.capture(batch), prefix.capture(batch)) < 1e-4
    assert [file.name for file in tmp_path.iterdir()] == ["onnx"]


def test_what_cannot_be_exported_or_run_is_one_line(tmp_path: Path) -> None:
    model, inputs = model_of("resnet")
    prefix, batch = prefix_of(model, inputs), images(inputs, BATCH)
    (tmp_path / "file").touch()
    with pytest.raises(EngineError, match="file") as refused:
        export_engine("onnxruntime", prefix, batch, tmp_path / "file")
    assert "\n" not in str(refused.value)
    engine = Engine("onnxruntime", tmp_path / "gone", (("key", torch.float32),), BATCH, False, prefix.device)
    with pytest.raises(EngineError) as failed:
        engine.capture(batch)
    assert "\n" not in str(failed.value)


def test_difference_sees_what_is_not_finite_or_missing() -> None:
    one = {"a": torch.tensor([1.0, -2.0])}
    assert difference(one, one) == 0
    assert difference({"a": torch.tensor([1.0, -1.9])}, one) == pytest.approx(0.05)
    assert difference({"a": torch.tensor([1.0, float("nan")])}, one) == float("inf")
    assert difference({"a": torch.tensor([1.0])}, one) == difference({}, one) == float("inf")
