"""How well wrong labels are found, and how many labels `hfft next` spares.

``python scripts/bench_labels.py [--images 1000] [--seeds 5] [--features FILE.safetensors ...] [--json FILE]``

Labels of the embedded animals and of scikit-learn's digits are flipped, 5 and 10 % of them, to any other class or to
the most similar one. Every method sees the same features, those of `hfft labels`: the embedded model's. cleanlab is
compared with where it is installed (``pip install cleanlab``), with hfft's probe and with its own default. `hfft next`
begins with two labels of each class and adds 20 a round until a probe has 95 % of its accuracy with all labels.
``--features`` takes files of `hfft embed` in place of both sets.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import average_precision_score

from hfft.arguments import FeatureArguments
from hfft.curate.choose import most_teaching
from hfft.curate.encoder import load_encoder
from hfft.curate.features import boundary_part, read_features
from hfft.curate.noise import STRENGTH, Rows, cross_validated, fitted
from hfft.data.images import ImageSet
from hfft.data.sampling import sample, stratified
from hfft.demo import embedded_images

SHARES = (0.05, 0.10)
FLIPS = ("uniform", "similar")
FIRST, STEP, TARGET = 2, 20, 0.95
"""Labels of each class to begin with, labels of each round, and the share of full accuracy that is to be reached."""
TEST = 0.3
"""Share of the images that accuracies are measured on."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Features:
    """A set of images as features, with their labels."""

    name: str
    views: list[Floats]
    labels: Rows

    @property
    def values(self) -> Floats:
        """What the head reads."""
        return self.views[0]

    def select(self, rows: Rows) -> Features:
        """Return some of the images."""
        return Features(self.name, [view[rows] for view in self.views], self.labels[rows])


def main() -> None:
    """Measure, and print a table of each question."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000, help="most images of each set")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--features", nargs="+", type=Path, help="files of hfft embed")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    sets = [read(path) for path in options.features] if options.features else list(packaged(options.images))
    found: dict[str, list[dict[str, Any]]] = {"flips": [], "next": []}
    for each in sets:
        for share in SHARES:
            for kind in FLIPS:
                rows = [flips(each, share, kind, seed) for seed in range(options.seeds)]
                found["flips"].append({"set": each.name, "share": share, "kind": kind, **_means(rows)})
                _print(found["flips"][-1])
        rows = [labels_needed(each, seed) for seed in range(options.seeds)]
        found["next"].append({"set": each.name, **_means(rows), "each": rows})
        _print(found["next"][-1])
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def packaged(most: int) -> Iterator[Features]:
    """Yield the embedded animals and scikit-learn's digits, as the embedded model sees them."""
    encoder = load_encoder(FeatureArguments())
    for images in (animals(most), digits(most)):
        began = time.perf_counter()
        parts = (None, boundary_part(encoder))
        views = read_features(encoder, {"train": images}, parts, lambda line: None)["train"].views
        print(f"{images.name}: features of {len(images)} images in {time.perf_counter() - began:.1f} s", flush=True)
        yield Features(images.name, [view.astype(np.float64) for view in views], images.labels)


def animals(most: int) -> ImageSet:
    """Return the embedded training images."""
    rows = embedded_images()["train"]
    return sample(ImageSet(rows.select_columns(["image"]), np.array(rows["label"]), "animals"), most, 0)


def digits(most: int) -> ImageSet:
    """Return scikit-learn's handwritten digits, 8 x 8 pixels each."""
    from sklearn.datasets import load_digits

    found = load_digits()
    values = []
    for pixels in found.images:
        stream = io.BytesIO()
        Image.fromarray(np.rint(pixels * (255 / 16)).astype(np.uint8)).save(stream, "PNG")
        values.append({"path": None, "bytes": stream.getvalue()})
    features = datasets.Features({"image": datasets.Image(decode=False)})
    rows = datasets.Dataset.from_dict({"image": values}, features)
    return sample(ImageSet(rows, found.target.astype(np.int64), "digits"), most, 0)


def read(path: Path) -> Features:
    """Return what `hfft embed` wrote."""
    from safetensors.numpy import load_file

    tensors = load_file(path)
    told = tensors["labels"] >= 0
    return Features(path.stem, [tensors["features"][told].astype(np.float64)], tensors["labels"][told])


# Wrong labels -----------------------------------------------------------------------------------------


