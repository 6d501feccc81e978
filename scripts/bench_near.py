"""Which score tells images of classes that are beside the known ones: what was tried, and what it loses far away.

``python scripts/bench_near.py [--seeds 0 1 2] [--image_size 128]``
Fine-tunes the embedded default without two of the ten animals, and without two of scikit-learn's digits, another two
with each seed. Known are the validation images; near are the training and validation images of the two that were left
out, so that no test image chooses a score; far are the pictures of `bench_trust.py` and the images of the other set.
For each score it prints the area under the ROC curve, near and far, and the gain near over the largest probability.
Scores that are added were divided by their standard deviation over the validation images.

Energy is Liu et al. (NeurIPS 2020), the largest logit Hendrycks et al. (ICML 2022), GEN Liu, Lochman and Zach (CVPR
2023), ViM Wang et al. (CVPR 2022), ReAct Sun, Guo and Li (NeurIPS 2021), NNGuide Park, Jung and Teoh (ICCV 2023),
nearest images Sun et al. (ICML 2022), Mahalanobis Lee et al. (NeurIPS 2018), and relative Mahalanobis Ren et al.
(2021), here on the pooled output of the second block before the last, which is frozen. Needs ``scikit-image``.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_trust import pictures
from numpy.typing import NDArray
from PIL import Image
from scipy.special import logsumexp, softmax
from sklearn.covariance import ledoit_wolf

import hfft
from hfft.data.preprocessing import collate
from hfft.demo import embedded_images
from hfft.inference.classifier import Classifier
from hfft.models.features import head_reads
from hfft.planning.anatomy_file import anatomy_from_dict
from hfft.trust.distances import neighbour_distance
from hfft.trust.known import unit_rows
from hfft.trust.selective import auroc

Labelled = list[tuple[Image.Image, str]]
Floats = NDArray[Any]
SUMS = (
    ("neighbours", "entropy"),
    ("mahalanobis", "entropy"),
    ("softmax", "earlier block"),
    ("entropy", "earlier block"),
)
"""Scores that are tried together."""
_BATCH = 32


@dataclass(frozen=True)
class Seen:
    """What a model makes of images: what its head reads, its logits, and the pooled output of an earlier block."""

    features: Floats
    logits: Floats
    block: Floats


def main() -> None:
    """Measure every set and seed, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--image_size", type=int, default=128)
    options = parser.parse_args()
    sets = {"animals": animals(), "digits": digits()}
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for seed in options.seeds:
        for name, images in sets.items():
            others = [image for other in sets if other != name for image, _ in sets[other]["validation"][:100]]
            for score, areas in measure(images, others, seed, options.image_size).items():
                found[score].append(areas)
    softmaxes = np.array(found["softmax"])[:, 0]
    for score, rows in found.items():
        near, far = np.array(rows).T
        gains = near - softmaxes
        gain = f"gain {gains.mean():+.3f}, least {gains.min():+.3f}"
        print(f"{score:<28} near {near.mean():.3f}  {gain}  far {far.min():.3f}")


