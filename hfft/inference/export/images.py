"""Real images that exports are held against PyTorch on, and that int8 is calibrated with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hfft.arguments import DataArguments, ExportArguments
from hfft.data.images import ImageSet, open_image
from hfft.data.load import load_image_sets
from hfft.data.sampling import sample
from hfft.errors import ArgumentError, HfftError, one_line
from hfft.inference.classifier import find_images
from hfft.inference.runs import own_sets

if TYPE_CHECKING:
    from hfft.inference.classifier import Classifier


@dataclass(frozen=True)
class RealImages:
    """Images that are opened one after the other, decoded whole.

    Args:
        count: how many.
        open: opens the one at a place, upright, in RGB.
        source: where they came from, for people.
        truth: label number of each, shape (count,); None where nobody knows, or they have none or several.
    """

    count: int
    open: Callable[[int], Image.Image]
    source: str
    truth: NDArray[np.int64] | None = None

    def __iter__(self) -> Iterator[Image.Image]:
        return (self.open(place) for place in range(self.count))


def held_out_images(classifier: Classifier, options: ExportArguments) -> RealImages:
    """Return images for the check: those given, else the run's test or validation images, else the embedded ones.

    Raises:
        DataError: images that were given cannot be read, or there are none.
    """
    if options.images is not None:
        return _files(options.images, options.check_images)
    try:
        sets, known = own_sets(classifier), True
    except HfftError:  # the run's images may be on another machine; the embedded ones are real images as well
        sets, known = load_image_sets(DataArguments(), seed=0), False
    split, images = ("test", sets.test) if sets.test is not None else ("validation", sets.validation)
    few = sample(images, options.check_images, seed=0)
    truth = few.labels if known and classifier.task.chooses else None
    return _of_set(few, f"{sets.name}, {split}", truth)


def training_images(classifier: Classifier, options: ExportArguments) -> RealImages:
    """Return images of the run's own training set, else those given.

    Raises:
        ArgumentError: the run's images cannot be read, and none were given.
    """
    try:
        sets = own_sets(classifier)
    except HfftError as error:
        if options.images is not None:
            return _files(options.images, options.calibration_images)
        raise ArgumentError(
            f"int8 is calibrated with the training images, which cannot be read here ({one_line(error)}); give "
            "images like them with --images FOLDER"
        ) from error
    return _of_set(sample(sets.train, options.calibration_images, seed=0), f"{sets.name}, train", None)


def _of_set(images: ImageSet, source: str, truth: NDArray[np.int64] | None) -> RealImages:
    return RealImages(len(images), images.image, source, truth)


def _files(place: str, most: int) -> RealImages:
    files = find_images([place])[:most]
    return RealImages(len(files), lambda row: open_image(files[row], files[row]), place)
