"""The tab Fine-tune: training on a visitor's own images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from hfft.space.service import Space
from hfft.space.trainings.queue import Training
from hfft.space.trainings.sessions import Session
from hfft.space.trainings.visitors import DEFAULT_POLICY, SOURCES, describe_policy, policy_choices
from hfft.space.views import html as views
from hfft.space.views.curves import curve_plot, split_curves
from hfft.space.widgets import Name, plainly


class FinetuneTab:
    """Choose images, policy and epochs, watch the training, and take the model along.

    Args:
        space: what answers.
        model: the chooser that a finished training adds its model to.

    Attributes:
        training: the event of a training; what comes after it can be chained.
    """

    def __init__(self, space: Space, model: gr.Dropdown) -> None:
        self.space = space
        self.model = model
        with gr.Tab("Fine-tune", id="finetune"):
            self._images()
            self._options()
            self._progress()
        self.training = self._wire()

    def _images(self) -> None:
        limits, minutes = self.space.limits, self.space.options.max_minutes
        gr.Markdown(
            f"Train on your own images: at most {limits.images:,} images in {limits.classes} classes, "
            f"{limits.megabytes} MB and {minutes:g} minutes. They are removed when training ends."
        )
        self.source = gr.Radio(list(SOURCES), value=SOURCES[0], label="Images", elem_id="source")
        self.archive = gr.File(
            file_types=[".zip"], label="Zip file: one folder of images for each class", elem_id="zip"
        )
        with gr.Group(visible=False) as self.by_class:
            self.name = gr.Textbox(label="Class name", max_length=60, elem_id="class-name")
            self.files = gr.File(file_count="multiple", label="Images of this class", elem_id="class-files")
            with gr.Row():
                self.add, self.clear = gr.Button("Add to this class"), gr.Button("Remove all")
            self.staged = gr.Textbox("No files yet.", label="Classes so far", interactive=False, elem_id="staged")

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
        with gr.Row():
            self.start = gr.Button("Start training", variant="primary", elem_id="start")
            self.stop = gr.Button("Cancel", variant="stop", elem_id="cancel")

    def _progress(self) -> None:
        self.status = gr.HTML(views.empty("Nothing is training yet."), elem_id="status")
        with gr.Row():
            self.loss = curve_plot("Loss (cross-entropy, nats)", "series", visible=False)
            self.accuracy = curve_plot("Accuracy", "series", visible=False)
        self.get = gr.Button("Prepare download", visible=False, elem_id="get")
        self.zipped = gr.File(label="Model as a zip", interactive=False, visible=False)

    def _wire(self) -> Any:
        shown = [self.archive, self.by_class]
        self.source.input(self.show, self.source, shown, api_visibility="private", show_progress="hidden")
        self.policy.change(describe_policy, self.policy, self.meaning, api_visibility="private", show_progress="hidden")
        given, staged = [self.name, self.files], [self.staged, self.name, self.files]
        self.add.click(plainly(self.add_files), given, staged, api_name="add_files")
        self.clear.click(self.clear_files, None, self.staged, api_name="clear_files")
        self.stop.click(
            self.cancel, None, self.status, api_name="cancel", concurrency_limit=None, show_progress="hidden"
        )
        self.get.click(plainly(self.download), None, self.zipped, api_name="download")
        return self.start.click(
            plainly(self.finetune),
            [self.source, self.archive, self.policy, self.epochs],
            [self.status, self.loss, self.accuracy, self.model, self.get, self.archive],
            api_name="finetune",
            trigger_mode="multiple",  # a cancelled training may still be leaving when the next one is started
            concurrency_limit=self.space.options.max_waiting + 2,
            show_progress="hidden",
        )

    def finetune(self, where: str, path: str | None, what: str, count: float, request: gr.Request) -> Iterator[Any]:
        """Answer again and again: progress, two curves, the models, the button for the download, an emptied upload."""
        session = self.space.session(request.session_hash)
        trainings = self.space.trainings
        drawn, left = 0, None  # what was uploaded is gone once the training has it
        for now in trainings.follow(session, trainings.start(session, where, path, what, count)):
            curves = split_curves(now.rows) if len(now.rows) != drawn or now.ended else (gr.skip(), gr.skip())
            drawn = len(now.rows)
            yield views.progress(now), *curves, self._models(session, now), gr.update(visible=bool(session.own)), left
            left = gr.skip()

    def _models(self, session: Session, training: Training) -> Any:
        if training.state != "done":
            return gr.skip()
        return gr.update(choices=self.space.choices(session), value=self.space.current(session))

    def add_files(self, name: str, paths: list[str] | None, request: gr.Request) -> Any:
        """Answer with the classes so far, an emptied name and an emptied upload."""
        session = self.space.session(request.session_hash)
        return self.space.trainings.add_files(session, name, paths or []), "", None

    def clear_files(self, request: gr.Request) -> str:
        """Answer with the classes so far: none."""
        return self.space.trainings.clear_files(self.space.session(request.session_hash))

    def cancel(self, request: gr.Request) -> Any:
        """Answer with where the training stands."""
        training = self.space.session(request.session_hash).training
        if training is None:
            return views.empty("Nothing is training.")
        self.space.trainings.queue.cancel(training)
        return views.progress(training)

    def download(self, request: gr.Request) -> Any:
        """Answer with the model's zip."""
        path = self.space.trainings.download(self.space.session(request.session_hash))
        return gr.update(value=str(path), visible=True)

    def show(self, where: str) -> Any:
        """Answer with the upload that fits the kind of images."""
        return gr.update(visible=where == SOURCES[0]), gr.update(visible=where == SOURCES[1])
