"""One label of several, and the labels lie in a tree: an answer is the deepest node that is sure enough."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfft.errors import DataError
from hfft.tasks.contract import THRESHOLDS, Answer, Judgement, Label, Score, Targets
from hfft.tasks.single_label import SingleLabel
from hfft.trust.calibration import fit_temperature

SEPARATOR = "/"
"""Between the nodes of a label, the widest first: ``dog/terrier``."""


@dataclass(frozen=True)
class Tree:
    """The nodes of a tree of labels, without its root.

    Args:
        nodes: their paths, each after those above it.
        depths: of each, 1 below the root, shape (nodes,).
        members: which classes lie at or below each, shape (nodes, classes).
        paths: of each class, the nodes on the way to it.
    """

    nodes: tuple[str, ...]
    depths: NDArray[np.int64]
    members: NDArray[np.bool_]
    paths: tuple[tuple[str, ...], ...]

    def shares(self, shares: NDArray[Any]) -> NDArray[np.float64]:
        """Return the probability of each node, the sum of its classes': (..., classes) -> (..., nodes)."""
        return np.asarray(np.asarray(shares, np.float64) @ self.members.T)

    def deepest(self, shares: NDArray[Any], threshold: float) -> NDArray[np.int64]:
        """Return for each image the deepest node of at least a probability, -1 where there is none.

        Args:
            shares: of the classes, shape (images, classes).
            threshold: above a half, so that of nodes of one depth one can reach it.
        """
        sure = np.where(self.shares(shares) >= threshold, self.depths, 0)
        return np.where(sure.any(axis=1), sure.argmax(axis=1), -1)

    def distances(self) -> NDArray[np.int64]:
        """Return how many edges lie between each two classes, shape (classes, classes)."""
        depths = np.array([len(path) for path in self.paths])
        shared = self.members.T.astype(np.int64) @ self.members.astype(np.int64)
        return np.asarray(depths[:, None] + depths[None] - 2 * shared)


def tree_of(classes: Sequence[str]) -> Tree:
    """Return the tree that names such as ``dog/terrier`` make."""
    return _tree(tuple(classes))


@lru_cache(maxsize=8)
def _tree(classes: tuple[str, ...]) -> Tree:
    paths = [_nodes(name) for name in classes]
    nodes = sorted({node for path in paths for node in path}, key=lambda node: (node.count(SEPARATOR), node))
    members = np.array([[node in path for path in paths] for node in nodes])
    depths = np.array([1 + node.count(SEPARATOR) for node in nodes])
    return Tree(tuple(nodes), depths, members, tuple(paths))


def _nodes(name: str) -> tuple[str, ...]:
    parts = name.split(SEPARATOR)
    return tuple(SEPARATOR.join(parts[:count]) for count in range(1, len(parts) + 1))


def tidy(name: str) -> str:
    """Return a label without spaces around its nodes and without empty ones."""
    return SEPARATOR.join(part.strip() for part in name.split(SEPARATOR) if part.strip())


