"""Looking inside finished models of every kind: shapes, shares, maps, and what fine-tuning changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finished import make_images, make_model, run_finetune
from PIL import Image
from small_models import small_model
from timm_models import wrapped
from torch import Tensor
from transformers import ViTImageProcessorPil

from hfft.data.preprocessing import Pixels
from hfft.explain.attention import class_token_attention
from hfft.explain.evidence import base_or_reason, load_base, prediction_trace
from hfft.explain.forward_pass import watch
from hfft.explain.gradcam import class_activation_map, feature_maps, overlay
from hfft.explain.pipeline import STAGES, activation_map, anatomy_of, model_inputs, pipeline_trace
from hfft.inference.classifier import Classifier, classify, load_classifier
from hfft.models.features import head_reads
from hfft.planning.registry import find_anatomy
from hfft.plugin.contract import TokenLayout
from hfft.space.views.architecture import architecture_svg, count_text


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    """A small ViT whose last block was retrained."""
    folder = tmp_path_factory.mktemp("explain")
    base, images = make_model(folder / "base"), make_images(folder / "images")
    run_finetune(base, images, folder / "run", learning_rate=0.05)
    return load_classifier(folder / "run", device="cpu")


def photo(seed: int = 0, size: tuple[int, int] = (50, 40)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


def bare(model_type: str) -> Classifier:
    """An untrained model without a record; its processor makes 64 x 64 pixels where the model takes any size."""
    model, inputs = small_model(model_type)
    side = inputs["pixel_values"].shape[-1]
    processor = ViTImageProcessorPil(size={"height": side, "width": side})
    return Classifier(model_type, model, Pixels(processor), ("a", "b", "c"))


def test_the_five_stages_add_up(tuned: Classifier) -> None:
    trace = pipeline_trace(tuned, photo())
    assert tuple(stage.name for stage in trace.stages) == STAGES
    assert trace.stages[0].shape == (1, 40, 50, 3)
    assert trace.stages[1].shape == (1, 3, 32, 32)
    assert sum(stage.parameter_share for stage in trace.stages) == pytest.approx(1)
    assert sum(stage.flops for stage in trace.stages) <= trace.forward.flops
    assert 0.9 < sum(stage.flop_share for stage in trace.stages) <= 1
    assert trace.stages[2].parts == ("stem", "block 1", "block 2")
    assert trace.stages[3].parts == ("block 3", "neck")
    assert trace.stages[4].shape == (1, 3)
    assert sum(part.parameters for part in trace.parts) == sum(p.numel() for p in tuned.model.parameters())


def test_the_trace_says_what_the_classifier_says(tuned: Classifier) -> None:
    image = photo(3)
    (prediction,) = classify(tuned, [image])
    assert [score.label for score in pipeline_trace(tuned, image).scores] == [s.label for s in prediction.top]
    assert prediction_trace(tuned, image).scores[0].probability == pytest.approx(prediction.probability, abs=1e-6)


def test_the_seen_image_is_the_given_one_resized(tuned: Classifier) -> None:
    seen = pipeline_trace(tuned, Image.new("RGB", (50, 40), (200, 100, 50))).seen
    assert seen is not None
    assert seen.size == (32, 32)
    assert np.abs(np.asarray(seen).astype(int) - (200, 100, 50)).max() <= 1


def test_arithmetic_is_that_of_the_layers(tuned: Classifier) -> None:
    passed = watch(tuned.model, anatomy_of(tuned), model_inputs(tuned, photo()))
    classes, dim = 3, 16
    assert passed.parts["head"].flops == 2 * classes * dim


@pytest.mark.parametrize("model_type", ["resnet", "vit", "swin", "convnext", "beit"])
def test_every_kind_of_model_gets_a_map_and_a_drawing(model_type: str) -> None:
    classifier = bare(model_type)
    found = activation_map(classifier, photo(), label=1)
    assert found is not None
    assert found.label == 1
    assert found.values.min() >= 0
    assert found.values.max() <= 1
    trace = pipeline_trace(classifier, photo())
    assert trace.stages[3].note == "Empty under this policy."
    svg = architecture_svg(trace.parts, model_type)
    assert all(part.part in svg for part in trace.parts)


def test_a_map_follows_the_evidence() -> None:
    """A head that reads one channel as evidence makes the map that channel's own, but for what is negative."""

    class Toy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 2, 1, bias=False)
            self.act = torch.nn.ReLU(inplace=True)
            self.head = torch.nn.Linear(2, 2, bias=False)

        def forward(self, pixel_values: Tensor) -> tuple[Tensor]:
            return (self.head(self.act(self.conv(pixel_values)).mean((2, 3))),)

    from hfft.plugin.contract import Anatomy

    toy = Toy()
    torch.nn.init.constant_(toy.conv.weight, 1 / 3)
    toy.head.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    pixels = torch.zeros(1, 3, 4, 4)
    pixels[:, :, 1, 2] = 1
    pixels[:, :, 3, 3] = 0.5
    anatomy = Anatomy(stem=(), blocks=(("conv",), ("act",)), neck=(), head=("head",))
    found = class_activation_map(toy, anatomy, {"pixel_values": pixels}, 0)
    assert found is not None
    assert found.part == "block 2"
    assert found.values[1, 2] == 1
    assert found.values[3, 3] == 0.5
    assert found.values.sum() == 1.5


