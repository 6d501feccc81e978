"""The tab Classify: one image with the map of its evidence, or many images at once."""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr

from hfft.space.service import NONE, Space, said
from hfft.space.trainings.sessions import Session
from hfft.space.views import html as views
from hfft.space.views.answers import in_words
from hfft.space.views.evidence import laid_over, unlike
from hfft.space.widgets import BUTTONS, ImageFile, Name, cleared, latest, plainly

_OPACITY = "(value) => {document.documentElement.style.setProperty('--hf-map', value)}"


class ClassifyTab:
    """Label images.

    Args:
        space: what answers.
        model: the chooser of models.

    Attributes:
        image: the image that the other tabs look at as well.
        offer: a button for visitors who find no model.
        examples: images to try, which fit the model.
    """

    def __init__(self, space: Space, model: gr.Dropdown) -> None:
        self.space = space
        self.model = model
        with gr.Tab("Classify", id="classify"):
            self.offer = gr.Button("Make a first model", variant="primary", visible=False)
            with gr.Row(equal_height=False):
                with gr.Column():
                    self._input()
                with gr.Column():
                    self._output()
            with gr.Accordion("Many images at once", open=False):
                self._many()
        changed = [self.image.change, self.model.change]
        # What is said of one image must not stand beside the next.
        cleared(partial(gr.on, changed), [self.label, self.overlay], [{}, ""])
        gr.on(changed, None, None, None, js="() => {hfftChosen.about = null}", api_visibility="private")
        self.about.input(None, self.about, None, js="(about) => {hfftChosen.about = about}", api_visibility="private")
        latest([*changed, self.button.click, self.about.input])(
            plainly(self.answered),
            [self.image, self.about, self.model],
            [self.label, self.overlay, self.about],
            js="(image, about, model) => [image, hfftChosen.about, model]",
            api_visibility="private",
            concurrency_limit=2,
        )

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
        found = self.space.offered(Session(), self.space.current(Session()))
        self.examples = gr.Gallery(
            found,
            label="Images to try",
            columns=6,
            rows=1,
            height="auto",
            allow_preview=False,
            interactive=False,
            object_fit="contain",
            visible=bool(found),
            elem_id="examples",
            elem_classes="hf-gallery",
            buttons=[],
        )
        self.button = gr.Button("Classify", variant="primary", elem_id="classify-button")
        gr.Markdown(
            f"Your images stay on this server for at most {self.space.options.keep_minutes} minutes after you leave.",
            elem_classes="hf-note",
        )

    def _output(self) -> None:
        self.label = gr.Label(num_top_classes=5, label="Answer", elem_id="label")
        self.overlay = gr.HTML(label="Where the evidence lies", elem_id="overlay")
        self.opacity = gr.Slider(0, 1, 0.5, step=0.05, label="Opacity of the map", elem_id="opacity")
        self.about = Name([], label="To explain", info="A class or a number; by default the first", elem_id="about")

    def _many(self) -> None:
        files = gr.File(file_count="multiple", label="Images", elem_id="batch")
        button = gr.Button("Classify all")
        gallery = gr.Gallery(
            label="Labelled images",
            buttons=list(BUTTONS),
            columns=4,
            object_fit="contain",
            height="auto",
            elem_id="labelled",
            elem_classes="hf-gallery",
        )
        rows = gr.HTML(label="Table")
        sheet = gr.File(label="Table (CSV)", interactive=False)
        button.click(
            plainly(self.classify_batch),
            [files, self.model],
            [gallery, rows, sheet, files],
            api_name="classify_batch",
            concurrency_limit=2,
        )

    def wire(self) -> None:
        """Let the buttons do what they say, and the examples follow the model."""
        named, results = [self.image, self.model], [self.label, self.overlay, self.about]
        self.button.click(plainly(self.begun), self.image, None, api_visibility="private", show_progress="hidden")
        gr.on([], plainly(self.classify), named, results, api_name="classify", concurrency_limit=2)
        gr.on([], plainly(self.explain), [self.image, self.about, self.model], self.overlay, api_name="explain")
        # The map lies over the picture in the page, so that its opacity needs no server.
        self.opacity.change(None, self.opacity, None, js=_OPACITY)
        self.model.change(self.fitting, self.model, self.examples, api_visibility="private", show_progress="hidden")
        self.examples.select(self.choose, self.model, self.image, api_visibility="private", show_progress="hidden")

    def classify(self, path: str | None, model: str | None, request: gr.Request) -> Any:
        """Answer with probabilities, the image under its map, and the classes that can be explained."""
        return self._classified(path, None, model, request)

    def _classified(self, path: str | None, about: str | None, model: str | None, request: gr.Request) -> Any:
        session = self.space.visits.of(request.session_hash)
        image, found, values, about = self.space.classify(session, model, path, about)
        loaded = self.space.loaded(session, model)
        task, bars = loaded.classifier.task, loaded.bars(found)
        # The widget draws probabilities of labels that exclude each other; what has thresholds or units, the page does.
        scores = {bar.label: bar.probability for bar in bars} if task.chooses else found.answer.headline
        words = unlike(found, self.space.nearest(session, model, found), task.missing) + in_words(found, bars)
        shown = words + laid_over(image, values, about)
        return NONE if found.unknown else scores, shown, gr.update(choices=list(loaded.classifier.labels), value=about)

    def begun(self, path: str | None) -> None:
        """Say so where there is no image to classify."""
        if not path:
            self.space.image(path)

    def answered(self, path: str | None, about: str | None, model: str | None, request: gr.Request) -> Any:
        """Answer as `classify` does, explaining the class of the visitor's choice; without an image, with nothing."""
        if path:
            return self._classified(path, about, model, request)
        return None, "", gr.update(choices=[], value=None)

    def explain(self, path: str | None, about: str | None, model: str | None, request: gr.Request) -> Any:
        """Answer with the image under the map for a class of the visitor's choice."""
        if not path or not about:
            return gr.skip()
        session = self.space.visits.of(request.session_hash)
        image, _, values, about = self.space.classify(session, model, path, about)
        return laid_over(image, values, about)

    def fitting(self, model: str | None, request: gr.Request) -> Any:
        """Answer with images to try that fit a model."""
        found = self.space.offered(self.space.visits.of(request.session_hash), model)
        return gr.update(value=found, visible=bool(found))

    def choose(self, model: str | None, chosen: gr.SelectData, request: gr.Request) -> str | None:
        """Answer with the example that was pressed."""
        found = self.space.offered(self.space.visits.of(request.session_hash), model)
        return found[chosen.index][0] if chosen.index < len(found) else None

    def classify_batch(self, paths: list[str] | None, model: str | None, request: gr.Request) -> Any:
        """Answer with a gallery, a table, the same as CSV, and an emptied upload."""
        session = self.space.visits.of(request.session_hash)
        found, pictures, path = self.space.classify_batch(session, model, paths or [])
        cells = [(row.file, "" if row.error else said(row), row.error) for row in found]
        table = views.table("Answers to the images", ("file", "answer", "problem"), cells)
        return pictures, table, str(path), None
