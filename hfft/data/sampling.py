"""Stratified samples of images: every class keeps its share, and no class is lost."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from hfft.data.images import ImageSet
from hfft.errors import DataError


def split_off(train: ImageSet, share: float, labels: tuple[str, ...], seed: int) -> tuple[ImageSet, ImageSet]:
    """The images without a stratified share of them, and that share.

    Either side keeps at least one image of each class.

    Args:
        train: labelled images.
        share: between 0 and 1.
        labels: class names, in the order of the class indices.
        seed: of the draw.

    Raises:
        DataError: a class has a single image.
    """
    lonely = [labels[index] for index, count in sorted(Counter(train.labels.tolist()).items()) if count < 2]
    if lonely:
        raise DataError(
            f"{train.place}: the class {lonely[0]!r} has a single image, so none can be set aside for validation; "
            "add images or give validation images"
        )
    count = min(max(round(share * len(train)), len(labels)), len(train) - len(labels))
    rows = stratified(train.labels, count, seed, keep_one=True)
    rest = np.setdiff1d(np.arange(len(train)), rows)
    return train.select(rest), train.select(rows)


def sample(images: ImageSet, most: int | None, seed: int) -> ImageSet:
    """At most so many images, stratified; all of them where `most` is None."""
    if most is None or most >= len(images):
        return images
    return images.select(stratified(images.labels, most, seed))


def stratified(labels: NDArray[np.int64], count: int, seed: int, keep_one: bool = False) -> NDArray[np.int64]:
    """Rows of a sample that keeps the class shares, sorted.

    Each class gets its share rounded down, and the largest remainders get the rest. Where `count` allows,
    no class is left without a row; scikit-learn's splitters round alike but may leave small classes empty,
    and they refuse a remainder that is smaller than the count of classes.

    Args:
        labels: class index of each row, shape (rows,).
        count: size of the sample, at most the count of rows that may be taken.
        seed: of the draw within each class.
        keep_one: leave at least one row of each class out of the sample.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    quotas = _quotas(sizes, count, sizes - 1 if keep_one else sizes)
    # numpy promises RandomState the same stream in every version.
    random = np.random.RandomState(seed % 2**32)
    drawn = [random.permutation(np.flatnonzero(labels == c))[:q] for c, q in zip(classes, quotas, strict=True)]
    return np.sort(np.concatenate(drawn)).astype(np.int64)


def _quotas(sizes: NDArray[np.int64], count: int, high: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows to take of each class, `count` in all, none above `high`."""
    shares = sizes * (count / sizes.sum())
    low = np.full(len(sizes), 1 if count >= len(sizes) else 0)
    quotas: NDArray[np.int64] = np.clip(np.floor(shares).astype(np.int64), low, high)
    while missing := count - int(quotas.sum()):
        step = 1 if missing > 0 else -1
        room = quotas < high if step > 0 else quotas > low
        quotas[int(np.where(room, (shares - quotas) * step, -np.inf).argmax())] += step
    return quotas