def test_a_head_that_reads_the_class_token_alone_is_mapped_one_block_earlier() -> None:
    vit, swin = activation_map(bare("vit"), photo()), activation_map(bare("swin"), photo())
    assert vit is not None
    assert swin is not None
    assert (vit.part, swin.part) == ("block 2", "block 3")


def test_looking_changes_nothing(tuned: Classifier) -> None:
    before = {name: tensor.clone() for name, tensor in tuned.model.state_dict().items()}
    activation_map(tuned, photo())
    prediction_trace(tuned, photo(), load_base(tuned))
    assert all(torch.equal(tensor, before[name]) for name, tensor in tuned.model.state_dict().items())
    assert all(parameter.grad is None for parameter in tuned.model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tuned.model.modules())


def test_the_base_shows_what_fine_tuning_changed(tuned: Classifier) -> None:
    base, why = base_or_reason(tuned)
    assert base is not None, why
    trace = prediction_trace(tuned, photo(), base)
    assert (trace.frozen_part, trace.retrained_part) == ("block 2", "block 3")
    assert trace.changed is not None
    assert trace.changed > 0
    assert [channel.number for channel in trace.retrained] == [channel.number for channel in trace.base]
    assert all(channel.values.shape == (4, 4) for channel in (*trace.frozen, *trace.retrained, *trace.base))


@pytest.mark.parametrize("model_type", ["vit", "deit", "dinov2_with_registers", "beit"])
def test_attention_is_what_the_model_itself_gives_out(model_type: str) -> None:
    """transformers gives out attention weights where attention is eager; here they come from the fused one."""
    model, inputs = small_model(model_type)
    one = {name: tensor[:1] for name, tensor in inputs.items()}
    anatomy = find_anatomy(model)
    assert anatomy.tokens is not None
    found, why = class_token_attention(model, anatomy, "block 2", one)
    assert found is not None, why
    model.set_attn_implementation("eager")
    with torch.no_grad():
        expected = model(**one, output_attentions=True).attentions[1][0, :, 0, anatomy.tokens.prefix :]
    assert torch.allclose(found.flatten(1), expected, atol=1e-6)
    assert found.shape[1:] == anatomy.tokens.grid


@pytest.mark.parametrize(
    ("model_type", "reason"), [("resnet", "not a row of tokens"), ("siglip", "no class token"), ("swin", "")]
)
def test_where_there_is_no_attention_the_reason_is_given(model_type: str, reason: str) -> None:
    trace = prediction_trace(bare(model_type), photo())
    assert trace.attention == ()
    assert reason in trace.attention_missing
    assert trace.attention_missing
    assert trace.frozen


