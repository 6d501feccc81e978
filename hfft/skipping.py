"""``--on_bad_image skip``: leave out what cannot be read, and say which files those are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hfft.data import ImageSets
from hfft.errors import DataError
from hfft.images import ImageSet
from hfft.look import look_at_all


def without_bad_images(sets: ImageSets) -> ImageSets:
    """Return the sets without the images that cannot be read; their files are named in ``skipped``.

    Every image is decoded once for this, with all cores.

    Raises:
        DataError: a class is left without training images, or a split without any.
    """
    train, skipped = _readable(sets.train)
    validation, more = _readable(sets.validation)
    skipped += more
    test = sets.test
    if test is not None:
        test, more = _readable(test)
        skipped += more
    lost = sorted({*range(len(sets.labels))} - set(train.labels.tolist()))
    if lost:
        raise DataError(
            f"{sets.train.place}: no training image of the class {sets.labels[lost[0]]!r} can be read; "
            "see hfft check, and repair them or leave the class out"
        )
    return replace(sets, train=train, validation=validation, test=test, skipped=tuple(skipped))


def _readable(images: ImageSet) -> tuple[ImageSet, list[str]]:
    bad = [look for look in look_at_all(images) if look.problem]
    if not bad:
        return images, []
    if len(bad) == len(images):
        raise DataError(f"{images.place}: not one of its {len(images)} images can be read; see hfft check")
    rows = np.setdiff1d(np.arange(len(images)), [look.row for look in bad])
    return images.select(rows), [images.files[look.row] for look in bad]
