"""Numbers with their nouns."""

from __future__ import annotations

import pytest

from hfft.wording import count_of, images_of


@pytest.mark.parametrize(
    ("number", "said"),
    [(0, "0 images"), (1, "1 image"), (1.0, "1 image"), (2, "2 images"), (1200, "1,200 images"), (0.5, "0.5 images")],
)
def test_a_noun_follows_its_number(number: float, said: str) -> None:
    assert count_of(number, "image") == said


def test_another_plural_is_given() -> None:
    assert [count_of(number, "class", "classes") for number in (1, 3)] == ["1 class", "3 classes"]


def test_splits_are_named_with_their_images() -> None:
    assert images_of({"train": 1200, "validation": 1}) == "1,200 train, 1 validation images"
    assert images_of({"train": 1}) == "1 train image"