def flips(each: Features, share: float, kind: str, seed: int) -> dict[str, float]:
    """Flip labels, rank all images by how suspect their labels are, and say how well the flipped ones were found."""
    test = stratified(each.labels, round(TEST * len(each.labels)), seed)
    rows = np.setdiff1d(np.arange(len(each.labels)), test)
    given = each.select(rows)
    values, truth = given.values, given.labels
    labels = flipped(values, truth, share, kind, seed)
    wrong = labels != truth
    began = time.perf_counter()
    opinion = cross_validated(given.views, labels, seed)
    seconds = time.perf_counter() - began
    suspects = opinion.suspects()
    rankings = {"hfft": opinion.scores, **cleanlab_scores(given.views, labels, seed)}
    figures = {f"AP {name}": float(average_precision_score(wrong, -scores)) for name, scores in rankings.items()}
    worst = np.argsort(opinion.scores, kind="stable")[: 2 * wrong.sum()]
    kept = np.setdiff1d(np.arange(len(labels)), suspects)
    accuracy = {
        "as given": (labels, np.arange(len(labels))),
        "suspects dropped": (labels, kept),
        "no flips": (truth, np.arange(len(labels))),
    }
    return {
        **figures,
        "found within twice": float(wrong[worst].sum() / wrong.sum()),
        "listed": float(len(suspects)),
        "of them wrong": float(wrong[suspects].mean()) if len(suspects) else 0.0,
        "flips listed": float(wrong[suspects].sum() / wrong.sum()),
        **{
            f"accuracy {name}": float(
                (fitted(values, given, chosen, seed)(each.values[test]).argmax(1) == each.labels[test]).mean()
            )
            for name, (given, chosen) in accuracy.items()
        },
        "seconds": seconds,
    }


def flipped(values: Floats, truth: Rows, share: float, kind: str, seed: int) -> Rows:
    """Give a share of the images another label: any, or that of the class whose mean is nearest."""
    random = np.random.RandomState(seed)
    count = int(truth.max()) + 1
    means = np.stack([values[truth == label].mean(axis=0) for label in range(count)])
    distances = ((means[:, None] - means[None]) ** 2).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    labels = truth.copy()
    for row in random.permutation(len(truth))[: round(share * len(truth))]:
        step = random.randint(1, count)
        labels[row] = (truth[row] + step) % count if kind == "uniform" else distances[truth[row]].argmin()
    return labels


def cleanlab_scores(views: Sequence[Floats], labels: Rows, seed: int) -> dict[str, Floats]:
    """Return cleanlab's quality of each label on the same features, by hfft's probe and by its default one."""
    if importlib.util.find_spec("cleanlab") is None:
        return {}
    from cleanlab.classification import CleanLearning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    values = np.concatenate(views, axis=1)
    probes = {
        "cleanlab": make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=200)),
        "cleanlab, default probe": LogisticRegression(),
    }
    return {
        name: np.asarray(
            CleanLearning(probe, seed=seed, cv_n_folds=5).find_label_issues(values, labels)["label_quality"], np.float64
        )
        for name, probe in probes.items()
    }


# What to label next -----------------------------------------------------------------------------------


def labels_needed(each: Features, seed: int) -> dict[str, float]:
    """Return how many labels each way of choosing needs for 95 % of the accuracy of all of them."""
    test = stratified(each.labels, round(TEST * len(each.labels)), seed)
    rows = np.setdiff1d(np.arange(len(each.labels)), test)
    pool, held_out = each.select(rows), each.select(test)
    goal = TARGET * _accuracy(pool, np.arange(len(rows)), held_out)

    def teaching(left: Rows, probabilities: Floats, chosen: Rows) -> Rows:
        values = pool.values.astype(np.float32)
        return most_teaching(values[left], probabilities, STEP, values[chosen])

    def at_random(left: Rows, probabilities: Floats, chosen: Rows) -> Rows:
        return np.random.RandomState(seed * 1000 + len(left)).permutation(len(left))[:STEP]

    return {
        "goal": goal,
        "hfft next": _needed(pool, held_out, goal, teaching, seed),
        "random order": _needed(pool, held_out, goal, at_random, seed),
    }


def _needed(
    pool: Features, held_out: Features, goal: float, choose: Callable[[Rows, Floats, Rows], Rows], seed: int
) -> float:
    random = np.random.RandomState(seed)
    classes = [random.permutation(np.flatnonzero(pool.labels == label)) for label in np.unique(pool.labels)]
    chosen = np.concatenate([rows[:FIRST] for rows in classes])
    while True:
        probe = fitted(pool.values, pool.labels, chosen, seed)
        accuracy = (probe(held_out.values).argmax(1) == held_out.labels).mean()
        left = np.setdiff1d(np.arange(len(pool.labels)), chosen)
        if accuracy >= goal or not len(left):
            return float(len(chosen))
        chosen = np.concatenate([chosen, left[choose(left, probe(pool.values[left]), chosen)]])


def _accuracy(pool: Features, rows: Rows, held_out: Features) -> float:
    probe = fitted(pool.values, pool.labels, rows, 0)
    return float((probe(held_out.values).argmax(1) == held_out.labels).mean())


def _means(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _print(row: dict[str, Any]) -> None:
    shown = {
        name: f"{value:.3f}" if isinstance(value, float) else value for name, value in row.items() if name != "each"
    }
    print(", ".join(f"{name} {value}" for name, value in shown.items()), flush=True, file=sys.stdout)


if __name__ == "__main__":
    main()
