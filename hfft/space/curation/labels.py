"""The label desk of a visit: look for wrong labels, decide about each, and train again on the new list."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hfft.curate.desk import Desk
from hfft.curate.fixes import Fixed, write_fixed
from hfft.errors import DataError, HfftError
from hfft.output_folder import RECORD
from hfft.report.record import read_record
from hfft.report.typed_json import build
from hfft.space.curation.images import Pictures, images_of
from hfft.space.curation.review import Review
from hfft.space.service import Space
from hfft.space.trainings.queue import Errand, Job, Training, found_by
from hfft.space.trainings.sessions import Session
from hfft.space.trainings.visitors import cache_of
from hfft.space.uploads import class_name

KEY = "labels"
"""Of this desk among a session's."""


@dataclass
class LabelDesk:
    """What a visit keeps of its label desk.

    Args:
        pictures: of the images that are looked at.
        looking: the search that was started last.
        review: its findings with the decisions; None before it has ended.
        lock: held while something is decided or drawn.
    """

    pictures: Pictures
    looking: Training
    review: Review | None = None
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False, compare=False)

    @property
    def search(self) -> str:
        """Name of the search, which no other one of the visit has."""
        return self.looking.job.folder.name

    @property
    def turn(self) -> str:
        """What the page keeps of the finding that is looked at, and sends with each press."""
        return f"{self.search}/{self.review.at if self.review else ''}"

    def collect(self) -> None:
        """Take in what the search has found, once it has ended, whether or not anybody followed it."""
        with self.lock:
            if self.review is None and self.looking.state == "done":
                self.review = Review(build(Desk, found_by(self.looking), "the findings"))

    def named(self, text: str) -> str:
        """Return the label that a visitor means: one of the images' own as it is, a new one as a class may be called.

        Raises:
            DataError: a class cannot be called that.
        """
        text = text.strip()
        return text if text in ("", *self.pictures.classes) else class_name(text)


class LabelDesks:
    """The label desks of all visits.

    Args:
        space: the models and the trainings.
    """

    def __init__(self, space: Space) -> None:
        self.space = space

    def of(self, session: Session) -> LabelDesk | None:
        """Return the desk of a visit, with the findings as soon as there are some; None before a search."""
        desk: LabelDesk | None = session.desks.get(KEY)
        if desk is not None:
            desk.collect()
        return desk

    def review(self, session: Session) -> Review:
        """Return the findings of a visit.

        Raises:
            DataError: there are none yet.
        """
        desk = self.of(session)
        if desk is None or desk.review is None:
            raise DataError("look for wrong labels first")
        return desk.review

    def look(self, session: Session, place: str, source: str, model: str | None) -> Training:
        """Begin to look for wrong labels.

        Args:
            session: of the visitor.
            place: one of `hfft.space.curation.images.PLACES`.
            source: of the images under Fine-tune.
            model: that the page shows; the features are those of its base, which has not seen the labels.

        Raises:
            HfftError: there are no such images, or something else is under way.
        """
        trainings, before = self.space.trainings, self.of(session)
        if before is not None and not before.looking.ended:
            raise HfftError("labels are being looked at already; wait for it, or cancel it")
        images, options = images_of(self.space, session, place, source, model)
        base = trainings.base(self.space.source(session, model) if model else None)
        folder = trainings.folder(session, "labels")
        told = {"data": options, "model": base, "cache_dir": str(cache_of(folder))}
        looking = trainings.queue.submit(Errand(folder, "labels", told))
        session.desks[KEY], session.looked = LabelDesk(Pictures(options), looking), images
        return looking

    def follow(self, session: Session) -> Iterator[LabelDesk]:
        """Yield the desk again and again until its search has ended, and then once more with the findings."""
        desk = self.of(session)
        if desk is None:
            return
        for _ in self.space.trainings.queue.follow(desk.looking):
            session.seen = time.monotonic()
            if not desk.looking.ended:
                yield desk
        desk.collect()
        yield desk

    def press(self, session: Session, turn: str, act: Callable[[Review], None]) -> bool:
        """Do what a press asks for, and return whether it was done.

        A page is behind by the time that an answer takes, and by all that another page of the same visit does. So what
        was pressed for a finding that is not the current one any more is not done: it would be done to one that nobody
        has seen.

        Args:
            session: of the visitor.
            turn: that the page showed, see `LabelDesk.turn`.
            act: what to do.

        Raises:
            DataError: there are no findings, or `act` says so.
        """
        review, desk = self.review(session), self.of(session)
        assert desk is not None
        with desk.lock:
            if turn != desk.turn:
                return False
            act(review)
            return True

    def choose(self, session: Session, turn: str, number: int) -> bool:
        """Look at a finding, whichever was looked at before; return whether it is one of those that the page showed.

        Raises:
            DataError: there are no findings.
        """
        review, desk = self.review(session), self.of(session)
        assert desk is not None
        with desk.lock:
            if turn.rpartition("/")[0] != desk.search:
                return False
            review.look(number)
            return True

    def cancel(self, session: Session) -> None:
        """End the search."""
        if (desk := self.of(session)) is not None:
            self.space.trainings.queue.cancel(desk.looking)

    def sheet(self, session: Session) -> Path:
        """Write the decisions as a CSV that ``hfft labels --apply`` reads, and return its path."""
        path = self.space.trainings.folder(session, "decisions") / "decisions.csv"
        path.write_text(self.review(session).csv(), encoding="utf-8", errors="surrogateescape")
        return path

    def apply(self, session: Session) -> Fixed:
        """Write a new list with the decisions applied; no image is moved, changed or deleted.

        Raises:
            HfftError: nothing is decided, or the decisions contradict each other.
        """
        review, desk = self.review(session), self.of(session)
        assert desk is not None
        if not review.decisions:
            raise DataError("decide about at least one finding first: keep, relabel or drop")
        sheet, gathered = self.sheet(session), desk.pictures.gathered
        files = all(value["bytes"] is None for images in gathered.sets.values() for value in images.values())
        try:
            return write_fixed(gathered, sheet, sheet.with_name("fixed.csv" if files else "fixed.parquet"))
        except DataError as error:  # whose text names the file on this server
            raise DataError(str(error).replace(str(sheet), "your decisions")) from error

    def train_again(self, session: Session, policy: str, epochs: float, model: str | None) -> tuple[Fixed, Training]:
        """Apply the decisions and train on the new list, whose images' activations are in the cache.

        Raises:
            HfftError: as of `apply`, or a training is under way.
        """
        fixed = self.apply(session)
        session.lists[fixed.target] = session.looked
        source = self.space.source(session, model) if model else None
        return fixed, self.space.trainings.start_on(session, fixed.target, policy, epochs, source)


def computed_anew(training: Training) -> tuple[int, int]:
    """Return how many images of a training that is done went through the frozen part, and how many there were."""
    job = training.job
    assert isinstance(job, Job)
    record: Any = read_record(job.folder / "run" / RECORD)
    images = sum(record.data.counts.values())
    return images - record.cache.hits, images
