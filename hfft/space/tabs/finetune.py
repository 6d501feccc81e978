"""The tab Fine-tune, the first screen: classes, cut and answers in three boxes, and the training that joins them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from hfft.space.first_screen import FirstScreen
from hfft.space.service import Space
from hfft.space.tabs.classes_box import ClassesBox
from hfft.space.tabs.cut_box import CutBox
from hfft.space.tabs.try_box import TryBox
from hfft.space.trainings.queue import Training
from hfft.space.trainings.sessions import Session
from hfft.space.trainings.visitors import DEFAULT_POLICY
from hfft.space.views import html as views
from hfft.space.views.curves import curve_plot, split_curves
from hfft.space.views.cut import no_cut
from hfft.space.widgets import cleared, plainly

_QUICK: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


class FinetuneTab:
    """Choose images and a cut, watch the training, try the model and take it along.

    Args:
        space: what answers.
        model: the chooser that a finished training adds its model to.

    Attributes:
        classes: the first box.
    """

    def __init__(self, space: Space, model: gr.Dropdown) -> None:
        self.space = space
        self.model = model
        screen = FirstScreen(space)
        with gr.Tab("Fine-tune", id="finetune"):
            with gr.Row(elem_classes="hf-boxes"):
                with gr.Column(min_width=300, elem_classes="hf-box"):
                    self.classes = ClassesBox(space, screen)
                with gr.Column(min_width=300, elem_classes="hf-box"):
                    self.box = CutBox(space, screen, self.classes.source.value, model.value)
                with gr.Column(min_width=300, elem_classes="hf-box"):
                    self.preview = TryBox(space, screen, model)
            with gr.Row():
                self.loss = curve_plot("Loss (cross-entropy)")
                self.accuracy = curve_plot("Accuracy")
            gr.Markdown(self._limits(), elem_classes="hf-note")
        box = self.box
        self.chosen = [self.classes.source, box.policy, box.epochs, model]
        self.outputs = [box.status, self.loss, self.accuracy, model, box.get, box.start, box.stop, box.cut]

    def _limits(self) -> str:
        limits, options = self.space.limits, self.space.options
        return (
            "What is trained here gives an image one label. "
            f"At most {limits.images:,} images in {limits.classes} classes, {limits.megabytes} MB and "
            f"{options.max_minutes:g} minutes for each training. Images and models stay on this server for your "
            f"visit, so that you can train on the same images again, and at most {options.keep_minutes} minutes longer."
        )

    def wire(self) -> None:
        """Let the buttons do what they say, and the boxes follow images, cut and model."""
        self.preview.wire()
        box, classes = self.box, self.classes
        box.stop.click(self.cancel, None, box.status, api_name="cancel", concurrency_limit=None, show_progress="hidden")
        box.get.click(plainly(self.download), self.model, box.get, api_name="download")
        cleared(self.model.change, [box.cut, box.get], [no_cut(""), gr.update(visible=False)])
        self.model.change(self.offer_download, self.model, box.get, **_QUICK)
        # One event each, whatever changes: no answer comes after that to a later choice.
        latest: dict[str, Any] = {**_QUICK, "trigger_mode": "always_last"}
        gr.on(classes.changed, classes.drawn, classes.source, classes.cards, **latest)
        changed = [*classes.changed, self.model.change, box.policy.input, box.epochs.change]
        gr.on(changed, self.cut, self.chosen, box.cut, **latest)
        training: dict[str, Any] = {
            "trigger_mode": "multiple",  # a cancelled training may still be leaving when the next one is started
            "concurrency_limit": self.space.options.max_waiting + 2,
            "show_progress": "hidden",
        }
        box.start.click(plainly(self.finetune), self.chosen, self.outputs, api_name="finetune", **training)
        box.cut.release(plainly(self.let_go), self.chosen, self.outputs, api_visibility="private", **training)

    def resume(self, arrived: Any) -> None:
        """Show what a visitor who loads the page again has given, and the training that goes on."""
        box, classes = self.box, self.classes
        there = arrived.then(classes.there, [], [classes.source, classes.given], **_QUICK).then(
            None, classes.source, classes.source, js="(source) => hfftKept('source', source)", api_visibility="private"
        )
        there.then(self.preview.fitting, self.model, self.preview.examples, **_QUICK)
        there.then(self.cut, self.chosen, box.cut, **_QUICK).then(
            plainly(self.follow),
            self.chosen,
            self.outputs,
            concurrency_limit=self.space.options.max_waiting + 2,
            **_QUICK,
        )

    def cut(self, source: str, policy: str | None, epochs: float, model: str | None, request: gr.Request) -> Any:
        """Answer with what the cut box draws."""
        return self.box.value(self.space.visits.of(request.session_hash), source, policy, epochs, model)

    def finetune(
        self, where: str, what: str | None, count: float, model: str | None, request: gr.Request
    ) -> Iterator[Any]:
        """Answer again and again: progress, two curves, the models, the download, both buttons, the cut."""
        session = self.space.visits.of(request.session_hash)
        source = self.space.source(session, model) if model else None
        training = self.space.trainings.start(session, where, what or DEFAULT_POLICY, count, source)
        yield from self._follow(session, training, (where, what, count, model))

    def let_go(
        self,
        where: str,
        what: str,
        count: float,
        model: str | None,
        event: gr.EventData,
        request: gr.Request,
    ) -> Iterator[Any]:
        """Answer as `finetune` does, for the place where the handle was let go.

        A training that would take long waits for its button.
        """
        if event.soon:
            yield from self.finetune(where, str(event.policy), count, model, request)
        else:
            yield [gr.skip()] * len(self.outputs)

    def follow(self, where: str, what: str, count: float, model: str | None, request: gr.Request) -> Iterator[Any]:
        """Answer as `finetune` does, for the training that is under way; without one, leave all as it is."""
        session = self.space.visits.of(request.session_hash)
        if session.training is None:
            yield [gr.skip()] * len(self.outputs)
            return
        news = not self.space.trainings.kept(session, session.training)
        yield from self._follow(session, session.training, (where, what, count, model), news)

    def _follow(
        self, session: Session, training: Training, chosen: tuple[Any, ...], news: bool = True
    ) -> Iterator[Any]:
        """Answer as `finetune` does; without news, of a model that the visitor has already, no model is chosen."""
        drawn, first = 1, True  # one epoch makes no line
        for now in self.space.trainings.follow(session, training):
            curves = split_curves(now.rows) if len(now.rows) > drawn or now.ended else (gr.skip(), gr.skip())
            drawn = max(drawn, len(now.rows))
            yield (
                views.progress(now),
                *curves,
                self._models(session, now) if news else gr.skip(),
                self.offered(session, session.shown if news else chosen[-1]) if now.state == "done" else gr.skip(),
                gr.update(visible=now.ended),
                gr.update(visible=not now.ended),
                self.box.value(session, *chosen) if first or now.ended else gr.skip(),
            )
            first = False

    def _models(self, session: Session, training: Training) -> Any:
        if training.state != "done":
            return gr.skip()
        return gr.update(choices=self.space.choices(session), value=self.space.current(session))

    def cancel(self, request: gr.Request) -> Any:
        """Answer with where the training stands."""
        training = self.space.visits.of(request.session_hash).training
        if training is None:
            return views.empty("Nothing is training.")
        self.space.trainings.queue.cancel(training)
        return views.progress(training)

    def download(self, model: str | None, request: gr.Request) -> Any:
        """Answer with the zip of one of the visitor's own models."""
        return str(self.space.trainings.download(self.space.visits.of(request.session_hash), model))

    def offered(self, session: Session, model: str | None) -> Any:
        """Return the state of the button that downloads a model; only a visitor's own can be downloaded."""
        if model not in session.own:
            return gr.update(visible=False)
        return gr.update(value=str(self.space.trainings.download(session, model)), visible=True)

    def offer_download(self, model: str | None, request: gr.Request) -> Any:
        """Answer with the state of that button."""
        return self.offered(self.space.visits.of(request.session_hash), model)
