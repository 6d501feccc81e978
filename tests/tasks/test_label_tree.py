"""Labels in a tree: probabilities of nodes, the deepest that is sure enough, accuracy by level, distances."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfft.arguments import DataArguments
from hfft.errors import ArgumentError, DataError
from hfft.tasks.contract import THRESHOLDS, Score
from hfft.tasks.label_tree import LABEL_TREE, LabelTree, tidy, tree_of
from hfft.tasks.registry import task_of
from hfft.tasks.single_label import SINGLE_LABEL

CLASSES = ("animal/cat", "animal/dog/poodle", "animal/dog/terrier", "plant")


def logits(*shares: list[float]) -> Any:
    return np.log(np.array(shares))


def test_a_node_has_the_probability_of_its_labels() -> None:
    tree = tree_of(CLASSES)
    assert tree.nodes == ("animal", "plant", "animal/cat", "animal/dog", *CLASSES[1:3])
    assert tree.shares(np.array([0.1, 0.2, 0.3, 0.4])) == pytest.approx([0.6, 0.4, 0.1, 0.5, 0.2, 0.3])


@pytest.mark.parametrize(
    ("shares", "node"),
    [
        ([0.02, 0.05, 0.9, 0.03], Score("animal/dog/terrier", 0.9)),
        ([0.1, 0.4, 0.45, 0.05], Score("animal/dog", 0.85)),
        ([0.5, 0.2, 0.2, 0.1], Score("animal", 0.9)),
        ([0.2, 0.2, 0.2, 0.4], Score("", 1.0)),
        ([0.05, 0.05, 0.05, 0.85], Score("plant", 0.85)),
    ],
)
def test_the_answer_is_the_deepest_node_that_is_sure_enough(shares: list[float], node: Score) -> None:
    answer = LABEL_TREE.answer(np.array(shares, np.float32), CLASSES, 2)
    assert answer.node is not None
    assert answer.node.label == node.label
    assert answer.node.probability == pytest.approx(node.probability)
    assert answer.label == CLASSES[int(np.argmax(shares))]
    assert answer.top == SINGLE_LABEL.answer(np.array(shares, np.float32), CLASSES, 2).top
    assert (node.label or "no node is sure enough") in LABEL_TREE.said(answer)
    assert len(LABEL_TREE.cells(answer)) == len(LABEL_TREE.heads(CLASSES, 2))


@given(st.lists(st.floats(0.01, 1), min_size=4, max_size=4), st.floats(0.51, 0.99))
def test_no_node_is_answered_below_its_threshold_nor_above_one_that_reaches_it(
    given: list[float], least: float
) -> None:
    shares = np.array(given) / sum(given)
    tree = tree_of(CLASSES)
    found = {node: share for node, share in zip(tree.nodes, tree.shares(shares), strict=True) if share >= least}
    place = int(tree.deepest(shares[None], least)[0])
    assert (place == -1) == (not found)
    if found:
        assert tree.nodes[place] == max(found, key=lambda node: node.count("/"))


def test_metrics_by_level_and_distance() -> None:
    """Three images: right, wrong below its parent, and wrong at the top."""
    found = LabelTree(threshold=0.7).judge(
        logits([0.01, 0.02, 0.96, 0.01], [0.01, 0.3, 0.6, 0.09], [0.05, 0.1, 0.1, 0.75]), np.array([2, 1, 0]), CLASSES
    )
    values = found.metrics.values
    assert values["accuracy"] == pytest.approx(1 / 3)
    assert [values[f"accuracy_level_{level}"] for level in (1, 2, 3)] == pytest.approx([2 / 3, 2 / 3, 1 / 2])
    # terrier for poodle: up and down; plant for animal/cat: up two, down one.
    assert values["tree_distance"] == pytest.approx((0 + 2 + 3) / 3)
    # Answered are the terrier, the dog above the wrong label, and the wrong plant.
    assert values["node_accuracy"] == pytest.approx(2 / 3)
    assert values["node_depth"] == pytest.approx((3 + 2 + 1) / 3)
    said = LabelTree(threshold=0.7).more(values)
    assert "0.667, 0.667, 0.500; mean tree distance 1.67 edges" in said
    assert found.metrics.intervals.keys() == {"accuracy"}


def test_nothing_sure_has_no_node_accuracy() -> None:
    values = LABEL_TREE.judge(logits([0.3, 0.3, 0.1, 0.3]), np.array([0]), CLASSES).metrics.values
    assert "node_accuracy" not in values
    assert values["node_depth"] == 0
    assert math.isfinite(values["tree_distance"])


def test_a_class_may_have_classes_below_it() -> None:
    tree = tree_of(("dog", "dog/terrier", "cat"))
    assert tree.nodes == ("cat", "dog", "dog/terrier")
    assert tree.distances().tolist() == [[0, 1, 2], [1, 0, 3], [2, 3, 0]]
    answer = LABEL_TREE.answer(np.array([0.5, 0.4, 0.1], np.float32), ("dog", "dog/terrier", "cat"), 1)
    assert answer.node is not None
    assert answer.node.label == "dog"


def test_what_is_no_tree_is_refused() -> None:
    with pytest.raises(DataError, match="leave out --label_tree"):
        LABEL_TREE.classes(["cat", "dog"], ["cat", "dog"])
    assert tidy(" dog / terrier//") == "dog/terrier"


@pytest.mark.parametrize("threshold", [0.5, 1.0, 0.0, float("nan")])
def test_thresholds_without_a_single_answer_are_refused(threshold: float) -> None:
    with pytest.raises(ArgumentError, match=r"--tree_threshold must lie between 0\.5 and 1"):
        DataArguments(label_tree=True, tree_threshold=threshold)


def test_the_flag_is_a_task() -> None:
    assert DataArguments(label_tree=True).task == "label_tree"
    with pytest.raises(ArgumentError, match="--label_tree excludes --task regression"):
        DataArguments(label_tree=True, task="regression")
    with pytest.raises(ArgumentError, match="--label_separator is for --task multi_label"):
        DataArguments(label_tree=True, label_separator=",")


def test_a_strangers_threshold_makes_no_tree_of_plain_names() -> None:
    config = SimpleNamespace(id2label={0: "cat", 1: "dog"})
    setattr(config, THRESHOLDS, [0.8])
    assert task_of(config) == SINGLE_LABEL