def test_a_register_is_no_class_token() -> None:
    model = wrapped("test_vit", {"class_token": False, "reg_tokens": 4, "global_pool": "avg", "img_size": 64}).eval()
    anatomy = find_anatomy(model)
    assert anatomy.tokens == TokenLayout((4, 4), 4, class_token=False)
    inputs = {"pixel_values": torch.zeros(1, 3, 64, 64)}
    assert class_token_attention(model, anatomy, "block 2", inputs) == (None, "it has no class token")


def test_the_frozen_part_of_a_vit_shows_its_heads(tuned: Classifier) -> None:
    trace = prediction_trace(tuned, photo())
    assert sorted(head.number for head in trace.attention) == [0, 1]
    assert trace.attention_missing == ""
    assert all(head.values.shape == (4, 4) and 0 <= head.low < head.high <= 1 for head in trace.attention)


def test_contributions_are_what_the_logit_is_made_of(tuned: Classifier) -> None:
    trace = prediction_trace(tuned, photo())
    assert trace.features == 16
    (best, *_) = trace.evidence
    assert best.label == trace.scores[0].label
    head: Any = tuned.model.classifier
    with torch.no_grad(), head_reads(tuned.model, len(tuned.labels)) as reads:
        tuned.model(**model_inputs(tuned, photo()))
    products = (head.weight[tuned.labels.index(best.label)] * reads[-1][1][0]).tolist()
    ranked = sorted(enumerate(products), key=lambda pair: -pair[1])
    for found, expected in ((best.supporting, ranked[:6]), (best.opposing, ranked[::-1][:6])):
        sign = 1 if found is best.supporting else -1
        wanted = [pair for pair in expected if sign * pair[1] > 0]
        assert wanted
        assert [number for number, _ in found] == [number for number, _ in wanted]
        assert [value for _, value in found] == pytest.approx([value for _, value in wanted], rel=1e-4)


def test_a_missing_base_is_a_reason_and_not_an_end(tuned: Classifier, tmp_path: Path) -> None:
    assert tuned.record is not None
    from dataclasses import replace

    gone = replace(tuned.record, base=replace(tuned.record.base, id=str(tmp_path / "gone")))
    base, why = base_or_reason(replace(tuned, record=gone))
    assert base is None
    assert "gone" in why
    assert str(tmp_path) not in why
    trace = prediction_trace(tuned, photo(), None, why)
    assert trace.base == ()
    assert trace.base_missing == why
    assert trace.changed is None
    assert trace.retrained


def test_maps_lie_on_the_image() -> None:
    tokens = torch.arange(1 + 6.0).view(1, 7, 1)
    maps = feature_maps(tokens, TokenLayout((2, 3), 1))
    assert maps is not None
    assert maps.tolist() == [[[1, 2, 3], [4, 5, 6]]]
    assert feature_maps(torch.zeros(1, 5, 5, 8)).shape == (8, 5, 5)  # type: ignore[union-attr]
    assert feature_maps(torch.zeros(1, 8, 5, 5)).shape == (8, 5, 5)  # type: ignore[union-attr]
    assert feature_maps(torch.zeros(1, 7, 3)) is None
    assert feature_maps(torch.zeros(1, 7)) is None


def test_an_overlay_keeps_the_images_size() -> None:
    image = photo()
    heat = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
    assert overlay(image, heat, 0.0).tobytes() == image.tobytes()
    assert overlay(image, heat, 0.5).size == image.size


def test_names_in_a_drawing_are_text() -> None:
    svg = architecture_svg(pipeline_trace(bare("resnet"), photo()).parts, "<script>alert(1)</script>")
    assert "<script>" not in svg


@pytest.mark.parametrize(("number", "text"), [(0, "0"), (999, "999"), (605_440, "605k"), (1_017_600, "1.02M")])
def test_counts_are_short(number: int, text: str) -> None:
    assert count_text(number) == text


def test_a_model_without_a_record_is_described_by_its_plugin() -> None:
    classifier = bare("resnet")
    assert anatomy_of(classifier) == find_anatomy(classifier.model)
