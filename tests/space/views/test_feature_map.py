"""What the map of features draws."""

from __future__ import annotations

import numpy as np
import pytest

from hfft.space.views.feature_map import map_value, no_map
from hfft.trust.feature_map import FeatureMap, feature_map

LABELS = ("cat", "dog")


def found(before: bool = True) -> FeatureMap:
    random = np.random.default_rng(0)
    labels = {"train": np.array([0, 1] * 6), "validation": np.array([0, 1] * 3)}
    features = {
        split: np.eye(2, 5)[classes] + random.normal(0, 0.1, (len(classes), 5)) for split, classes in labels.items()
    }
    files = {split: [f"{row}.png" for row in range(len(classes))] for split, classes in labels.items()}
    said = np.array([0, 1, 0, 1, 1, 1])
    return feature_map(features if before else None, features, labels, files, said)


def test_points_are_placed_on_one_scale_with_y_upwards() -> None:
    drawn, value = found(), map_value(found(), LABELS)
    for side, (title, known) in zip(value["sides"], drawn.sides, strict=True):
        assert side["title"] == title
        points = np.array(side["train"] + side["validation"])
        assert points.min() >= 40
        assert points.max() <= 960
        true = np.concatenate([known.points["train"], known.points["validation"]])
        across, down = np.polyfit(true[:, 0], points[:, 0], 1)[0], np.polyfit(true[:, 1], points[:, 1], 1)[0]
        assert across == pytest.approx(-down, rel=0.05)
    assert value["said"] == [0, 1, 0, 1, 1, 1]
    assert "12 training images" in value["note"]
    assert "6 of 6 (95 % interval 61% to 100%) before fine-tuning, 6 of 6" in value["note"]


@pytest.mark.parametrize("before", [True, False])
def test_a_photograph_far_from_all_stays_in_the_picture(before: bool) -> None:
    far = np.array([9.0, -9.0], np.float32)
    value = map_value(found(before), LABELS, (far if before else None, far, "None of these"))
    assert len(value["sides"]) == 1 + before
    for side in value["sides"]:
        assert max(side["star"]) == 960
        assert min(side["star"]) > 800
        assert np.ptp(side["train"]) < 200
    assert value["star"] == "None of these"


def test_many_classes_are_not_told_by_colour() -> None:
    assert map_value(found(), LABELS)["told"]
    assert not map_value(found(), [str(number) for number in range(13)])["told"]


def test_without_a_map_a_sentence_says_why() -> None:
    assert no_map("gone").keys() == map_value(found(), LABELS).keys()
    assert no_map("gone")["why"] == "gone"