@dataclass(frozen=True)
class LabelTree(SingleLabel):
    """One label of several for each image, in a tree.

    It is learned as labels without a tree are. The probability of a node is the sum of its labels'.

    Args:
        threshold: probability from which on a node is answered, above 0.5.
    """

    name = "label_tree"
    tags = ("hierarchical-classification",)

    threshold: float = 0.8

    def told(self, options: Any) -> LabelTree:
        """Take the threshold of ``--tree_threshold``."""
        return replace(self, threshold=options.tree_threshold)

    def classes(self, labels: Sequence[Label], order: Sequence[str]) -> tuple[str, ...]:
        """Return the classes as every task does.

        Raises:
            DataError: they are not a tree.
        """
        found = super().classes(labels, order)
        if not any(SEPARATOR in name for name in found):
            raise DataError(
                f"not one of its {len(found):,} classes lies below another node ('dog/terrier', or a folder in a "
                "folder), so that they are not a tree; leave out --label_tree"
            )
        return found

    def answer(self, scores: NDArray[Any], classes: Sequence[str], most: int) -> Answer:
        """Name the deepest node that is sure enough beside the most probable labels; the root has no name."""
        tree = tree_of(classes)
        place = int(tree.deepest(scores[None], self.threshold)[0])
        node = Score("", 1.0) if place < 0 else Score(tree.nodes[place], float(tree.shares(scores)[place]))
        return replace(super().answer(scores, classes, most), node=node)

    def table(
        self, targets: Targets, scores: NDArray[Any], classes: Sequence[str]
    ) -> tuple[list[str], list[list[str]]]:
        """Return the node that is answered behind what other labels have."""
        heads, rows = super().table(targets, scores, classes)
        tree = tree_of(classes)
        names = ["" if place < 0 else tree.nodes[place] for place in tree.deepest(scores, self.threshold)]
        return [*heads, "node"], [[*row, name] for row, name in zip(rows, names, strict=True)]

    def heads(self, classes: Sequence[str], most: int) -> list[str]:
        """Put the node before the most likely labels."""
        return ["node", "node_probability", *super().heads(classes, most)]

    def cells(self, answer: Answer) -> list[str]:
        """Put the node before the most likely labels."""
        node = answer.node or Score("", 1.0)
        return [node.label, f"{node.probability:.6f}", *super().cells(answer)]

    def said(self, answer: Answer) -> str:
        """Say the node before the most likely labels."""
        node = answer.node
        sure = f"{node.label} {node.probability:.3f}" if node is not None and node.label else "no node is sure enough"
        return f"{sure}  ({super().said(answer)})"

    def exported(self) -> dict[str, str]:
        """Name the softmax, and the threshold of nodes as JSON."""
        return {**super().exported(), "thresholds": json.dumps([self.threshold])}

    def judge(self, logits: NDArray[Any], targets: Targets, classes: Sequence[str], most: int = 5) -> Judgement:
        """Return beside the metrics of single labels accuracy by level, tree distance, and those of the nodes."""
        found = super().judge(logits, targets, classes, most)
        values = found.metrics.values | self._tree_metrics(self.scores(logits), targets, tree_of(classes))
        return replace(found, metrics=replace(found.metrics, values=values))

    def _tree_metrics(self, shares: NDArray[Any], targets: Targets, tree: Tree) -> dict[str, float]:
        nodes, found = tree.shares(shares), {}
        for level in range(1, int(tree.depths.max()) + 1):
            here = np.flatnonzero(tree.depths == level)
            truth = tree.members[here][:, targets]  # (nodes of the level, images)
            deep = truth.any(axis=0)  # a label may end above this level
            chosen = nodes[:, here].argmax(axis=1)
            if deep.any():
                found[f"accuracy_level_{level}"] = float(truth[chosen, np.arange(len(targets))][deep].mean())
        found["tree_distance"] = float(tree.distances()[shares.argmax(axis=1), targets].mean())
        answered = tree.deepest(shares, self.threshold)
        sure = answered >= 0
        if sure.any():
            found["node_accuracy"] = float(tree.members[answered[sure], targets[sure]].mean())
        found["node_depth"] = float(np.where(sure, tree.depths[answered], 0).mean())
        return found

    def more(self, values: dict[str, float]) -> str:
        """Say how good each level is, how far wrong labels are, and what nodes are answered."""
        levels = ", ".join(f"{value:.3f}" for name, value in values.items() if name.startswith("accuracy_level_"))
        right = f", of which {values['node_accuracy']:.1%} are right" if "node_accuracy" in values else ""
        return (
            f"Accuracy by level of the tree, from the root: {levels}; mean tree distance {values['tree_distance']:.2f} "
            f"edges. Nodes of probability {self.threshold:g} or more lie {values['node_depth']:.2f} levels deep{right}."
        )

    def calibrated(self, logits: NDArray[Any], targets: Targets) -> LabelTree:
        """Fit the temperature."""
        return replace(self, temperature=fit_temperature(logits, targets))

    def write(self, config: Any) -> None:
        """Note temperature and threshold."""
        super().write(config)
        setattr(config, THRESHOLDS, [self.threshold])

    def deciding(self) -> str:
        """Say what a node is."""
        return (
            f"Labels lie in a tree, with `{SEPARATOR}` between the nodes. `hfft` also names the deepest node whose "
            f"labels' probabilities sum up to {self.threshold:g} or more, which is the one number under "
            f"`{THRESHOLDS}` in `config.json`; the `pipeline` of `transformers` names labels alone."
        )

    def described(self, classes: Sequence[str]) -> str:
        """Name a classifier of a tree."""
        return f"{super().described(classes)} in a tree of {int(tree_of(classes).depths.max())} levels"


LABEL_TREE = LabelTree()
"""As a data set has it: nothing is calibrated yet."""
