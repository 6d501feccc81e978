"""The journey of one image, and what a change of the picture does to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from finished import make_images, make_model, run_finetune
from PIL import Image
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessorPil

from hfft.explain.evidence import load_base
from hfft.explain.journey import Change, Journey, changed_inputs, journey
from hfft.explain.pipeline import image_input, model_inputs, normalisation
from hfft.inference.classifier import Classifier, classify, load_classifier


@pytest.fixture(scope="module", params=["vit", "resnet"])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Classifier, Path]:
    folder = tmp_path_factory.mktemp("journey")
    base, images = make_model(folder / "base", kind=request.param), make_images(folder / "images")
    run_finetune(base, images, folder / "run", learning_rate=0.05)
    return load_classifier(folder / "run", device="cpu"), images / "red" / "0.png"


@pytest.fixture(scope="module")
def found(finished: tuple[Classifier, Path]) -> Journey:
    classifier, file = finished
    return journey(classifier, Image.open(file), base=load_base(classifier))


def test_it_ends_in_the_models_own_answer(finished: tuple[Classifier, Path], found: Journey) -> None:
    (expected,) = classify(finished[0], [finished[1]])
    assert [score.label for score in found.scores] == [score.label for score in expected.top]
    assert found.scores[0].probability == pytest.approx(expected.probability, abs=1e-6)
    assert found.unknown_score == pytest.approx(expected.unknown_score, abs=1e-4)
    assert found.evidence is not None
    assert found.evidence.name == f"evidence for {expected.label}"


def test_what_one_part_gives_out_goes_into_the_next(found: Journey) -> None:
    assert found.stops[0].shape_in[0] == 3
    for one, other in zip(found.stops, found.stops[1:], strict=False):
        assert other.shape_in == one.shape_out
    assert found.stops[-1].shape_out == (3,)


def test_only_what_was_trained_stands_beside_the_base_model(found: Journey) -> None:
    for stop in found.stops:
        assert bool(stop.base) == bool(stop.trained and stop.cells), stop.part
        for layer in (*stop.maps, *stop.base):
            assert layer.values.min() >= 0
            assert layer.values.max() <= 1
    trained = next(stop for stop in found.stops if stop.base)
    assert any(not np.array_equal(one.values, two.values) for one, two in zip(trained.maps, trained.base, strict=True))


def picture(classifier: Classifier, file: Path, change: Change | None) -> torch.Tensor:
    inputs = model_inputs(classifier, Image.open(file))
    name = image_input(inputs)
    assert name is not None
    scale = normalisation(classifier)
    assert scale is not None
    return changed_inputs(classifier, inputs, change)[name][0] * scale[1] + scale[0]


def test_without_a_change_the_input_is_the_same_to_the_bit(finished: tuple[Classifier, Path]) -> None:
    inputs = model_inputs(finished[0], Image.open(finished[1]))
    assert changed_inputs(finished[0], inputs, Change()) is inputs


def test_what_is_covered_is_grey_and_the_rest_as_it_was(finished: tuple[Classifier, Path]) -> None:
    before = picture(*finished, None)
    after = picture(*finished, Change(cover=(0.5, 0.0, 0.5, 0.5)))
    half = before.shape[-1] // 2
    assert torch.allclose(after[:, :half, half:], torch.tensor(0.5), atol=1e-5)
    assert torch.allclose(after[:, half:], before[:, half:], atol=1e-5)
    assert torch.allclose(after[:, :, :half], before[:, :, :half], atol=1e-5)


def test_dark_takes_light_and_a_half_turn_twice_none(finished: tuple[Classifier, Path]) -> None:
    before = picture(*finished, None)
    assert torch.allclose(picture(*finished, Change(dark=0.25)), 0.75 * before, atol=1e-5)
    assert torch.allclose(picture(*finished, Change(turn=180)), before.flip(-1, -2), atol=1e-5)


def test_a_grey_picture_turns_too(tmp_path: Path) -> None:
    config = ResNetConfig(num_channels=1, embedding_size=8, hidden_sizes=[8], depths=[1])
    ResNetForImageClassification(config).save_pretrained(tmp_path)
    size = {"height": 32, "width": 32}
    ViTImageProcessorPil(size=size, image_mean=[0.5], image_std=[0.5]).save_pretrained(tmp_path)
    found = journey(load_classifier(tmp_path, device="cpu"), Image.new("L", (32, 32), 255), Change(turn=45))
    assert found.seen is not None
    assert found.seen.getpixel((0, 0)) == (128, 128, 128)
    assert found.seen.getpixel((16, 16)) == (255, 255, 255)


def test_a_crop_shows_the_middle(finished: tuple[Classifier, Path]) -> None:
    before = picture(*finished, None)
    side = before.shape[-1]
    after = picture(*finished, Change(crop=0.5))
    middle = before[:, side // 4 : side // 4 + side // 2, side // 4 : side // 4 + side // 2]
    assert after.mean() == pytest.approx(float(middle.mean()), abs=0.02)


def test_a_change_reaches_answer_and_maps(finished: tuple[Classifier, Path], found: Journey) -> None:
    covered = journey(finished[0], Image.open(finished[1]), Change(cover=(0, 0, 1, 1)))
    assert covered.scores != found.scores
    assert not np.array_equal(covered.stops[0].maps[0].values, found.stops[0].maps[0].values)