def animals() -> dict[str, Labelled]:
    """Return the embedded images by split."""
    found = {}
    for split, rows in embedded_images().items():
        names = rows.features["label"].names
        images = [Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB") for row in rows]
        found[split] = [(image, names[label]) for image, label in zip(images, rows["label"], strict=True)]
    return found


def digits() -> dict[str, Labelled]:
    """Return 1,000 handwritten digits by split."""
    from sklearn.datasets import load_digits

    data = load_digits()
    grey = np.rint(data.images * (255 / 16)).astype(np.uint8)
    order = np.random.RandomState(0).permutation(len(grey))[:1000]
    images = [Image.fromarray(grey[row]).convert("RGB").resize((128, 128)) for row in order]
    labelled = [(image, str(data.target[row])) for image, row in zip(images, order, strict=True)]
    return {"train": labelled[:400], "validation": labelled[400:600], "test": labelled[600:]}


def measure(
    images: dict[str, Labelled], others: Sequence[Image.Image], seed: int, size: int
) -> dict[str, tuple[float, float]]:
    """Fine-tune without two classes, and return each score's area near, and the smaller one of both kinds far."""
    classes = sorted({label for _, label in images["train"]})
    without = {classes[2 * seed % len(classes)], classes[(2 * seed + 1) % len(classes)]}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write(images, without, folder)
        splits: dict[str, Any] = {f"{split}_dir": str(folder / split) for split in images}
        options: dict[str, Any] = {"image_size": size, "seed": seed, "figures": False, "baselines": "none"}
        hfft.finetune(output_dir=str(folder / "out"), say=lambda line: None, **splits, **options)
        classifier = hfft.load_classifier(folder / "out")
        trained = [(image, label) for image, label in images["train"] if label not in without]
        train = look(classifier, [image for image, _ in trained])
        known = look(classifier, [image for image, label in images["validation"] if label not in without])
        left = [image for split in ("train", "validation") for image, label in images[split] if label in without]
        asked = [known, look(classifier, left), look(classifier, pictures()), look(classifier, others)]
    labels = np.array([classifier.labels.index(label) for _, label in trained])
    values = {name: [score(each) for each in asked] for name, score in scores(classifier, train, labels).items()}
    for pair in SUMS:
        spread = [values[name][0].std() for name in pair]
        values[" + ".join(pair)] = [
            sum(values[name][place] / each for name, each in zip(pair, spread, strict=True))
            for place in range(len(asked))
        ]
    areas = {name: [auroc(other, rows[0]) or 0.0 for other in rows[1:]] for name, rows in values.items()}
    return {name: (near, min(far)) for name, (near, *far) in areas.items()}


def write(images: dict[str, Labelled], without: set[str], folder: Path) -> None:
    """Write the images as class folders."""
    for split, labelled in images.items():
        for number, (image, label) in enumerate(labelled):
            if label not in without:
                (folder / split / label).mkdir(parents=True, exist_ok=True)
                image.save(folder / split / label / f"{number:05d}.png")


def look(classifier: Classifier, images: Sequence[Image.Image]) -> Seen:
    """Run images through a model."""
    assert classifier.record is not None
    name = anatomy_from_dict(classifier.record.anatomy).blocks[-3][-1]
    features, logits, block = list[Floats](), list[Floats](), list[Floats]()

    def keep(module: Any, args: Any, output: torch.Tensor) -> None:
        block.append(output.mean(dim=(2, 3)).float().cpu().numpy())

    handle = classifier.model.get_submodule(name).register_forward_hook(keep)
    for start in range(0, len(images), _BATCH):
        batch = collate([classifier.pixels(image) for image in images[start : start + _BATCH]])
        with head_reads(classifier.model, len(classifier.labels)) as reads:
            logits.append(classifier.logits(batch).numpy())
        features.append(reads[-1][1].float().cpu().numpy())
    handle.remove()
    return Seen(*(np.concatenate(rows).astype(np.float64) for rows in (features, logits, block)))


def scores(classifier: Classifier, train: Seen, labels: NDArray[np.int64]) -> dict[str, Callable[[Seen], Floats]]:
    """Return the scores, higher for what is less known."""
    head = [
        m for m in classifier.model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == labels.max() + 1
    ]
    weight, bias = (tensor.detach().double().cpu().numpy() for tensor in (head[-1].weight, head[-1].bias))
    near = neighbour_distance(unit_rows(train.features), labels)
    clipped = np.percentile(train.features, 90)

    def shares(seen: Seen) -> Floats:
        return np.asarray(softmax(seen.logits / classifier.temperature, axis=1))

    def guided(seen: Seen) -> Floats:
        bank = unit_rows(train.features) * logsumexp(train.logits, axis=1)[:, None]
        closest = np.sort(unit_rows(seen.features) @ bank.T, axis=1)[:, -10:].mean(axis=1)
        return np.asarray(-closest * logsumexp(seen.logits, axis=1))

    own, earlier = mahalanobis(unit_rows(train.features), labels), mahalanobis(unit_rows(train.block), labels)
    return {
        "softmax": lambda seen: -shares(seen).max(axis=1),
        "entropy": lambda seen: -(shares(seen) * np.log(shares(seen) + 1e-12)).sum(axis=1),
        "largest logit": lambda seen: -seen.logits.max(axis=1),
        "energy": lambda seen: -logsumexp(seen.logits, axis=1),
        "GEN": lambda seen: ((p := softmax(seen.logits, axis=1)) ** 0.1 * (1 - p) ** 0.1).sum(axis=1),
        "ViM": vim(train, weight, bias),
        "ReAct": lambda seen: -logsumexp(np.minimum(seen.features, clipped) @ weight.T + bias, axis=1),
        "NNGuide": guided,
        "neighbours": lambda seen: near(unit_rows(seen.features)),
        "mahalanobis": lambda seen: own(unit_rows(seen.features), False),
        "earlier block": lambda seen: earlier(unit_rows(seen.block), True),
    }


def vim(train: Seen, weight: Floats, bias: Floats) -> Callable[[Seen], Floats]:
    """Return what lies outside the principal part of the training features, beside the energy."""
    origin = -np.linalg.pinv(weight) @ bias
    centred = train.features - origin
    vectors = np.linalg.eigh(centred.T @ centred)[1]
    outside = vectors[:, : -min(8 * len(weight), len(vectors) // 2)]
    scale = train.logits.max(axis=1).mean() / np.linalg.norm(centred @ outside, axis=1).mean()
    return lambda seen: np.asarray(
        scale * np.linalg.norm((seen.features - origin) @ outside, axis=1) - logsumexp(seen.logits, axis=1)
    )


def mahalanobis(rows: Floats, labels: NDArray[np.int64]) -> Callable[[Floats, bool], Floats]:
    """Return the squared distance to the nearest class mean, less that to the mean of all where it is relative."""
    means = np.stack([rows[labels == label].mean(axis=0) for label in np.unique(labels)]).astype(np.float64)
    inverse, whole = (
        np.linalg.inv(ledoit_wolf(each, assume_centered=True)[0])
        for each in (rows - means[np.unique(labels, return_inverse=True)[1]], rows - rows.mean(axis=0))
    )

    def squared(gaps: Floats, by: Floats) -> Floats:
        return np.asarray(((gaps @ by) * gaps).sum(axis=1))

    def distance(asked: Floats, relative: bool) -> Floats:
        found = np.min([squared(asked - mean, inverse) for mean in means], axis=0)
        return np.asarray(found - squared(asked - rows.mean(axis=0), whole) if relative else found)

    return distance


if __name__ == "__main__":
    main()
