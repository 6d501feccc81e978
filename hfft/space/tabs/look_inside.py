"""The tabs Pipeline and Prediction trace: one image on its way through the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from hfft.errors import DataError
from hfft.space.service import NO_MODEL, Space
from hfft.space.trainings.sessions import Session
from hfft.space.views import html as views
from hfft.space.views import journey as journey_views
from hfft.space.views.evidence import shown_features, steps
from hfft.space.views.journey import change_of, journey_value, no_journey
from hfft.space.widgets import BUTTONS, Tabs, plainly

_JOURNEY = Path(journey_views.__file__)


class PipelineTab:
    """The five stages of the method with this model's numbers.

    Args:
        space: what answers.
        image: the image to follow; without one, an example of the model's own is taken.
        tabs: fills it.
    """

    def __init__(self, space: Space, image: gr.Image, tabs: Tabs) -> None:
        self.space = space
        with gr.Tab("Pipeline", id="pipeline") as tab:
            gr.Markdown("The five stages of the method, measured with this model and the image under Classify.")
            flow = gr.HTML(label="Stages", elem_id="flow")
            with gr.Row():
                before = _picture("Before preprocessing", "The image as given")
                after = _picture("After preprocessing", "The image as the model sees it")
            gr.Markdown("## Architecture")
            drawing = gr.HTML(label="Architecture", elem_id="architecture")
            again = gr.Button("Refresh", size="sm", elem_classes="hf-again")
        inputs, outputs = [image, tabs.model], [flow, before, after, drawing]
        empty = ("", None, None, "")
        tabs.fill(tab, self.pipeline, inputs, outputs, empty, also=[again.click], api_name="pipeline")

    def pipeline(self, path: str | None, model: str | None, request: gr.Request) -> Any:
        """Answer with the stages, the image before and after preprocessing, and the drawing."""
        session = self.space.visits.of(request.session_hash)
        loaded = self.space.loaded_if_any(session, model)
        if loaded is None:
            return views.empty(NO_MODEL), None, None, ""
        image, note = _image(self.space, session, path, model)
        trace = loaded.pipeline(image)
        return _noted(note) + views.flow(trace), trace.image, trace.seen, views.architecture(trace, model or "")


class TraceTab:
    """One image in five steps, the retrained block beside the base model's.

    Args:
        space: what answers.
        image: the image to follow; without one, an example of the model's own is taken.
        tabs: fills it.
    """

    def __init__(self, space: Space, image: gr.Image, tabs: Tabs) -> None:
        self.space = space
        with gr.Tab("Prediction trace", id="trace") as tab:
            gr.Markdown("The image under Classify, on its way through the model: move along, and change the picture.")
            way = gr.HTML(
                no_journey(""),
                html_template=_JOURNEY.with_suffix(".html").read_text(encoding="utf-8"),
                js_on_load=_JOURNEY.with_suffix(".js").read_text(encoding="utf-8"),
                label="Journey",
                elem_id="journey",
            )
            gr.Markdown("## In five steps")
            shown = gr.HTML(label="Steps", elem_id="steps")
            again = gr.Button("Refresh", size="sm", elem_classes="hf-again")
        inputs = [image, tabs.model]
        tabs.fill(tab, self.trace, inputs, [shown], ("",), also=[again.click], api_name="trace")
        tabs.fill(tab, self.journey, inputs, [way], (no_journey(""),))
        way.input(
            plainly(self.what_if),
            inputs,
            way,
            api_visibility="private",
            show_progress="hidden",
            concurrency_limit=4,
            trigger_mode="multiple",  # it waits for answers itself; what it asks while one settles must not be dropped
        )

    def trace(self, path: str | None, model: str | None, request: gr.Request) -> Any:
        """Follow the image in five steps: what is seen, kept, changed, weighed and answered."""
        session = self.space.visits.of(request.session_hash)
        loaded = self.space.loaded_if_any(session, model)
        if loaded is None:
            return views.empty(NO_MODEL)
        image, note = _image(self.space, session, path, model)
        trace = loaded.trace(image)
        return _noted(note) + steps(trace, loaded.faces(shown_features(trace)))

    def journey(self, path: str | None, model: str | None, request: gr.Request) -> dict[str, Any]:
        """Answer with the journey of the image as it is."""
        session = self.space.visits.of(request.session_hash)
        loaded = self.space.loaded_if_any(session, model)
        if loaded is None:
            return no_journey(NO_MODEL)
        image, note = _image(self.space, session, path, model)
        return journey_value(loaded.journey(image), note, fields=loaded.fields(image))

    def what_if(self, path: str | None, model: str | None, event: gr.EventData, request: gr.Request) -> dict[str, Any]:
        """Answer with the journey of the image after a change."""
        session = self.space.visits.of(request.session_hash)
        change = change_of(event.change if isinstance(event.change, dict) else {})
        image, note = _image(self.space, session, path, model)
        loaded = self.space.loaded(session, model)
        return journey_value(loaded.journey(image, change), note, fresh=False, fields=loaded.fields(image))


def _picture(label: str, text: str) -> gr.Image:
    return gr.Image(
        label=label, interactive=False, elem_classes="hf-fit", buttons=list(BUTTONS), height=260, alt_text=text
    )


def _noted(note: str) -> str:
    return views.note(note) if note else ""


def _image(space: Space, session: Session, path: str | None, model: str | None) -> tuple[Image.Image, str]:
    """Return the image to follow, and a line where it is not one that the visitor chose."""
    least = space.loaded(session, model).classifier.pixels.least
    if path:
        return space.image(path, least), ""
    example = next(iter(space.examples(session, model)), None)
    if example is None:
        raise DataError("choose an image under Classify first")
    return space.image(example[0], least), (
        f"No image is chosen under Classify, so this follows one that the model was evaluated on ({example[1]})."
    )
