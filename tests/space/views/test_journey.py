"""What the journey of an image is given to draw."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hfft.explain.journey import Change, Journey, Layer, Stop
from hfft.space.views.journey import change_of, journey_value, no_journey
from hfft.tasks.contract import Marked, Measured, Score

LAYER = Layer("channel 3", np.eye(4, dtype=np.float32))
STOPS = (
    Stop("stem", 0.0, (3, 8, 8), (4, 4, 4), (4, 4), (LAYER,), ()),
    Stop("block 1", 0.5, (4, 4, 4), (6, 4, 4), (4, 4), (LAYER,), (LAYER,)),
    Stop("head", 1.0, (6, 4, 4), (2,), None, (), ()),
)
FOUND = Journey(Image.new("RGB", (8, 8)), STOPS, LAYER, (Score("cat", 0.8), Score("dog", 0.2)), 2.0)


def test_the_way_leads_from_the_picture_to_the_answer() -> None:
    value = journey_value(FOUND)
    assert [stop["part"] for stop in value["stops"]] == ["picture", "stem", "block 1", "head", "answer"]
    assert [stop["kind"] for stop in value["stops"]] == ["plain", "frozen", "trained", "trained", "plain"]
    assert [stop["in"] for stop in value["stops"][1:]] == ["3 x 8 x 8", "4 x 4 x 4", "6 x 4 x 4", "2"]
    assert "50% trained" in value["stops"][2]["text"]
    assert len(value["stops"][2]["base"]) == 1
    assert value["answers"][0] == {"label": "cat", "share": 0.8, "said": "80.0%", "least": None}
    assert "2.00 times as far" in value["doubt"]


def test_thresholds_and_numbers_are_drawn_as_what_they_are() -> None:
    scores = (Marked("cat", 0.8, 0.25), Measured("age", math.nan, 31.4159))
    value = journey_value(Journey(FOUND.seen, STOPS, LAYER, scores, None, "an image may have several"))
    assert value["answers"] == [
        {"label": "cat", "share": 0.8, "said": "80.0%", "least": 0.25},
        {"label": "age", "share": None, "said": "31.42", "least": None},
    ]
    assert value["doubt"].endswith("is not known: an image may have several.")


def test_what_is_no_picture_is_said() -> None:
    value = journey_value(Journey(None, STOPS, None, FOUND.scores, None))
    assert not value["stops"]
    assert "not a picture" in value["why"]


@pytest.mark.parametrize(
    ("asked", "change"),
    [
        ({}, Change()),
        (
            {"crop": 0.5, "turn": -90, "dark": 0.25, "cover": [0.1, 0.2, 0.3, 0.4]},
            Change(0.5, -90, 0.25, (0.1, 0.2, 0.3, 0.4)),
        ),
        ({"crop": 1, "turn": 1e9, "dark": 5, "cover": [-1, 2, 1, 1]}, Change(0.9, 180, 1, (0, 1, 1, 1))),
        ({"crop": "x", "turn": None, "dark": math.nan, "cover": [1, 2]}, Change()),
        ({"cover": "[]"}, Change()),
    ],
)
def test_what_a_page_asks_for_is_brought_within_bounds(asked: dict[str, Any], change: Change) -> None:
    assert change_of(asked) == change


def test_what_is_drawn_is_plain_data() -> None:
    for value in (journey_value(FOUND), no_journey("nothing")):
        assert json.loads(json.dumps(value)) == value
        assert set(value) == set(no_journey(""))
