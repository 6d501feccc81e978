"""Accuracy over depth is that of probes on what each block gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import hfft
from hfft.arguments import DataArguments, FeatureArguments
from hfft.cli import main
from hfft.curate.encoder import load_encoder
from hfft.curate.features import read_features
from hfft.curate.gather import gather
from hfft.errors import DataError
from hfft.jobs.advice.folds import Folds, cross_validate_probe

from .conftest import Finished


def test_each_part_is_probed_on_its_own_features(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "depth.png"
    argv = ["depth", str(finished.images), "--model", str(finished.base), "--output", str(target)]
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["result"]
    assert [each["part"] for each in found["probes"]] == ["stem", "block 1", "block 2", "block 3", "neck", "head input"]
    assert (found["images"], found["folds"]) == (18, 5)
    shares = [each["share"] for each in found["probes"]]
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] < 1
    encoder = load_encoder(FeatureArguments(model=str(finished.base)))
    images = gather(DataArguments(), str(finished.images)).sets["train"]
    features = read_features(encoder, {"train": images}, ["block 2"], lambda line: None)["train"].values
    images.labels[:] = np.repeat([0, 1, 2], 6)
    predicted = cross_validate_probe(features.astype(np.float64), Folds.of(images, 5, 0), 0)
    assert found["probes"][2]["accuracy"] == (predicted == images.labels).mean()
    with Image.open(target) as figure:
        assert "block 2" in str(figure.info["Description"])


def test_the_first_part_that_is_as_good_as_the_best_is_named(finished: Finished) -> None:
    depth = hfft.depth(dataset_name=str(finished.images), model=str(finished.output), folds=3, say=lambda line: None)
    best = max(each.accuracy for each in depth.probes)
    enough = next(each for each in depth.probes if each.part == depth.enough)
    assert all(each.accuracy < best for each in depth.probes[: depth.probes.index(enough)])
    assert f"{depth.enough:<10}" in str(depth).split("<-")[0].splitlines()[-1]


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--folds", "1"], 2, "--folds must be at least 2"),
        (["--folds", "19"], 2, "more than the 18 training images"),
        (["--output", "depth.svg"], 2, "must end in .png"),
    ],
)
def test_wrong_options(
    flags: list[str], code: int, message: str, finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["depth", str(finished.images), "--model", str(finished.base), *flags]) == code
    assert message in capsys.readouterr().err


def test_groups_stay_whole(finished: Finished) -> None:
    """Two halves of the images' names part folds in another way than single images do."""
    given: dict[str, Any] = {"dataset_name": str(finished.images), "model": str(finished.base), "folds": 2}
    depth = hfft.depth(group_pattern=r"(\d)\.", say=lambda line: None, **given)
    encoder = load_encoder(FeatureArguments(model=str(finished.base)))
    images = gather(DataArguments(group_pattern=r"(\d)\."), str(finished.images)).sets["train"]
    features = read_features(encoder, {"train": images}, [None], lambda line: None)["train"].values
    images.labels[:] = np.repeat([0, 1, 2], 6)
    folds = Folds.of(images, 2, 0)
    assert images.groups is not None
    assert all(set(images.groups[train]).isdisjoint(images.groups[held_out]) for train, held_out in folds)
    predicted = cross_validate_probe(features.astype(np.float64), folds, 0)
    assert depth.probes[-1].accuracy == (predicted == images.labels).mean()
    with pytest.raises(DataError, match="'ZZZ' matches nothing"):
        hfft.depth(group_pattern="ZZZ", say=lambda line: None, **given)


def test_folds_that_leave_one_label_are_refused(finished: Finished, tmp_path: Path) -> None:
    for name, count in (("red", 2), ("blue", 1)):
        (tmp_path / "few" / name).mkdir(parents=True)
        for file in sorted((finished.images / name).iterdir())[:count]:
            shutil.copy(file, tmp_path / "few" / name)
    with pytest.raises(DataError, match="without one of 2 folds all images have the same label"):
        hfft.depth(dataset_name=str(tmp_path / "few"), model=str(finished.base), folds=2, say=lambda line: None)


def test_images_without_labels_are_refused(finished: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["depth", str(finished.images / "red"), "--model", str(finished.base)]) == 1
    assert "no labelled training images" in capsys.readouterr().err
