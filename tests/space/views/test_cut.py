"""What the cut box is given to draw."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hfft.explain.cuts import CutChart, CutPart, CutPlace
from hfft.space.trainings.sessions import Tried
from hfft.space.views.cut import SOON, Wanted, cut_value, no_cut, training_seconds

PARTS = (
    CutPart("stem", 1_000, 100, 0.010),
    CutPart("block 1", 3_000, 600, 0.020),
    CutPart("block 2", 5_000, 299, 0.005),
    CutPart("head", 1_000, 1, 0.001),
)
PLACES = (
    CutPlace("full", 0, 0),
    CutPlace("last_n:2", 1, 4_000),
    CutPlace("last_block", 2, 2_000),
    CutPlace("head", 3, 400),
)
CHART = CutChart(PARTS, PLACES, labels=10)
WANTED = Wanted("last_block", 5, train=80, validation=20, classes=10, options=("--train_dir my-images",))


def tried(policy: str, right: int) -> Tried:
    return Tried(Path("images"), None, policy, 5, right, 20, 7.4)


def facts(policy: str, wanted: Wanted = WANTED) -> dict[str, str]:
    place = next(place for place in cut_value(CHART, wanted, [])["places"] if place["policy"] == policy)
    return dict(place["facts"])


def test_the_figures_are_those_of_the_parts() -> None:
    assert facts("last_block")["Parameters trained"] == "6.00k of 10.0k (60.0%)"
    assert facts("last_block")["Arithmetic spared"].startswith("70%")
    assert facts("last_block")["Kept to train on"] == "0.2 MB of activations"
    assert facts("full")["Arithmetic spared"] == "none"
    assert facts("head")["Arithmetic spared"].startswith("over 99%")
    assert facts("head")["Parameters trained"] == "1.00k of 10.0k (10.0%)"


def test_the_head_is_as_large_as_the_classes_make_it() -> None:
    other = Wanted("head", 5, 80, 20, classes=5)
    assert facts("head", other)["Parameters trained"] == "500 of 9.50k (5.3%)"


def test_the_time_is_that_of_one_pass_and_then_of_the_rest() -> None:
    once, train, plain = training_seconds(CHART, PLACES[2], WANTED)
    assert once == pytest.approx(100 * 0.030)
    assert train == pytest.approx(5 * (80 * 3 + 20) * 0.006)
    assert plain == pytest.approx(5 * once + train)
    assert training_seconds(CHART, PLACES[0], WANTED)[0] == 0


def test_each_block_is_as_wide_as_its_arithmetic_and_none_is_lost() -> None:
    value = cut_value(CHART, WANTED, [])
    widths = [part["width"] for part in value["parts"]]
    assert sum(widths) == pytest.approx(100, abs=0.01)
    assert widths[1] / widths[2] == pytest.approx(600 / 299, rel=1e-3)
    assert min(widths) > 2
    assert [place["edge"] for place in value["places"]] == pytest.approx(
        [0, widths[0], widths[0] + widths[1], 100 - widths[3]], abs=0.01
    )


def test_a_cut_that_was_tried_leaves_a_dot_above_its_place() -> None:
    value = cut_value(CHART, WANTED, [tried("head", 15), tried("last_n:1", 20), tried("bias", 3)])
    assert [dot["accuracy"] for dot in value["tried"]] == [75, 100]
    assert [dot["edge"] for dot in value["tried"]] == [value["places"][3]["edge"], value["places"][2]["edge"]]
    assert value["tried"][0]["low"] < 75 < value["tried"][0]["high"]
    assert "15 of 20 validation images right (95 %" in value["tried"][0]["text"]
    chosen = cut_value(CHART, WANTED, [replace(tried("head", 15), chosen=True)])["tried"][0]["text"]
    assert "right, optimistic as the best epoch was chosen on them (95 %" in chosen


@pytest.mark.parametrize(("policy", "at"), [("full", 0), ("last_n:1", 2), ("head", 3), ("bias", -1)])
def test_the_handle_stands_where_the_policy_cuts(policy: str, at: int) -> None:
    value = cut_value(CHART, Wanted(policy, 5, 80, 20, 10), [])
    assert value["at"] == at
    assert (policy in value["why"]) == (at < 0)


def test_a_training_that_takes_long_waits_for_its_button() -> None:
    many = Wanted("last_block", 5, train=10 * int(SOON / 0.03), validation=0, classes=10)
    few = Wanted("last_block", 5, train=10, validation=0, classes=10)
    assert all(place["soon"] for place in cut_value(CHART, few, [])["places"])
    assert not any(place["soon"] for place in cut_value(CHART, many, [])["places"])


def test_the_command_is_one_that_hfft_takes() -> None:
    place = cut_value(CHART, WANTED, [])["places"][1]
    assert place["command"] == "hfft finetune --policy last_n:2 --num_train_epochs 5 --train_dir my-images"


def test_what_is_drawn_is_plain_data() -> None:
    for value in (cut_value(CHART, WANTED, [tried("head", 15)]), no_cut("There is nothing to cut.")):
        assert json.loads(json.dumps(value)) == value
        assert set(value) == set(no_cut(""))
