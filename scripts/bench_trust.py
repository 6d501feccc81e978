"""Which images are called unknown: the distance from training images against softmax, energy and Mahalanobis.

``python scripts/bench_trust.py [--seeds 0 1 2] [--image_size 128] [--json FILE]``
Fine-tunes the embedded default on eight of the ten animals, another two left out with each seed, and asks of every
score how well it tells the eight animals' test images from

* the two animals left out, and the test images on their sides or upside down (near);
* photographs and pictures of scikit-image and scikit-learn, and scikit-learn's digits (far).

It prints the area under the ROC curve, the share that hfft calls unknown, the share of the test images that it takes
for known, and the expected calibration error before and after. The threshold is chosen on validation images.
Mahalanobis distances are those of Lee et al., "A simple unified framework for detecting out-of-distribution samples and
adversarial attacks" (NeurIPS 2018), shrunk as Ledoit and Wolf do; energy is Liu et al., "Energy-based
out-of-distribution detection" (NeurIPS 2020). Needs ``scikit-image`` for the photographs.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.linalg import cho_factor, cho_solve
from scipy.special import logsumexp
from sklearn.covariance import ledoit_wolf

import hfft
from hfft.data.preprocessing import collate
from hfft.demo import embedded_images
from hfft.inference.classifier import Classifier
from hfft.models.features import head_reads
from hfft.report.record import read_record
from hfft.trust.known import KnownImages, neighbour_distance, unit_rows
from hfft.trust.selective import auroc

PICTURES = (
    *("astronaut", "brick", "camera", "clock", "coffee", "coins", "colorwheel", "grass", "gravel"),
    *("hubble_deep_field", "immunohistochemistry", "moon", "page", "retina", "rocket", "text"),
)
_BATCH = 32


def main() -> None:
    """Measure every seed and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--image_size", type=int, default=128)
    parser.add_argument("--json", type=Path, help="file for the measurements")
    options = parser.parse_args()
    runs = []
    for seed in options.seeds:
        runs.append(measure(seed, options.image_size))
        print(json.dumps(runs[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"torch": torch.__version__, "runs": runs}, indent=1) + "\n")


def measure(seed: int, image_size: int) -> dict[str, Any]:
    """Fine-tune without two animals, and score known and unknown images."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        left_out = write_animals(folder, {2 * seed % 10, (2 * seed + 1) % 10})
        splits: dict[str, Any] = {f"{split}_dir": str(folder / split) for split in ("train", "validation", "test")}
        options: dict[str, Any] = {"image_size": image_size, "seed": seed, "figures": False}
        hfft.finetune(output_dir=str(folder / "out"), **splits, **options)
        classifier, record = hfft.load_classifier(folder / "out"), read_record(folder / "out" / "hfft.json")
        test = [Image.open(file).convert("RGB") for file in sorted((folder / "test").rglob("*.png"))]
        unknown = {"left out": left_out, "rotated": [image.rotate(90 * (1 + n % 3)) for n, image in enumerate(test)]}
        unknown |= {"pictures": pictures(), "digits": digits()}
        known = outputs(classifier, test)
        scores = {name: compare(classifier, known, outputs(classifier, images)) for name, images in unknown.items()}
    return {
        "seed": seed,
        "accuracy": record.metrics["test"].values["accuracy"],
        "kept": record.known.kept,
        "calibration": [record.calibration.before, record.calibration.after],
        "seconds": record.seconds,
        "unknown": scores,
    }


def write_animals(folder: Path, without: set[int]) -> list[Image.Image]:
    """Write the embedded images as class folders, and return the test images of the animals that are left out."""
    left_out = []
    for split, rows in embedded_images().items():
        names = rows.features["label"].names
        for number, row in enumerate(rows):
            image = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
            if row["label"] in without:
                left_out += [image] * (split == "test")
                continue
            (folder / split / names[row["label"]]).mkdir(parents=True, exist_ok=True)
            image.save(folder / split / names[row["label"]] / f"{number}.png")
    return left_out


def pictures() -> list[Image.Image]:
    """Return photographs and pictures of other things, as packages carry them."""
    import skimage.data
    from sklearn.datasets import load_sample_image

    arrays = [np.asarray(getattr(skimage.data, name)()) for name in PICTURES]
    arrays += [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    scaled = [array if array.dtype == np.uint8 else (array * 255).astype(np.uint8) for array in arrays]
    return [Image.fromarray(array).convert("RGB") for array in scaled]


def digits(count: int = 100) -> list[Image.Image]:
    """Return handwritten digits of 8 x 8 pixels, enlarged."""
    from sklearn.datasets import load_digits

    grey = np.rint(load_digits().images[:count] * (255 / 16)).astype(np.uint8)
    return [Image.fromarray(image).convert("RGB").resize((128, 128)) for image in grey]


def outputs(classifier: Classifier, images: list[Image.Image]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return what the head reads and the logits, shapes (images, features) and (images, labels)."""
    features, logits = [], []
    for start in range(0, len(images), _BATCH):
        batch = collate([classifier.pixels(image) for image in images[start : start + _BATCH]])
        with head_reads(classifier.model, len(classifier.labels)) as reads:
            logits.append(classifier.logits(batch).numpy())
        features.append(reads[-1][1].float().cpu().numpy())
    return np.concatenate(features), np.concatenate(logits)


def compare(
    classifier: Classifier, known: tuple[NDArray[Any], NDArray[Any]], unknown: tuple[NDArray[Any], NDArray[Any]]
) -> dict[str, float]:
    """Return each score's area under the ROC curve, and the share that is called unknown."""
    trained = classifier.known
    assert trained is not None
    rows = trained.features.astype(np.float32)
    scores: dict[str, Callable[[tuple[NDArray[Any], NDArray[Any]]], NDArray[Any]]] = {
        "neighbours": lambda found: neighbour_distance(rows, trained.labels)(unit_rows(found[0])),
        "mahalanobis": lambda found: mahalanobis(trained, unit_rows(found[0])),
        "softmax": lambda found: -classifier.probabilities(torch.from_numpy(found[1])).max(axis=1),
        "energy": lambda found: -logsumexp(found[1], axis=1),
    }
    areas = {name: round(auroc(score(unknown), score(known)) or 0.0, 4) for name, score in scores.items()}
    return {**areas, "called unknown": float(np.mean([each.unknown for each in trained.compare(unknown[0])]))}


def mahalanobis(known: KnownImages, rows: NDArray[Any]) -> NDArray[np.float64]:
    """Return the squared Mahalanobis distance to the nearest class mean, with a covariance that all classes share."""
    trained = known.features.astype(np.float64)
    means = np.stack([trained[known.labels == label].mean(axis=0) for label in np.unique(known.labels)])
    covariance, _ = ledoit_wolf(trained - means[np.unique(known.labels, return_inverse=True)[1]], assume_centered=True)
    factor = cho_factor(covariance)
    gaps = rows[:, None] - means[None]
    solved = cho_solve(factor, gaps.reshape(-1, gaps.shape[-1]).T).T.reshape(gaps.shape)
    return np.asarray((gaps * solved).sum(axis=2).min(axis=1), np.float64)


if __name__ == "__main__":
    main()
