"""What stands behind the three boxes of the first screen: the classes, the cut, and an answer from before training."""

from __future__ import annotations

import io
import os
from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from hfft.arguments import DataArguments
from hfft.data.images import upright_rgb
from hfft.demo import embedded_images
from hfft.errors import DataError, HfftError
from hfft.explain.cuts import CutChart
from hfft.inference.classifier import Prediction
from hfft.space.models import Loaded
from hfft.space.pictures import address_of
from hfft.space.service import Space
from hfft.space.trainings.sessions import Session
from hfft.space.trainings.visitors import BUILT_IN
from hfft.space.uploads import Limits, open_upload
from hfft.space.views.cards import ClassCard
from hfft.space.views.cut import Wanted, cut_value

_PICTURES = 6  # on each card
_SIDE = 88  # pixels of a picture's shorter side, twice what is drawn


class FirstScreen:
    """Answers for the three boxes.

    Args:
        space: the models, the visits and the trainings.
    """

    def __init__(self, space: Space) -> None:
        self.space = space

    def cards(self, session: Session, source: str) -> list[ClassCard]:
        """Return a card for each class of the images that a visitor trains on."""
        by_class: dict[str, dict[str, int]] = defaultdict(dict)
        for (split, label), count in self.space.trainings.counts(session, source).items():
            by_class[label][split] = count
        given = self.space.trainings.given(session, source)
        embedded = _embedded_pictures() if source == BUILT_IN else {}
        return [
            ClassCard(
                label,
                counts,
                _pictures(given.folder / "train" / label, self.space.limits) if given else embedded[label],
            )
            for label, counts in sorted(by_class.items())
        ]

    def chart(self, session: Session, model: str | None) -> CutChart:
        """Return where the model that a training begins from can be cut.

        Raises:
            HfftError: there is no such model (any more), or its anatomy is not known.
        """
        return self._origin(session, model).cuts()

    def cut(self, session: Session, source: str, policy: str, epochs: float, model: str | None) -> dict[str, Any]:
        """Return what the cut box draws.

        Args:
            session: of the visitor.
            source: one of `SOURCES`.
            policy: that is chosen.
            epochs: that are chosen.
            model: that the page shows; a training begins from its base.

        Raises:
            HfftError: there is no such model (any more), or its anatomy is not known.
        """
        trainings = self.space.trainings
        given = trainings.given(session, source)
        base = trainings.base(self.space.source(session, model) if model else None)
        counts = trainings.counts(session, source)
        wanted = Wanted(
            policy,
            epochs,
            *_train_and_validation(counts),
            classes=len({label for _, label in counts}),
            options=_options(base, None if source == BUILT_IN else "my-images"),
        )
        folder = given.folder if given else None
        tried = [one for one in session.tried if (one.images, one.base) == (folder, base)]
        busy = session.training is not None and not session.training.ended
        return cut_value(self.chart(session, model), wanted, tried, busy)

    def answers(
        self, session: Session, model: str | None, picture: str | io.BytesIO
    ) -> tuple[Prediction, Prediction | None]:
        """Return what is said of a picture before training, and after it where there is a model.

        Before training the pretrained model answers, with the classes that it came with; where it is not here any
        more, its answer is an error that says so.

        Args:
            session: of the visitor.
            model: that the page shows.
            picture: an uploaded file, or its bytes.

        Raises:
            HfftError: a model cannot be loaded, or the picture cannot be used.
        """
        after = _answer(self.space.loaded(session, model), picture, self.space.limits) if model else None
        try:
            base = self.space.trainings.base(self.space.source(session, model) if model else None)
            before = _answer(self.space.models.pretrained(base), picture, self.space.limits)
        except HfftError as error:
            if after is None:
                raise
            before = Prediction("", error=str(error))
        return before, after

    def _origin(self, session: Session, model: str | None) -> Loaded:
        return self.space.loaded(session, model) if model else self.space.models.pretrained(None)


def _answer(loaded: Loaded, picture: str | io.BytesIO, limits: Limits) -> Prediction:
    (found,) = loaded.classify([open_upload(picture, limits, least=loaded.classifier.pixels.least)])
    if found.error:
        raise DataError(found.error)
    return found


def _train_and_validation(counts: Any) -> tuple[int, int]:
    """Return how many images are trained on and validated on; a share is held back where none are given for it."""
    train = sum(count for (split, _), count in counts.items() if split == "train")
    validation = sum(count for (split, _), count in counts.items() if split == "validation")
    held_back = 0 if validation else round(train * DataArguments().train_val_split)
    return train - held_back, validation + held_back


def _options(base: str | None, folder: str | None) -> tuple[str, ...]:
    """Return the options of the command that trains the same; of a local folder only its name is told."""
    model = () if base is None else (f"--model_name_or_path {Path(base).name if os.path.isdir(base) else base}",)
    return (*model, *(() if folder is None else (f"--train_dir {folder}",)))


def _pictures(folder: Path, limits: Limits) -> list[str]:
    """Return the first images of a class as addresses of data."""
    files = sorted(folder.iterdir())[:_PICTURES] if folder.is_dir() else []
    return [_picture(str(file), limits) for file in files]


@lru_cache(maxsize=1024)
def _picture(file: str, limits: Limits) -> str:
    """Return a small picture as an address of data; a file's name is never used twice, so what is known stays true."""
    return address_of(open_upload(file, limits, least=_SIDE), "JPEG", 2 * _SIDE)


@lru_cache(maxsize=1)
def _embedded_pictures() -> dict[str, list[str]]:
    """Return the first training images of each of the embedded animals."""
    images = embedded_images()["train"]
    names = images.features["label"].names
    found: dict[str, list[str]] = defaultdict(list)
    for row in images:
        pictures = found[names[row["label"]]]
        if len(pictures) < _PICTURES:
            pictures.append(address_of(upright_rgb(Image.open(io.BytesIO(row["image"]["bytes"]))), side=2 * _SIDE))
    return found
