"""A greedy soup: what goes in, what stays out, and that it is never worse than its best ingredient."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from hfft.training.recipe.soup import Ingredient, averaged, greedy_soup

NAMES = frozenset({"weight", "count"})


def ingredient(name: str, value: float, score: float, count: int = 1) -> Ingredient:
    return Ingredient(name, (score, 0.0), {"weight": torch.full((3,), value), "count": torch.tensor(count)})


def near(target: float, tensors: Mapping[str, Tensor]) -> tuple[float, float]:
    """Better the nearer the weights are to a target."""
    return -float((tensors["weight"] - target).abs().sum()), 0.0


def scored(target: float, **values: float) -> list[Ingredient]:
    return [
        Ingredient(name, near(target, {"weight": torch.full((3,), value)}), ingredient(name, value, 0).tensors)
        for name, value in values.items()
    ]


def test_it_takes_in_what_helps_and_leaves_out_what_does_not() -> None:
    found = greedy_soup(scored(0.0, far=9.0, right=-1.0, left=2.0), NAMES, partial(near, 0.0))
    assert found.names == ("right", "left")
    assert torch.equal(found.tensors["weight"], torch.full((3,), 0.5))
    assert found.score > found.best


def test_it_is_never_worse_than_the_best_ingredient() -> None:
    generator = torch.Generator().manual_seed(0)
    for target in torch.randn(20, generator=generator).tolist():
        values = {str(number): value for number, value in enumerate(torch.randn(5, generator=generator).tolist())}
        given = scored(target, **values)
        found = greedy_soup(given, NAMES, partial(near, target))
        assert found.score >= max(each.score for each in given)
        again = greedy_soup(given, NAMES, partial(near, target))
        assert again.names == found.names
        assert torch.equal(again.tensors["weight"], found.tensors["weight"])


def test_counts_are_not_averaged_and_other_tensors_are_left_alone() -> None:
    mean = averaged([ingredient("a", 1.0, 0, count=7), ingredient("b", 3.0, 0, count=9)], frozenset({"count"}))
    assert mean.keys() == {"count"}
    assert int(mean["count"]) == 7
