"""Stratified samples of images: every class keeps its share, no class is lost, and groups can stay whole."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfft.arguments import DataArguments
from hfft.data.images import ImageSet
from hfft.data.layout import composed
from hfft.errors import DataError
from hfft.wording import count_of

_ALONE = "no group: "  # begins the name of a group that is a single image


def split_off(train: ImageSet, share: float, labels: tuple[str, ...], seed: int) -> tuple[ImageSet, ImageSet]:
    """The images without a stratified share of them, and that share.

    Either side keeps at least one image of each class, where an image has one, which can make the share larger; of
    numbers two are held back, without which there is no R2. Where images belong to groups, these stay whole: then the
    training side alone is sure to have every class.

    Args:
        train: labelled images.
        share: between 0 and 1.
        labels: class names, in the order of the class indices.
        seed: of the draw.

    Raises:
        DataError: a class has a single image, or groups cannot be parted.
    """
    if train.groups is not None:
        rows = held_out_groups(train, share, seed)
        return train.select(np.setdiff1d(np.arange(len(train)), rows)), train.select(rows)
    sizes, size = Counter(train.strata.tolist()), len(train)
    lonely = [labels[index] for index, count in sorted(sizes.items()) if count < 2] if train.task.chooses else []
    if lonely:
        measured = len(lonely) * 2 > len(sizes) and all(label.isdecimal() for label in labels)
        raise DataError(
            f"{train.place}: the class {lonely[0]!r} has a single image, so none can be set aside for validation; "
            f"add images or give validation images{', or --task regression to estimate numbers' * measured}"
        )
    held, kept = (min(2, size // 2), 1) if train.task.ranges else (len(sizes), len(sizes))
    count = min(max(round(share * size), held), size - kept)
    if count < 1:
        raise DataError(
            f"{train.place}: {count_of(size, 'image is', 'images are')} too few to set some aside for validation; "
            "add images or give validation images"
        )
    rows = stratified(_strata(train, count), count, seed, keep_one=not train.task.ranges)
    rest = np.setdiff1d(np.arange(size), rows)
    return train.select(rest), train.select(rows)


def describe_share(train: ImageSet, held_out: ImageSet, share: float) -> list[str]:
    """Say where `split_off` set more aside than was asked for, and why."""
    total = len(train) + len(held_out)
    if len(held_out) <= round(share * total):
        return []
    reason = "fewer are too few to measure with" if train.task.ranges else "each class needs one"
    reason = reason if train.groups is None else "groups stay whole"
    return [f"Set aside: {len(held_out):,} of {total:,} images, more than --train_val_split {share:g}, as {reason}"]


def sample(images: ImageSet, most: int | None, seed: int) -> ImageSet:
    """At most so many images, stratified; all of them where `most` is None."""
    if most is None or most >= len(images):
        return images
    return images.select(stratified(_strata(images, most), most, seed))


def _strata(images: ImageSet, count: int) -> NDArray[np.int64]:
    """Return the strata that a sample of so many images is drawn by.

    Ranges of numbers are as few as the images of the sample: of more it would take the lowest, and none of the others.
    """
    strata = images.strata
    number = len(np.unique(strata))
    return strata * count // number if images.task.ranges and count < number else strata


def stratified(strata: NDArray[np.int64], count: int, seed: int, keep_one: bool = False) -> NDArray[np.int64]:
    """Rows of a sample that keeps the shares of strata, which are classes most often, sorted.

    Each class gets its share rounded down, and the largest remainders get the rest. Where `count` allows,
    no class is left without a row; scikit-learn's splitters round alike but may leave small classes empty,
    and they refuse a remainder that is smaller than the count of classes.

    Args:
        strata: of each row, shape (rows,).
        count: size of the sample, at most the count of rows that may be taken.
        seed: of the draw within each class.
        keep_one: leave at least one row of each class out of the sample.
    """
    classes, sizes = np.unique(strata, return_counts=True)
    quotas = _quotas(sizes, count, sizes - 1 if keep_one else sizes)
    # numpy promises RandomState the same stream in every version.
    random = np.random.RandomState(seed % 2**32)
    drawn = [random.permutation(np.flatnonzero(strata == c))[:q] for c, q in zip(classes, quotas, strict=True)]
    return np.sort(np.concatenate(drawn)).astype(np.int64)


COMPARED = 5_000
"""Most images of a split whose features are kept to compare others with, and most that are compared."""
DRAWN = 1_000
"""Most images of a split that are drawn as points."""


def compared_rows(labels: NDArray[Any], seed: int) -> NDArray[np.int64]:
    """Rows of at most `COMPARED` images in order, each class with its share of them."""
    return _at_most(COMPARED, labels, seed)


def drawn_rows(labels: NDArray[Any], seed: int) -> NDArray[np.int64]:
    """Rows of at most `DRAWN` images in order, some of `compared_rows`, each class with its share of them."""
    rows = compared_rows(labels, seed)
    return rows[_at_most(DRAWN, labels[rows], seed)]


def _at_most(most: int, labels: NDArray[Any], seed: int) -> NDArray[np.int64]:
    most = max(most, len(np.unique(labels)))
    return np.arange(len(labels)) if len(labels) <= most else stratified(labels, most, seed)


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


# Groups: images of one patient, burst or video ----------------------------------------------------------


def with_groups(images: ImageSet, data: DataArguments) -> ImageSet:
    """Return images with the groups that ``--group_pattern`` or ``--group_column`` gives them.

    Raises:
        DataError: there is no such column, or the pattern does not match the name of an image.
    """
    if data.group_column is not None and images.groups is None:
        raise DataError(
            f"{images.place}: class folders have no column {data.group_column!r} as --group_column says; tell groups "
            "by --group_pattern, from file names"
        )
    if data.group_pattern is None:
        return images
    pattern = re.compile(data.group_pattern)
    found = [(file, pattern.search(file)) for file in images.files]
    if missing := [file for file, match in found if match is None]:
        raise DataError(
            f"{images.place}: --group_pattern {data.group_pattern!r} matches nothing in {missing[0]}, and in "
            f"{len(missing)} names of {len(found)} in all; widen it"
        )
    groups = [match[1 if pattern.groups else 0] for _, match in found if match is not None]
    return replace(images, groups=named_groups(groups, images.name))


def named_groups(values: Sequence[Any], place: str) -> NDArray[np.str_]:
    """Return the name of each image's group, shape (images,); an image without one is a group of its own.

    Args:
        values: what names the group of each image; spaces around it and how a system writes its letters do not count.
        place: name of the set of images.
    """
    names = ["" if value is None or value != value else composed(str(value).strip()) for value in values]
    return np.array([name or f"{_ALONE}{place}, row {row}" for row, name in enumerate(names)])


def group_folds(
    labels: NDArray[np.int64], groups: NDArray[np.str_], count: int, seed: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield the rows to train on and the rows held out of each fold, with groups whole and class shares alike.

    Args:
        labels: label number of each image, shape (images,).
        groups: of each image, shape (images,).
        count: of folds; with fewer groups, or fewer images of each class, there are fewer.
        seed: of the order.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    largest = int(np.unique(labels, return_counts=True)[1].max())
    if largest < 2:  # nothing to be alike in
        labels, largest = np.zeros_like(labels), len(labels)
    count = min(count, largest, len(np.unique(groups)))
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed % 2**32)
    for train, held_out in splitter.split(np.zeros(len(labels)), labels, groups):
        yield train.astype(np.int64), held_out.astype(np.int64)


def held_out_groups(train: ImageSet, share: float, seed: int) -> NDArray[np.int64]:
    """Return rows of whole groups, about a share of all, without which every class still has an image.

    Of numbers no range needs to keep one: those of a patient lie close together.

    Raises:
        DataError: no choice of groups leaves every class an image.
    """
    assert train.groups is not None
    strata, number = train.strata, len(np.unique(train.groups))
    needed: set[int] = set() if train.task.ranges else set(strata.tolist())
    count = min(max(2, round(1 / share)), number)
    if count >= 2:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of classes with fewer images than folds
            folds = list(group_folds(strata, train.groups, count, seed))
        whole = [held_out for rest, held_out in folds if needed.issubset(strata[rest].tolist()) and len(held_out)]
        # The fold with images of the most classes, and of those the one whose size is nearest to the share.
        wanted = share * len(train)
        order = sorted(whole, key=lambda rows: (-len(np.unique(strata[rows])), abs(len(rows) - wanted)))
        if order:
            return np.sort(order[0])
    raise DataError(
        f"{train.place}: its {count_of(number, 'group')} cannot be parted so that every class keeps "
        "training images; add groups, or give validation images"
    )


def describe_groups(train: ImageSet, others: dict[str, ImageSet | None]) -> list[str]:
    """Say how many groups there are, and which of them are on two sides of a split that was given."""
    if train.groups is None:
        return []
    mine = set(train.groups.tolist())
    alone = sum(group.startswith(_ALONE) for group in mine)
    without = f"; {alone:,} of them are single images that name none" if alone else ""
    notes = [f"The training images are of {len(mine):,} groups{without}"]
    for name, other in others.items():
        theirs = set(other.groups.tolist()) if other is not None and other.groups is not None else set()
        if both := sorted(mine & theirs):
            notes.append(
                f"Warning: {len(both)} of the groups of the {name} images are trained on as well ({both[0]}): its "
                "accuracy is too good"
            )
    return notes
