"""Which backbone is recommended, and that probes on the same images decide."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from finished import make_images, make_model

from hfft.cli import main
from hfft.jobs.advice.backbones import Backbone, recommend_backbone
from hfft.tasks.scored import Right


def backbone(model: str, right: int, parameters: int) -> Backbone:
    """A backbone whose probe is right for the first so many of 100 images."""
    return Backbone(model, Right(np.arange(100) < right), 1.0, 1.0, parameters)


def test_the_smallest_within_a_standard_error_of_the_best_is_recommended() -> None:
    small, middle, large = backbone("small", 80, 1), backbone("middle", 89, 2), backbone("large", 90, 3)
    model, reason = recommend_backbone([large, small, middle])
    assert model == "middle"
    assert reason == (
        "Recommended: middle, 0.890, smaller than large, 0.900, and within one standard error of it (0.014)."
    )
    model, reason = recommend_backbone([small, backbone("large", 95, 3)])
    assert (model, "the most accurate" in reason) == ("large", True)


def test_models_are_compared_on_the_same_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = [str(make_model(tmp_path / kind, kind=kind)) for kind in ("resnet", "vit")]
    images = make_images(tmp_path / "images", count=8)
    argv = ["advise", str(images), "--models", *models, "--folds", "2"]
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["result"]
    assert [each["model"] for each in found["backbones"]] == models
    assert (found["images"], found["folds"], found["model"] in models) == (24, 2, True)
    assert all(each["milliseconds"] > 0 and each["megabytes"] > 0 for each in found["backbones"])
    assert main(argv) == 0
    out = capsys.readouterr().out
    again = [line for line in out.splitlines() if " cached " in line and line.startswith(str(tmp_path))]
    assert len(again) == 2  # nothing passes through the models a second time
    assert "\nRecommended: " in out


def test_a_model_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = make_images(tmp_path / "images", count=4)
    assert main(["advise", str(images), "--models", str(tmp_path / "nothing")]) == 1
    assert str(tmp_path / "nothing") in capsys.readouterr().err
