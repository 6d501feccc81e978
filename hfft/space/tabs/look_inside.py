"""The tabs Pipeline and Prediction trace: one image on its way through the model."""

from __future__ import annotations

from typing import Any

import gradio as gr
from PIL import Image

from hfft.space.service import NO_MODEL, Space
from hfft.space.views import html as views
from hfft.space.views.evidence import steps
from hfft.space.widgets import BUTTONS, plainly


class PipelineTab:
    """The five stages of the method with this model's figures.

    Args:
        space: what answers.
        image: the image to follow; without one, an example is taken.
    """

    def __init__(self, space: Space, image: gr.Image) -> None:
        self.space = space
        with gr.Tab("Pipeline", id="pipeline") as tab:
            gr.Markdown("The five stages of the method, with the figures of this model and the image under Classify.")
            flow = gr.HTML(elem_id="flow")
            with gr.Row():
                before = _picture("Before preprocessing", "The image as given")
                after = _picture("After preprocessing", "The image as the model sees it")
            gr.Markdown("### Architecture")
            drawing = gr.HTML(elem_id="architecture")
            again = gr.Button("Measure again")
        outputs = [flow, before, after, drawing]
        again.click(plainly(self.pipeline), image, outputs, api_name="pipeline")
        tab.select(plainly(self.pipeline), image, outputs, api_visibility="private")

    def pipeline(self, path: str | None, request: gr.Request) -> Any:
        """Answer with the stages, the image before and after preprocessing, and the drawing."""
        session = self.space.session(request.session_hash)
        name = self.space.current(session)
        if not name:
            return views.empty(NO_MODEL), None, None, ""
        loaded = self.space.loaded(session)
        trace = loaded.pipeline(_image(self.space, path, loaded.classifier.pixels.least))
        return views.flow(trace), trace.image, trace.seen, views.architecture(trace, name)


class TraceTab:
    """One image in five steps, the retrained block beside the base model's.

    Args:
        space: what answers.
        image: the image to follow; without one, an example is taken.
    """

    def __init__(self, space: Space, image: gr.Image) -> None:
        self.space = space
        with gr.Tab("Prediction trace", id="trace") as tab:
            gr.Markdown("The image under Classify, followed through the model in five steps.")
            shown = gr.HTML(elem_id="steps")
            again = gr.Button("Follow again")
        again.click(plainly(self.trace), image, shown, api_name="trace")
        tab.select(plainly(self.trace), image, shown, api_visibility="private")

    def trace(self, path: str | None, request: gr.Request) -> Any:
        """Answer with the five steps."""
        session = self.space.session(request.session_hash)
        if not self.space.current(session):
            return views.empty(NO_MODEL)
        loaded = self.space.loaded(session)
        return steps(loaded.trace(_image(self.space, path, loaded.classifier.pixels.least)))


def _picture(label: str, text: str) -> gr.Image:
    return gr.Image(
        label=label, interactive=False, elem_classes="hf-fit", buttons=list(BUTTONS), height=260, alt_text=text
    )


def _image(space: Space, path: str | None, least: int | None) -> Image.Image:
    return space.image(path or next(iter(space.examples()), None), least)
