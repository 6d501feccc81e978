"""The tab Labels: findings one by one with keep, relabel, drop and undo, and a training on the new list."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from hfft.space.curation.images import GIVEN, PLACES
from hfft.space.curation.labels import LabelDesk, LabelDesks, computed_anew
from hfft.space.curation.review import Decision, Review
from hfft.space.service import Space
from hfft.space.tabs.finetune import FinetuneTab
from hfft.space.trainings.sessions import Session
from hfft.space.trainings.visitors import DEFAULT_POLICY
from hfft.space.views import curation as views
from hfft.space.views.html import note, progress
from hfft.space.widgets import Name, plainly
from hfft.wording import count_of

_QUICK: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
_PRESSED: dict[str, Any] = {**_QUICK, "trigger_mode": "multiple"}  # or the page drops some, and says nothing of it
_INTRODUCTION = """Each label is checked against all other images, never against itself. A label that they contradict is
a reason to look, not proof. No image is moved or deleted: your decisions make a new list."""


class LabelsTab:
    """Look for wrong labels, decide about each finding, and train again.

    Args:
        space: what answers.
        training: the tab whose images, cut and epochs are used.
    """

    def __init__(self, space: Space, training: FinetuneTab) -> None:
        self.space, self.training = space, training
        self.desks = LabelDesks(space)
        with gr.Tab("Labels", id="labels") as tab:
            gr.Markdown(_INTRODUCTION)
            with gr.Row():
                self.place = gr.Radio(list(PLACES), value=GIVEN, label="Images", elem_id="labels-images")
                self.look = gr.Button("Look for wrong labels", variant="primary", elem_id="labels-look")
                self.stop = gr.Button("Cancel", variant="stop", visible=False)
            self.status = gr.HTML("", label="Search", elem_id="labels-status")
            with gr.Row(visible=False) as self.desk:
                with gr.Column(scale=2, min_width=320):
                    self._decisions()
                with gr.Column(scale=3, min_width=320):
                    self.gallery = gr.HTML(
                        "", label="Findings", elem_id="labels-gallery", js_on_load=views.PICK + views.KEYS
                    )
                    self.said = gr.HTML("", label="Decided", elem_id="labels-said")
                    self.again = gr.Button("Train again on the new list", variant="primary", elem_id="labels-again")
                    self.sheet = gr.DownloadButton("Write the decisions (CSV)", elem_id="labels-sheet")
                    self.trained = gr.HTML("", label="Training", elem_id="labels-trained")
        self._wire(tab)

    def _decisions(self) -> None:
        self.finding = gr.HTML("", label="Finding", elem_id="labels-finding", min_height=300)
        with gr.Row():
            self.keep = gr.Button("Keep (K)", elem_id="key-labels-k", min_width=90)
            self.relabel = gr.Button("Relabel (R)", elem_id="key-labels-r", min_width=90, variant="primary")
            self.drop = gr.Button("Drop (D)", elem_id="key-labels-d", min_width=90)
            self.undo = gr.Button("Undo (U)", elem_id="key-labels-u", min_width=90)
        self.label = Name([], label="Label to give", allow_custom_value=True, elem_id="labels-label")
        self.turn = gr.Textbox("", label="Turn", visible=False)  # which finding is on show

    def _wire(self, tab: gr.Tab) -> None:
        box, classes = self.training.box, self.training.classes
        # Whoever waits in the queue is told so.
        long: dict[str, Any] = {**_QUICK, "concurrency_limit": self.space.options.max_waiting + 2}
        self.seen = [self.turn, self.finding, self.label, self.gallery, self.said]
        searched = [self.status, self.look, self.stop, self.desk, *self.seen]
        chosen = [self.place, classes.source, self.training.model]
        self.look.click(plainly(self.search), chosen, searched, **long)
        tab.select(plainly(self.there), None, searched, **long)
        self.stop.click(self.cancel_search, None, self.status, **_QUICK)
        self.keep.click(plainly(self.decide_keep), self.turn, self.seen, **_PRESSED)
        self.relabel.click(plainly(self.decide_relabel), [self.label, self.turn], self.seen, **_PRESSED)
        self.drop.click(plainly(self.decide_drop), self.turn, self.seen, **_PRESSED)
        self.undo.click(plainly(self.take_back), self.turn, self.seen, **_PRESSED)
        self.gallery.select(plainly(self.choose), self.turn, self.seen, **_PRESSED)
        self.sheet.click(plainly(self.write), None, self.sheet, **_QUICK)
        trained = [self.trained, self.training.model]
        self.again.click(plainly(self.train), [box.policy, box.epochs, self.training.model], trained, **long)

    def search(self, place: str, source: str, model: str | None, request: gr.Request) -> Iterator[Any]:
        """Answer again and again with how far the search is, and at its end with the first finding."""
        session = self.space.visits.of(request.session_hash)
        self.desks.look(session, place, source, model)
        yield from self._followed(session)

    def there(self, request: gr.Request) -> Iterator[Any]:
        """Answer with what a visitor who comes again has found and decided, and as `search` while that goes on."""
        session = self.space.visits.of(request.session_hash)
        if self.desks.of(session) is None:
            yield self._searched(session)
        yield from self._followed(session)

    def _followed(self, session: Session) -> Iterator[Any]:
        for _ in self.desks.follow(session):
            yield self._searched(session)

    def _searched(self, session: Session) -> Any:
        desk = self.desks.of(session)
        busy = desk is not None and not desk.looking.ended
        found = desk is not None and desk.review is not None
        buttons = gr.update(visible=not busy), gr.update(visible=busy), gr.update(visible=found)
        return note(_searching(desk)) if desk else "", *buttons, *self._shown(session)

    def cancel_search(self, request: gr.Request) -> str:
        """Answer with what stands where the search was."""
        self.desks.cancel(self.space.visits.of(request.session_hash))
        return note("Cancelled.")

    def decide_keep(self, turn: str, request: gr.Request) -> Any:
        """Keep the image as it is."""
        return self._decide(turn, Decision("keep"), request)

    def decide_relabel(self, label: str | None, turn: str, request: gr.Request) -> Any:
        """Give the image another label."""
        desk = self.desks.of(self.space.visits.of(request.session_hash))
        return self._decide(turn, Decision("relabel", desk.named(label or "") if desk else ""), request)

    def decide_drop(self, turn: str, request: gr.Request) -> Any:
        """Leave the image out of the new list."""
        return self._decide(turn, Decision("drop"), request)

    def take_back(self, turn: str, request: gr.Request) -> Any:
        """Take the last decision back."""
        return self._press(turn, Review.undo, request)

    def choose(self, turn: str, event: gr.EventData, request: gr.Request) -> Any:
        """Look at the finding that was pressed."""
        session = self.space.visits.of(request.session_hash)
        return self._answer(session, self.desks.choose(session, turn, int(event.number)))

    def write(self, request: gr.Request) -> str:
        """Answer with the decisions as a file."""
        return str(self.desks.sheet(self.space.visits.of(request.session_hash)))

    def train(self, policy: str | None, epochs: float, model: str | None, request: gr.Request) -> Iterator[Any]:
        """Answer with the progress of a training on the new list, and with the models that there are then."""
        session = self.space.visits.of(request.session_hash)
        fixed, training = self.desks.train_again(session, policy or DEFAULT_POLICY, epochs, model)
        counts = f"{count_of(fixed.images, 'image')}; {fixed.dropped:,} dropped, {fixed.relabelled:,} relabelled."
        for now in self.space.trainings.follow(session, training):
            done, said = now.state == "done", f"The new list: {counts}"
            if done:
                anew, images = computed_anew(now)
                said += f" {anew:,} of {count_of(images, 'image')} went through the frozen part anew."
            models = gr.update(choices=self.space.choices(session), value=self.space.current(session))
            yield progress(now) + note(said), models if done else gr.skip()

    def _decide(self, turn: str, decision: Decision, request: gr.Request) -> Any:
        return self._press(turn, lambda review: review.decide(decision), request)

    def _press(self, turn: str, act: Callable[[Review], None], request: gr.Request) -> Any:
        session = self.space.visits.of(request.session_hash)
        return self._answer(session, self.desks.press(session, turn, act))

    def _answer(self, session: Session, done: bool) -> Any:
        if not done:
            gr.Warning(views.LATE)
        return self._shown(session)

    def _shown(self, session: Session) -> Any:
        desk = self.desks.of(session)
        if desk is None or desk.review is None:
            return "", "", gr.skip(), "", ""
        with desk.lock:  # the turn is that of what is drawn
            review, pictures = desk.review, desk.pictures
            current = review.current
            label = gr.update(choices=pictures.classes, value=current.suggestion or None if current else None)
            drawn = views.finding(review, pictures), label, views.gallery(review, pictures), note(review.describe())
            return desk.turn, *drawn


def _searching(desk: LabelDesk) -> str:
    looking = desk.looking
    return f"{looking.state.capitalize()}. {looking.message}"
