"""The tab Label next: photos that would teach the model most, each labelled by one key press."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from hfft.space.curation.labelling import Labelling, LabelNext
from hfft.space.service import Space
from hfft.space.tabs.finetune import FinetuneTab
from hfft.space.trainings.sessions import Session
from hfft.space.trainings.visitors import UPLOADED, ZIP
from hfft.space.uploads import class_name
from hfft.space.views import curation as views
from hfft.space.views.html import note
from hfft.space.widgets import Name, plainly
from hfft.wording import count_of

KEYS = 9
"""Classes that have a key."""
_QUICK: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
_PRESSED: dict[str, Any] = {**_QUICK, "trigger_mode": "multiple"}  # or the page drops some, and says nothing of it
_GAP = "  "  # between a key and its class, on a button
_INTRODUCTION = """Drop in photos without labels. The model ranks them by what their labels would teach it: unsure
ones first, no two of a kind. Keys 1 to 9 label, 0 passes over, U takes back."""
_NOTHING = "No photo to label."


class LabelNextTab:
    """Rank photos, label them, and put them among the classes.

    Args:
        space: what answers.
        training: the tab whose classes the photos join.
    """

    def __init__(self, space: Space, training: FinetuneTab) -> None:
        self.space, self.training = space, training
        self.next = LabelNext(space)
        with gr.Tab("Label next", id="next") as self.tab:
            gr.Markdown(_INTRODUCTION)
            with gr.Row():
                with gr.Column(scale=1, min_width=280):
                    self.files = gr.File(file_count="multiple", label="Photos without labels", elem_id="next-files")
                    self.rank = gr.Button("Rank these photos", variant="primary", elem_id="next-rank")
                    self.status = gr.HTML("", label="Ranking", elem_id="next-status")
                with gr.Column(scale=2, min_width=320):
                    self.photo = gr.HTML(
                        views.photo("", "", _NOTHING),
                        label="Photo",
                        elem_id="next-photo",
                        js_on_load=views.KEYS,
                    )
                    self._answers()
                    self.join = gr.Button("Add the labelled photos to your classes", elem_id="next-join")
                    self.said = gr.HTML("", label="Labelled", elem_id="next-said")

    def _answers(self) -> None:
        self.turn = gr.Textbox("", label="Turn", visible=False)  # which photo is on show
        with gr.Row():
            self.classes = [
                gr.Button("", visible=False, elem_id=f"key-next-{key}", min_width=110) for key in range(1, KEYS + 1)
            ]
        with gr.Row():
            self.skip = gr.Button("Pass over (0)", elem_id="key-next-0", min_width=110)
            self.undo = gr.Button("Undo (U)", elem_id="key-next-u", min_width=110)
        with gr.Row(elem_classes="hf-level"):
            self.other = Name(
                [], label="Another class", info="Or a new one", allow_custom_value=True, elem_id="next-other"
            )
            self.give = gr.Button("Use this label", elem_id="next-give", min_width=110)

    def wire(self) -> None:
        """Let the buttons do what they say, and the classes follow the model."""
        model, classes = self.training.model, self.training.classes
        self.shown = [self.turn, self.photo, self.said, self.other, *self.classes]
        asked = [self.status, self.files, *self.shown]
        # Whoever waits in the queue is told so.
        long: dict[str, Any] = {**_QUICK, "concurrency_limit": self.space.options.max_waiting + 2}
        self.tab.select(plainly(self.there), model, [self.status, *self.shown], **long)
        model.change(plainly(self.renamed), model, self.shown, **_QUICK)
        self.rank.click(plainly(self.choose), [self.files, model], asked, **long)
        for button in self.classes:
            button.click(plainly(self.pressed), [button, self.turn, model], self.shown, **_PRESSED)
        self.give.click(plainly(self.named), [self.other, self.turn, model], self.shown, **_PRESSED)
        self.skip.click(plainly(self.passed), [self.turn, model], self.shown, **_PRESSED)
        self.undo.click(plainly(self.take_back), [self.turn, model], self.shown, **_PRESSED)
        joined = self.join.click(plainly(self.joined), model, self.shown, **_QUICK)
        joined.success(classes.there, [], [classes.source, classes.given], **_QUICK)

    def choose(self, paths: list[str] | None, model: str | None, request: gr.Request) -> Iterator[Any]:
        """Answer again and again with how far the ranking is, and at its end with the first photo."""
        session = self.space.visits.of(request.session_hash)
        self.next.choose(session, paths or [], model)
        for found in self.next.follow(session):
            yield note(found.status), None, *self._shown(session, model)

    def there(self, model: str | None, request: gr.Request) -> Iterator[Any]:
        """Answer with the photo that a visitor who comes again is asked about; while they are ranked, with how far."""
        session = self.space.visits.of(request.session_hash)
        if self.next.of(session) is None:
            yield "", *self._shown(session, model)
        for found in self.next.follow(session):
            yield note(found.status), *self._shown(session, model)

    def renamed(self, model: str | None, request: gr.Request) -> Any:
        """Answer with the photo that is asked about, and the classes of another model."""
        return self._shown(self.space.visits.of(request.session_hash), model)

    def pressed(self, button: str, turn: str, model: str | None, request: gr.Request) -> Any:
        """Give the photo the class that stands on a button: by now its key may be that of another one."""
        return self.named(button.partition(_GAP)[2], turn, model, request)

    def named(self, label: str | None, turn: str, model: str | None, request: gr.Request) -> Any:
        """Give the photo a class that has no key, or a new one."""
        name = class_name(label or "")
        return self._press(lambda found: found.answer(name), turn, model, request)

    def passed(self, turn: str, model: str | None, request: gr.Request) -> Any:
        """Pass the photo over."""
        return self._press(lambda found: found.answer(""), turn, model, request)

    def take_back(self, turn: str, model: str | None, request: gr.Request) -> Any:
        """Take the last answer back."""
        return self._press(Labelling.undo, turn, model, request)

    def joined(self, model: str | None, request: gr.Request) -> Any:
        """Put the labelled photos among the classes."""
        session = self.space.visits.of(request.session_hash)
        text = self.next.join(session)
        if session.source not in UPLOADED:  # the page shows what the photos have joined
            session.source = ZIP
        turn, photo, _, *others = self._shown(session, model)
        added = note(f"Added. {text} Train again under Fine-tune: only the new photos are computed.")
        return [turn, photo, added, *others]

    def _press(self, act: Callable[[Labelling], None], turn: str, model: str | None, request: gr.Request) -> Any:
        session = self.space.visits.of(request.session_hash)
        if not self.next.press(session, turn, act):
            gr.Warning(views.LATE)
        return self._shown(session, model)

    def _shown(self, session: Session, model: str | None) -> list[Any]:
        found = self.next.of(session)
        if found is None or found.photos is None:
            why, hidden = self.next.unfit(session, model), gr.update(visible=False)
            nothing = views.photo("", "", why or _NOTHING)
            return ["", nothing, "", gr.update(choices=[], value=None), *[hidden] * KEYS]
        classes = self.next.classes(session, model)
        buttons = [
            gr.update(
                value=f"{key}{_GAP}{classes[key - 1]}" if key <= len(classes) else "", visible=key <= len(classes)
            )
            for key in range(1, KEYS + 1)
        ]
        with found.lock:  # the turn is that of what is drawn
            return [*self._drawn(found), gr.update(choices=classes, value=None), *buttons]

    def _drawn(self, found: Labelling) -> list[str]:
        """Return the turn, the photo, and how many are labelled."""
        at, photos = found.at, found.photos or ()
        labelled = note(
            f"{len(found.labelled)} of {count_of(len(photos), 'photo')} labelled, not yet among your classes."
        )
        if at is None:
            photo = views.photo("", "", "Every photo was asked about. Add the labelled ones to your classes.")
        else:
            said = f"The model takes it for {photos[at].prediction} ({photos[at].probability:.0%})."
            photo = views.photo(self.next.picture(found), f"Photo {at + 1} of {len(photos)}", said)
        return [found.turn, photo, labelled]
