"""Patterns over names: what a star stands for, in which order matches come, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hfft.errors import PluginError
from hfft.plugin.patterns import expand, expand_blocks, known_names

NAMES = ["embed", "embed.0", "embed.1", "layer", "layer.2", "layer.10", "layer.2.norm", "layers", "head", "layer.x"]


def test_a_star_is_one_part_of_a_name() -> None:
    assert expand(NAMES, ["layer.*.norm", "embed.*"]) == ("layer.2.norm", "embed.0", "embed.1")


def test_a_star_may_be_a_piece_of_a_part() -> None:
    assert expand(NAMES, ["layer*"]) == ("layer", "layers")


def test_numbers_come_in_natural_order_and_after_words() -> None:
    assert expand(NAMES, ["layer.*"]) == ("layer.x", "layer.2", "layer.10")


def test_a_name_stands_for_itself_and_its_dots_are_dots() -> None:
    assert expand(["a.b", "axb"], ["a.b"]) == ("a.b",)


def test_a_name_that_is_a_module_and_a_tensor_is_found_once() -> None:
    assert expand(["scale", "scale"], ["scale"]) == ("scale",)


def test_what_matches_nothing_is_refused_unless_it_is_optional() -> None:
    assert expand(NAMES, ["pooler?", "head?"]) == ("head",)
    with pytest.raises(PluginError, match=r"the model has nothing called 'pooler\.\*'"):
        expand(NAMES, ["pooler.*"])


def test_an_entry_is_one_block_for_each_match() -> None:
    assert expand_blocks(NAMES, ["embed", "embed.*"]) == (("embed",), ("embed.0",), ("embed.1",))


def test_patterns_of_one_entry_advance_together() -> None:
    names = ["embed.0", "embed.1", "layer.0", "layer.1"]
    assert expand_blocks(names, [("embed.*", "layer.*")]) == (("embed.0", "layer.0"), ("embed.1", "layer.1"))


def test_patterns_of_one_entry_that_match_unequally_are_refused() -> None:
    with pytest.raises(PluginError, match=r"equally often, but here it is: 'embed\.\*' 2, 'head' 1"):
        expand_blocks(NAMES, [("embed.*", "head")])


def test_known_names_are_modules_parameters_and_buffers() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    model.register_buffer("mean", torch.zeros(2))
    assert known_names(model) == ["0", "0.weight", "mean"]
