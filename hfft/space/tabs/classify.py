"""The tab Classify: one image with the map of its evidence, or many images at once."""

from __future__ import annotations

from typing import Any

import gradio as gr

from hfft.space.service import Space
from hfft.space.views import html as views
from hfft.space.widgets import BUTTONS, ImageFile, Name, plainly


class ClassifyTab:
    """Label images.

    Args:
        space: what answers.

    Attributes:
        image: the image that the other tabs look at as well.
        offer: a button for visitors who find no model.
        results: widgets that another model makes out of date.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        with gr.Tab("Classify", id="classify"):
            self.offer = gr.Button("Make a first model", variant="primary", visible=False)
            with gr.Row():
                with gr.Column():
                    self._input()
                with gr.Column():
                    self._output()
            with gr.Accordion("Many images at once", open=False):
                self._many()
        self.results = [self.label, self.overlay, self.about]
        self._wire()

    def _input(self) -> None:
        self.image = ImageFile(
            sources=["upload", "webcam", "clipboard"],
            type="filepath",
            image_mode=None,
            label="Image",
            height=320,
            alt_text="The image that you chose",
            elem_id="image",
            elem_classes="hf-fit",
        )
        examples = self.space.examples()
        if examples:
            gr.Examples([[path] for path in examples], [self.image], label="Examples", api_visibility="private")
        self.button = gr.Button("Classify", variant="primary", elem_id="classify-button")

    def _output(self) -> None:
        self.label = gr.Label(num_top_classes=5, label="Probabilities", elem_id="label")
        self.overlay = gr.Image(
            label="Where the evidence lies",
            interactive=False,
            format="png",
            height=320,
            alt_text="The image under its class activation map; bright spots speak for the class",
            elem_id="overlay",
            buttons=list(BUTTONS),
        )
        self.opacity = gr.Slider(0, 1, 0.5, step=0.05, label="Opacity of the map", elem_id="opacity")
        self.about = Name([], label="Class to explain", info="By default the likeliest")

    def _many(self) -> None:
        files = gr.File(file_count="multiple", label="Images", elem_id="batch")
        button = gr.Button("Classify all")
        gallery = gr.Gallery(
            label="Labelled images", buttons=list(BUTTONS), columns=4, object_fit="contain", height="auto"
        )
        rows = gr.HTML()
        sheet = gr.File(label="Table (CSV)", interactive=False)
        button.click(
            plainly(self.classify_batch),
            files,
            [gallery, rows, sheet, files],
            api_name="classify_batch",
            concurrency_limit=2,
        )

    def _wire(self) -> None:
        inputs, explained = [self.image, self.opacity], [self.image, self.about, self.opacity]
        self.button.click(plainly(self.classify), inputs, self.results, api_name="classify", concurrency_limit=2)
        self.image.change(
            plainly(self.changed), inputs, self.results, api_visibility="private", show_progress="minimal"
        )
        self.about.input(plainly(self.explain), explained, self.overlay, api_name="explain")
        self.opacity.release(self.blend, self.opacity, self.overlay, api_visibility="private", show_progress="hidden")

    def classify(self, path: str | None, opacity: float, request: gr.Request) -> Any:
        """Answer with probabilities, the overlay, and the classes that can be explained."""
        session = self.space.session(request.session_hash)
        found, labels = self.space.classify(session, path)
        scores = {score.label: score.probability for score in found.top}
        return scores, self.space.overlay(session, opacity), gr.update(choices=labels, value=found.label)

    def changed(self, path: str | None, opacity: float, request: gr.Request) -> Any:
        """Classify as soon as an image is there; an image taken away clears the results."""
        return self.classify(path, opacity, request) if path else (None, None, gr.update(choices=[], value=None))

    def explain(self, path: str | None, name: str | None, opacity: float, request: gr.Request) -> Any:
        """Answer with the overlay for a class of the visitor's choice."""
        session = self.space.session(request.session_hash)
        self.space.classify(session, path, name)
        return self.space.overlay(session, opacity)

    def blend(self, opacity: float, request: gr.Request) -> Any:
        """Answer with the same overlay, more or less of it."""
        return self.space.overlay(self.space.session(request.session_hash), opacity)

    def classify_batch(self, paths: list[str] | None, request: gr.Request) -> Any:
        """Answer with a gallery, a table, the same as CSV, and an emptied upload."""
        found, pictures, path = self.space.classify_batch(self.space.session(request.session_hash), paths or [])
        cells = [(row.file, row.label, f"{row.probability:.1%}" if row.label else "", row.error) for row in found]
        return pictures, views.table(("file", "label", "probability", "problem"), cells, (2,)), str(path), None
