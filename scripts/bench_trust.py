"""Which images are called unknown: the distance from training images against softmax and energy.

``python scripts/bench_trust.py [--sets animals clipart digits fashion] [--seeds 0 1 2] [--json FILE]``
Fine-tunes the embedded default on a set without two of its classes, others with each seed, and asks of every score how
well it tells the test images of the other classes from

* the test images of the two classes, and the test images on their sides or upside down (near);
* photographs and pictures of scikit-image and scikit-learn, and the test images of another set (far).

It prints the area under the ROC curve, the share that hfft calls unknown, the share of the test images that it takes
for known, the expected calibration error before and after, and the share of the run's seconds that this knowledge took.
The threshold is chosen on validation images, up to 50 of each class beside 100 for training. Runs that the file holds
already are kept, so that it can be made in parts.
Both distances from the training images are hfft's own (`hfft.trust.distances`), of which Mahalanobis' is the default;
energy is Liu et al., "Energy-based out-of-distribution detection" (NeurIPS 2020). Needs ``scikit-image`` for the
photographs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _sets import Pools, add_places, readers_of
from numpy.typing import NDArray
from PIL import Image
from scipy.special import logsumexp

import hfft
from hfft.data.preprocessing import collate
from hfft.inference.classifier import Classifier
from hfft.models.features import head_reads
from hfft.report.record import read_record
from hfft.trust.distances import DISTANCES
from hfft.trust.known import unit_rows
from hfft.trust.selective import auroc

PICTURES = (
    *("astronaut", "brick", "camera", "clock", "coffee", "coins", "colorwheel", "grass", "gravel"),
    *("hubble_deep_field", "immunohistochemistry", "moon", "page", "retina", "rocket", "text"),
)
SPLITS = {"train": ("train", 100), "validation": ("development", 50), "test": ("test", 50)}
"""By split, the part of a set that it is taken from, and how many images of each class at most."""
SCORES = ("neighbours", "mahalanobis", "softmax", "energy")
FAR = ("digits", "animals")
"""What stands for another set: the first that is not the one asked about."""
_BATCH = 32


def main() -> None:
    """Measure every set and seed, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=["animals", "clipart", "digits", "fashion"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--image_size", type=int, default=128)
    add_places(parser)
    parser.add_argument("--json", type=Path, help="file for the measurements")
    options = parser.parse_args()
    readers = readers_of([*options.sets, *FAR], options)
    runs = json.loads(options.json.read_text())["runs"] if options.json and options.json.exists() else []
    for seed in options.seeds:
        for name in options.sets:
            if name not in readers or any((run["set"], run["seed"]) == (name, seed) for run in runs):
                continue
            other = next(kind for kind in FAR if kind != name)
            far = [image for images in readers[other]()["test"].values() for image in images[:10]]
            runs.append({"set": name, "seed": seed, **measure(readers[name](), far, seed, options.image_size)})
            print(json.dumps(runs[-1]), flush=True)
            if options.json:
                conditions = {"image_size": options.image_size, "torch": torch.__version__}
                options.json.write_text(json.dumps({"conditions": conditions, "runs": runs}, indent=1) + "\n")


def measure(pools: Pools, far: list[Image.Image], seed: int, image_size: int) -> dict[str, Any]:
    """Fine-tune without two classes, and score known and unknown images.

    Args:
        pools: images by part and class.
        far: of another set.
        seed: of the run; which classes are left out follows from it.
        image_size: in pixels.
    """
    labels = sorted(pools["train"])
    without = {labels[(2 * seed + each) % len(labels)] for each in (0, 1)}
    chosen = {
        split: {label: images[:most] for label, images in pools[part].items()} for split, (part, most) in SPLITS.items()
    }
    test = [image for label, images in chosen["test"].items() if label not in without for image in images]
    unknown = {"left out": [image for label in sorted(without) for image in chosen["test"][label]]}
    unknown |= {"turned": [image.rotate(90 * (1 + n % 3)) for n, image in enumerate(test)]}
    unknown |= {"pictures": pictures(), "another set": far}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write(chosen, without, folder)
        splits: dict[str, Any] = {f"{split}_dir": str(folder / split) for split in SPLITS}
        options: dict[str, Any] = {"image_size": image_size, "seed": seed, "figures": False, "disable_tqdm": True}
        hfft.finetune(output_dir=str(folder / "out"), say=lambda line: None, **splits, **options)
        classifier, record = hfft.load_classifier(folder / "out"), read_record(folder / "out" / "hfft.json")
        known = outputs(classifier, test)
        scores = {name: compare(classifier, known, outputs(classifier, images)) for name, images in unknown.items()}
    assert record.known is not None
    assert record.calibration is not None
    return {
        "accuracy": record.metrics["test"].values["accuracy"],
        "kept": record.known.kept,
        "calibration": [record.calibration.before, record.calibration.after],
        "seconds": {name: record.seconds[name] for name in ("total", "trust")},
        "unknown": scores,
    }


def write(chosen: Pools, without: set[str], folder: Path) -> None:
    """Write class folders of every split, without some classes."""
    for split, classes in chosen.items():
        for label in sorted(set(classes) - without):
            place = folder / split / label
            place.mkdir(parents=True)
            for number, image in enumerate(classes[label]):
                image.save(place / f"{number:04d}.png")


def pictures() -> list[Image.Image]:
    """Return photographs and pictures of other things, as packages carry them."""
    import skimage.data
    from sklearn.datasets import load_sample_image

    arrays = [np.asarray(getattr(skimage.data, name)()) for name in PICTURES]
    arrays += [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    scaled = [array if array.dtype == np.uint8 else (array * 255).astype(np.uint8) for array in arrays]
    return [Image.fromarray(array).convert("RGB") for array in scaled]


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
    neighbours, mahalanobis = (DISTANCES[name](trained.features, trained.labels) for name in SCORES[:2])
    scores: dict[str, Callable[[tuple[NDArray[Any], NDArray[Any]]], NDArray[Any]]] = {
        "neighbours": lambda found: neighbours(unit_rows(found[0])),
        "mahalanobis": lambda found: mahalanobis(unit_rows(found[0])),
        "softmax": lambda found: -classifier.probabilities(torch.from_numpy(found[1])).max(axis=1),
        "energy": lambda found: -logsumexp(found[1], axis=1),
    }
    assert tuple(scores) == SCORES
    areas = {name: round(auroc(score(unknown), score(known)) or 0.0, 4) for name, score in scores.items()}
    return {**areas, "called unknown": float(np.mean([each.unknown for each in trained.compare(unknown[0])]))}


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Draw means over seeds as two Markdown tables: how well scores tell unknown images, and each set's figures."""
    kinds = list(dict.fromkeys(run["set"] for run in runs))
    lines = [
        "| Trained on | Against | Nearest images | Mahalanobis | Softmax | Energy | Called unknown |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for kind in kinds:
        found = [run["unknown"] for run in runs if run["set"] == kind]
        for against in found[0]:
            areas = [f"{_mean(scores[against][name] for scores in found):.3f}" for name in SCORES]
            called = _mean(scores[against]["called unknown"] for scores in found)
            lines.append(f"| {kind} | {against} | {' | '.join(areas)} | {called:.0%} |")
    lines += [
        "",
        "| Trained on | Seeds | Test accuracy | Test images taken for known | Calibration error before | after | "
        "Share of the run's time |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for kind in kinds:
        of_kind = [run for run in runs if run["set"] == kind]
        before, after = (_mean(run["calibration"][place] for run in of_kind) for place in (0, 1))
        share = _mean(run["seconds"]["trust"] for run in of_kind) / _mean(run["seconds"]["total"] for run in of_kind)
        lines.append(
            f"| {kind} | {len(of_kind)} | {_mean(run['accuracy'] for run in of_kind):.3f} | "
            f"{_mean(run['kept'] for run in of_kind):.1%} | {before:.3f} | {after:.3f} | {share:.1%} |"
        )
    return "\n".join(lines)


def _mean(values: Iterable[float]) -> float:
    return statistics.mean(values)


if __name__ == "__main__":
    main()
