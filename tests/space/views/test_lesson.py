"""The lesson: three registers, told with the model's own figures."""

from __future__ import annotations

from dataclasses import replace

import pytest
from finished import make_images, make_model, run_finetune
from PIL import Image

from hfft.explain.journey import journey
from hfft.inference.classifier import load_classifier
from hfft.inference.runs import read_run
from hfft.space.views.lesson import REGISTERS, Told, insight, lesson


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    folder = tmp_path_factory.mktemp("lesson")
    base, images = make_model(folder / "base"), make_images(folder / "images")
    run_finetune(base, images, folder / "run", learning_rate=0.05)
    followed = journey(load_classifier(folder / "run", device="cpu"), Image.open(images / "red" / "0.png"))
    return Told(read_run(folder / "run"), followed, "a <red> picture", spared=0.75, untrained=0.5, temperature=1.5)


@pytest.mark.parametrize("register", REGISTERS)
def test_each_register_tells_this_models_figures(register: str, told: Told) -> None:
    html = lesson(register, told)
    assert told.run is not None
    assert told.journey is not None
    total = sum(part.parameters for part in told.run.record.parts)
    assert f"{total:,} parameters" in html
    assert "Before any training 9 of 18 right (95 % interval" in html
    assert f"{told.journey.scores[0].probability:.1%}" in html
    assert " x ".join(map(str, told.journey.stops[0].shape_in)) in html
    assert "a &lt;red&gt; picture" in html
    assert "<red>" not in html


@pytest.mark.parametrize(("trained", "missing"), [((), "Retrained part"), (("stem", "block", "neck"), "Frozen part")])
def test_a_stage_without_parts_is_left_out(trained: tuple[str, ...], missing: str, told: Told) -> None:
    assert told.journey is not None
    stops = tuple(replace(stop, trained=float(stop.part.startswith((*trained, "head")))) for stop in told.journey.stops)
    html = lesson(REGISTERS[0], replace(told, journey=replace(told.journey, stops=stops)))
    assert missing not in html
    assert ">Head<" in html


def test_the_registers_differ(told: Told) -> None:
    assert len({lesson(register, told) for register in REGISTERS}) == 3
    assert "softmax(h(z_i; b))" in lesson(REGISTERS[2], told)
    assert "softmax" not in lesson(REGISTERS[0], told)


def test_without_a_model_the_method_alone_is_told() -> None:
    html = lesson(REGISTERS[0], Told(None))
    assert "frozen" in html
    assert "parameters" not in html


def test_the_key_is_in_the_runs_own_figures(told: Told) -> None:
    text = insight(told)
    assert told.run is not None
    assert f"{told.run.trained_share:.1%} of the weights and 25% of the arithmetic" in text
    assert "of 18 right" in text
    assert "The rest never changed" in text  # nothing was cached
    assert "arithmetic" not in insight(replace(told, spared=None))
