"""The images that a visitor looks after, and small pictures of them."""

from __future__ import annotations

import os
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from hfft.arguments import DataArguments
from hfft.curate.gather import Gathered, gather
from hfft.demo import EMBEDDED_DATA
from hfft.errors import DataError, HfftError
from hfft.inference.runs import recorded_images
from hfft.space.pictures import address_of
from hfft.space.service import Space
from hfft.space.trainings.queue import data_options
from hfft.space.trainings.sessions import Session
from hfft.space.trainings.visitors import BUILT_IN

GIVEN, OF_MODEL = "Those under Fine-tune", "Those of the model above"
PLACES = (GIVEN, OF_MODEL)
"""Which images can be looked after."""


def images_of(
    space: Space, session: Session, place: str, source: str, model: str | None
) -> tuple[Path | None, dict[str, Any]]:
    """Return the visitor's folder or list of the images, None where they are not the visitor's, and their options.

    Args:
        space: the models and the trainings.
        session: of the visitor.
        place: one of `PLACES`.
        source: of the images under Fine-tune, one of `SOURCES`.
        model: that the page shows.

    Raises:
        HfftError: there are none, or they are not on this machine.
    """
    if place == OF_MODEL:
        if model in session.own:
            images = session.own[model].images
            return images, data_options(images)
        return None, _of_model(space, session, model)
    given = space.trainings.given(session, source)
    if given is None and source != BUILT_IN:
        raise DataError("there are no images under Fine-tune yet; add some there first")
    folder = given.folder if given else None
    return folder, data_options(folder)


def _of_model(space: Space, session: Session, model: str | None) -> dict[str, Any]:
    place = space.source(session, model)
    run = space.run(session, model)
    if run is None:
        raise DataError(f"{model} has no run record, which would name its images; choose another model")
    if not run.record.solved.chooses:
        raise DataError(f"the images of {model} do not have one label each, which is what can be looked at here")
    if run.record.data.name == EMBEDDED_DATA.partition("==")[0]:
        return {}
    given = recorded_images(run.record)
    # A stranger's record may name any folder of this machine; a data set on the Hub is not worth a download.
    here = str(given.get("train_dir") or given.get("dataset_name") or "")
    if not Path(place).is_dir() or not os.path.exists(os.path.expanduser(here)):
        raise DataError(f"the images of {model} are not on this machine; add them under Fine-tune")
    return given


class Pictures:
    """Small pictures of a set of images, by split and name.

    Args:
        options: of `DataArguments`.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.address = lru_cache(maxsize=2048)(self._address)  # which goes with this set of images

    @cached_property
    def gathered(self) -> Gathered:
        """The images."""
        return gather(DataArguments(**self.options), None)

    @cached_property
    def _places(self) -> dict[tuple[str, str], int]:
        return {
            (split, file): row
            for split, named in self.gathered.splits.items()
            for row, file in enumerate(named.images.files)
        }

    @cached_property
    def classes(self) -> list[str]:
        """The labels that occur."""
        return sorted({name for named in self.gathered.splits.values() for name in named.names if name is not None})

    def find(self, image: str) -> tuple[str, str] | None:
        """Return split and name of an image that is known by name alone."""
        return next(((split, image) for split in self.gathered.splits if (split, image) in self._places), None)

    def _address(self, split: str, image: str, side: int) -> str:
        """Return a picture as an address of data, at most `side` pixels each way; empty where it cannot be read."""
        row = self._places.get((split, image))
        if row is None:
            return ""
        try:
            return address_of(self.gathered.sets[split].image(row, side), "JPEG", side)
        except (HfftError, OSError):
            return ""
