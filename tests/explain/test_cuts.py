"""Where a model can be cut, and whether the figures of each place are those of a run that is cut there."""

from __future__ import annotations

from pathlib import Path

import pytest
from finished import LABELS, make_images, make_model
from small_models import small_model
from transformers import ViTImageProcessorPil

from hfft.arguments import CacheArguments, DataArguments, FinetuneArguments, ModelArguments, PolicyArguments
from hfft.data.preprocessing import Pixels
from hfft.explain.cuts import cut_chart, cutting_policies
from hfft.inference.classifier import Classifier, load_classifier
from hfft.jobs.finetune import finetune
from hfft.planning.registry import find_anatomy
from hfft.plugin.contract import Anatomy
from hfft.report.record import read_record
from hfft.training.setup import Settings


@pytest.mark.parametrize("kind", ["vit", pytest.param("resnet", marks=pytest.mark.slow)])
def test_each_place_has_the_figures_of_a_run_that_is_cut_there(kind: str, tmp_path: Path) -> None:
    base, images = make_model(tmp_path / "base", kind=kind), make_images(tmp_path / "images")
    chart = cut_chart(load_classifier(base, device="cpu"))
    for place in chart.places:
        settings = Settings(
            ModelArguments(model_name_or_path=str(base)),
            DataArguments(train_dir=str(images), validation_dir=str(images)),
            PolicyArguments(policy=place.policy),
            CacheArguments(cache="memory"),
            FinetuneArguments(
                output_dir=str(tmp_path / place.policy), num_train_epochs=1.0, use_cpu=True, disable_tqdm=True
            ),
        )
        record = read_record(finetune(settings, say=lambda line: None).folder / "hfft.json")
        assert chart.parameters(chart.trained(place), len(LABELS)) == record.plan[0].trainable_parameters
        assert place.kept * sum(record.data.counts.values()) == record.cache.bytes, place.policy


def test_a_chart_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    classifier = load_classifier(make_model(tmp_path / "base"), device="cpu")
    before = {name: (tensor.clone(), tensor.requires_grad) for name, tensor in classifier.model.named_parameters()}
    cut_chart(classifier)
    assert not classifier.model.training
    for name, tensor in classifier.model.named_parameters():
        assert tensor.equal(before[name][0])
        assert tensor.requires_grad == before[name][1]


@pytest.mark.parametrize("kind", ["swin", "convnext", "dinov2", "efficientnet"])
def test_what_is_trained_shrinks_from_place_to_place(kind: str) -> None:
    model, inputs = small_model(kind)
    side = inputs["pixel_values"].shape[-1]
    pixels = Pixels(ViTImageProcessorPil(size={"height": side, "width": side}))
    chart = cut_chart(Classifier(kind, model, pixels, ("a", "b", "c")))
    assert next(place.policy for place in chart.places) == "full"
    assert [place.policy for place in chart.places][-2:] == ["last_block", "head"]
    assert len(chart.places) == len(find_anatomy(model).blocks) + 2
    counts = [chart.parameters(chart.trained(place), 3) for place in chart.places]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == sum(parameter.numel() for parameter in model.parameters())
    assert all(place.kept > 0 for place in chart.places[1:])


def test_a_head_grows_with_its_classes(tmp_path: Path) -> None:
    labels = tuple(f"class {number}" for number in range(9))
    small = cut_chart(load_classifier(make_model(tmp_path / "small"), device="cpu"))
    large = cut_chart(load_classifier(make_model(tmp_path / "large", labels), device="cpu"))
    assert small.parameters(small.parts, 9) == large.parameters(large.parts, 9)


def test_without_a_stem_the_first_block_is_everything() -> None:
    anatomy = Anatomy((), (("1",), ("2",)), (), ("head",))
    assert cutting_policies(anatomy, ["block 1", "block 2", "head"]) == [
        ("full", "block 1"),
        ("last_block", "block 2"),
        ("head", "head"),
    ]
