"""The tab Fine-tune: training on a visitor's own images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from hfft.space.service import Space
from hfft.space.trainings.queue import Training
from hfft.space.trainings.sessions import Session
from hfft.space.trainings.visitors import DEFAULT_POLICY, NO_IMAGES, SOURCES, describe_policy, policy_choices
from hfft.space.views import html as views
from hfft.space.views.curves import curve_plot, split_curves
from hfft.space.widgets import Name, plainly


class FinetuneTab:
    """Choose images, policy and epochs, watch the training, and take the model along.

    Args:
        space: what answers.
        model: the chooser that a finished training adds its model to.

    Attributes:
        source: which images.
        uploads: widgets for a zip and for files by class; one of them is visible at a time.
    """

    def __init__(self, space: Space, model: gr.Dropdown) -> None:
        self.space = space
        self.model = model
        with gr.Tab("Fine-tune", id="finetune"):
            self._progress()
            with gr.Column() as self.form:
                self._images()
                self._options()
        self.uploads = [self.archive, self.by_class]
        self.outputs = [self.status, self.loss, self.accuracy, self.model, self.get, self.form, self.stop]
        self._wire()

    def _images(self) -> None:
        limits, options = self.space.limits, self.space.options
        gr.Markdown(
            f"Train on your own images: at most {limits.images:,} images in {limits.classes} classes, "
            f"{limits.megabytes} MB and {options.max_minutes:g} minutes. Images and models stay on this server for "
            f"your visit, so that you can train on the same images again, and at most {options.keep_minutes} minutes "
            "longer."
        )
        self.source = gr.Radio(list(SOURCES), value=SOURCES[0], label="Images", elem_id="source")
        self.archive = gr.File(
            file_types=[".zip"], label="Zip file: one folder of images for each class", elem_id="zip", height=140
        )
        with gr.Group(visible=False) as self.by_class:
            self.name = gr.Textbox(label="Class name", max_length=60, elem_id="class-name")
            self.files = gr.File(file_count="multiple", label="Images of this class", elem_id="class-files")
            self.add = gr.Button("Add to this class")
        with gr.Row():
            self.given = gr.Textbox(
                NO_IMAGES, label="What was read", interactive=False, elem_id="given", lines=2, scale=4
            )
            self.clear = gr.Button("Remove all", scale=1, min_width=120)

    def _options(self) -> None:
        most = self.space.options.max_epochs
        with gr.Row():
            self.policy = Name(
                policy_choices(),
                value=DEFAULT_POLICY,
                allow_custom_value=True,
                label="What is trained",
                info="Another argument can be typed: last_n:4",
                elem_id="policy",
                min_width=300,
            )
            self.epochs = gr.Slider(1, most, min(3, most), step=1, label="Epochs", elem_id="epoch-count", min_width=300)
        self.meaning = gr.Markdown(describe_policy(DEFAULT_POLICY), elem_id="meaning")
        self.start = gr.Button("Start training", variant="primary", elem_id="start")

    def _progress(self) -> None:
        self.stop = gr.Button("Cancel", variant="stop", elem_id="cancel", visible=False)
        self.status = gr.HTML(label="Progress", elem_id="status")
        self.get = gr.DownloadButton("Download this model", visible=False, elem_id="get")
        with gr.Row():
            self.loss = curve_plot("Loss (cross-entropy)", "series", visible=False)
            self.accuracy = curve_plot("Accuracy", "series", visible=False)

    def _wire(self) -> None:
        shown = [self.archive, self.by_class]
        self.source.input(self.show, self.source, shown, api_visibility="private", show_progress="hidden")
        self.policy.change(describe_policy, self.policy, self.meaning, api_visibility="private", show_progress="hidden")
        self.archive.upload(plainly(self.read_zip), self.archive, [self.given, self.archive], api_name="read_zip")
        named, added = [self.name, self.files], [self.given, self.name, self.files]
        self.add.click(plainly(self.add_files), named, added, api_name="add_files")
        self.clear.click(plainly(self.clear_images), None, self.given, api_name="clear_images")
        self.stop.click(
            self.cancel, None, self.status, api_name="cancel", concurrency_limit=None, show_progress="hidden"
        )
        self.get.click(plainly(self.download), self.model, self.get, api_name="download")
        self.model.change(self.offer_download, self.model, self.get, api_visibility="private", show_progress="hidden")
        self.start.click(
            plainly(self.finetune),
            [self.source, self.policy, self.epochs, self.model],
            self.outputs,
            api_name="finetune",
            trigger_mode="multiple",  # a cancelled training may still be leaving when the next one is started
            concurrency_limit=self.space.options.max_waiting + 2,
            show_progress="hidden",
        )

    def resume(self, arrived: Any) -> None:
        """Show what a visitor who loads the page again has given, and the training that goes on."""
        arrived.then(self.images_there, None, self.given, api_visibility="private", show_progress="hidden")
        arrived.then(
            plainly(self.follow),
            None,
            self.outputs,
            api_visibility="private",
            concurrency_limit=self.space.options.max_waiting + 2,
            show_progress="hidden",
        )

    def images_there(self, request: gr.Request) -> str:
        """Answer with what there is to train on."""
        return self.space.trainings.describe(self.space.visits.of(request.session_hash))

    def finetune(self, where: str, what: str, count: float, model: str | None, request: gr.Request) -> Iterator[Any]:
        """Answer again and again: progress, two curves, the models, the download, the form, the button to cancel."""
        session = self.space.visits.of(request.session_hash)
        source = self.space.source(session, model) if model else None
        yield from self._follow(session, self.space.trainings.start(session, where, what, count, source))

    def follow(self, request: gr.Request) -> Iterator[Any]:
        """Answer as `finetune` does, for the training that is under way; without one, leave all as it is."""
        session = self.space.visits.of(request.session_hash)
        if session.training is None:
            yield [gr.skip()] * len(self.outputs)
            return
        yield from self._follow(session, session.training)

    def _follow(self, session: Session, training: Training) -> Iterator[Any]:
        drawn = 0
        for now in self.space.trainings.follow(session, training):
            curves = split_curves(now.rows) if len(now.rows) != drawn or now.ended else (gr.skip(), gr.skip())
            drawn = len(now.rows)
            yield (
                views.progress(now),
                *curves,
                self._models(session, now),
                self.offered(session, session.shown) if now.state == "done" else gr.skip(),
                gr.update(visible=now.ended),
                gr.update(visible=not now.ended),
            )

    def _models(self, session: Session, training: Training) -> Any:
        if training.state != "done":
            return gr.skip()
        return gr.update(choices=self.space.choices(session), value=self.space.current(session))

    def read_zip(self, path: str | None, request: gr.Request) -> Any:
        """Answer with what is in a zip, and what was left out of it, and an emptied upload."""
        return self.space.trainings.read_zip(self.space.visits.of(request.session_hash), path), None

    def add_files(self, name: str, paths: list[str] | None, request: gr.Request) -> Any:
        """Answer with what there is now, an emptied name and an emptied upload."""
        session = self.space.visits.of(request.session_hash)
        return self.space.trainings.add_files(session, name, paths or []), "", None

    def clear_images(self, request: gr.Request) -> str:
        """Answer with what there is now: nothing."""
        return self.space.trainings.clear_images(self.space.visits.of(request.session_hash))

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

    def show(self, where: str) -> Any:
        """Answer with the upload that fits the kind of images."""
        return gr.update(visible=where == SOURCES[0]), gr.update(visible=where == SOURCES[1])
