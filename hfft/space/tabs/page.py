"""The page: what stands above the tabs, the tabs in their order, and what goes on between them."""

from __future__ import annotations

from typing import Any

import gradio as gr

from hfft.errors import HfftError
from hfft.space.service import NO_MODEL, Space
from hfft.space.tabs.classify import ClassifyTab
from hfft.space.tabs.finetune import FinetuneTab
from hfft.space.tabs.learn import LearnTab
from hfft.space.tabs.look_inside import PipelineTab, TraceTab
from hfft.space.tabs.training import CompareTab, TrainingTab
from hfft.space.trainings.sessions import Session
from hfft.space.trainings.visitors import SOURCES
from hfft.space.views import html as views
from hfft.space.widgets import Name, plainly


def build(space: Space) -> gr.Blocks:
    """Return the page."""
    keep = space.options.keep_minutes * 60
    blocks: gr.Blocks
    with gr.Blocks(title="hfft", analytics_enabled=False, delete_cache=(min(keep, 600), keep)) as blocks:
        gr.Markdown("# hfft\nFine-tune an image classifier with most of it frozen, and see what that did.")
        header = _Header(space)
        with gr.Tabs() as tabs:
            classify = ClassifyTab(space)
            PipelineTab(space, classify.image)
            TrainingTab(space)
            TraceTab(space, classify.image)
            CompareTab(space, classify.image)
            training = FinetuneTab(space, header.model)
            LearnTab(space)
        header.wire(blocks, classify)
        offered = [tabs, training.source, training.archive, training.by_class]
        classify.offer.click(_embedded_training, None, offered, api_visibility="private")
        training.training.then(header.facts, None, header.summary, api_visibility="private")
    blocks.queue(max_size=128, default_concurrency_limit=4)
    return blocks


def theme() -> gr.Theme:
    """Return the page's theme; it needs no font from elsewhere."""
    return gr.themes.Soft(
        primary_hue="blue", secondary_hue="orange", font=["system-ui", "sans-serif"], font_mono=["monospace"]
    )


def _embedded_training() -> Any:
    """Lead to the tab Fine-tune, ready to train on the embedded images."""
    return gr.update(selected="finetune"), SOURCES[2], gr.update(visible=False), gr.update(visible=False)


class _Header:
    """The chooser of models and the facts about the one in use."""

    def __init__(self, space: Space) -> None:
        self.space = space
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                self.model = Name(
                    choices=space.choices(Session()),
                    value=space.current(Session()) or None,
                    label="Model",
                    info="Finished runs, newest first",
                    elem_id="model",
                )
            with gr.Column(scale=2, min_width=300):
                self.summary = gr.HTML(elem_id="summary")

    def wire(self, blocks: gr.Blocks, classify: ClassifyTab) -> None:
        """Fill the page when it is opened, follow the choice of a model, and end a visit."""
        blocks.load(self.begin, None, [self.model, self.summary, classify.offer], api_visibility="private")
        self.model.input(plainly(self.choose), self.model, [self.summary, *classify.results], api_name="choose_model")
        listing = gr.JSON(visible=False)
        gr.Button(visible=False).click(self.models, None, listing, api_name="models")
        blocks.unload(self.leave)

    def facts(self, request: gr.Request) -> str:
        """Answer with a line about the model in use."""
        session = self.space.session(request.session_hash)
        name = self.space.current(session)
        if not name:
            return views.empty(NO_MODEL)
        try:
            return views.summary(self.space.run(session), name)
        except HfftError as error:
            return views.empty(f"{name} cannot be used: {error}")

    def begin(self, request: gr.Request) -> Any:
        """Answer with the models, the facts, and the offer to make a model where there is none."""
        session = self.space.session(request.session_hash)
        names = self.space.choices(session)
        chooser = gr.update(choices=names, value=self.space.current(session) or None)
        return chooser, self.facts(request), gr.update(visible=not names)

    def choose(self, name: str, request: gr.Request) -> Any:
        """Use another model; what the last one said is cleared."""
        self.space.choose(self.space.session(request.session_hash), name)
        return self.facts(request), None, None, gr.update(choices=[], value=None)

    def models(self, request: gr.Request) -> list[str]:
        """Answer with the models that can be chosen."""
        return self.space.choices(self.space.session(request.session_hash))

    def leave(self, request: gr.Request) -> None:
        """End a visit."""
        self.space.leave(request.session_hash)
