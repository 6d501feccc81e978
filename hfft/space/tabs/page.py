"""The page: what stands above the tabs, the tabs in their order, and what goes on between them."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from hfft.errors import HfftError
from hfft.space.service import NO_MODEL, Space
from hfft.space.tabs.classify import ClassifyTab
from hfft.space.tabs.compare import CompareTab
from hfft.space.tabs.curation.label_next import LabelNextTab
from hfft.space.tabs.curation.labels import LabelsTab
from hfft.space.tabs.finetune import FinetuneTab
from hfft.space.tabs.learn import LearnTab
from hfft.space.tabs.look_inside import PipelineTab, TraceTab
from hfft.space.tabs.training import TrainingTab
from hfft.space.tools import Tools
from hfft.space.trainings.sessions import Session
from hfft.space.views import html as views
from hfft.space.widgets import Name, Tabs, cleared, offer, plainly


def build(space: Space) -> gr.Blocks:
    """Return the page."""
    keep = space.options.keep_minutes * 60
    blocks: gr.Blocks
    with gr.Blocks(title="hfft", analytics_enabled=False, delete_cache=(min(keep, 600), keep)) as blocks:
        gr.Markdown("# hfft\nFine-tune an image classifier with most of it frozen, and see what that did.")
        header = _Header(space)
        filled = Tabs(header.model, "finetune")
        with gr.Tabs(overflow_behavior="wrap") as tabs:
            training = FinetuneTab(space, header.model)
            classify = ClassifyTab(space, header.model)
            PipelineTab(space, classify.image, filled)
            TrainingTab(space, classify.image, filled)
            TraceTab(space, classify.image, filled)
            CompareTab(space, classify.image, filled)
            LabelsTab(space, training)
            labelling = LabelNextTab(space, training)
            learn = LearnTab(space, filled)
        header.model.change(None, header.model, None, js="(name) => {hfftAddress('model', name)}", **_PRIVATE)
        for each in (training, classify, labelling):  # once all that empties a tab is wired, see `cleared`
            each.wire()
        offer(learn.quiz, "quiz")
        offer(learn.answer, "answer")
        if space.options.mcp:
            Tools(space).offer()
        arrived = header.wire(blocks, classify)
        training.resume(arrived)
        arrived.then(
            None,
            None,
            None,
            js="() => {hfftOpen(new URLSearchParams(location.search).get('tab'))}",
            api_visibility="private",
        )
        classify.offer.click(lambda: gr.update(selected="finetune"), None, tabs, api_visibility="private")
    blocks.queue(max_size=128, default_concurrency_limit=4)
    return blocks


_PRIVATE: dict[str, Any] = {"api_visibility": "private"}
KEYS = """() => {
const address = () => new URLSearchParams(location.search);
window.hfftAsked = (name) => address().get(name);
window.hfftAddress = (name, value) => {
    const asked = address();
    asked.delete(name);
    [value].flat().filter(Boolean).forEach((each) => asked.append(name, each));
    history.replaceState(history.state, "", "?" + asked);
};
window.hfftOpen = (wanted) => {
    [...document.querySelectorAll('[role="tab"]')].find((tab) => tab.dataset.tabId === wanted)?.click();
};
window.hfftChosen = {};
window.hfftKept = (name, restored) => hfftChosen[name] ?? restored;
document.addEventListener("click", (event) => {
    const tab = event.target.closest('[role="tab"]');
    if (tab?.dataset.tabId) hfftAddress("tab", tab.dataset.tabId);
});
document.addEventListener("keydown", (event) => {
    const tab = event.target.closest('[role="tab"]');
    if (!tab) return;
    const tabs = [...tab.closest('[role="tablist"]').querySelectorAll('[role="tab"]')];
    const here = tabs.indexOf(tab), last = tabs.length - 1;
    const place = {ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: last}[event.key];
    if (place === undefined) return;
    event.preventDefault();
    const next = tabs[(place + tabs.length) % tabs.length];
    next.focus();
    next.click();
});
const name = () => {
    document.querySelectorAll('.thumbnail-item[aria-label^="Thumbnail"]').forEach((button) => {
        const text = button.querySelector(".caption-label")?.textContent.trim();
        if (text) button.setAttribute("aria-label", text + ", " + button.getAttribute("aria-label"));
    });
    document.querySelector("#label")?.setAttribute("aria-live", "polite");
    document.querySelectorAll("button.upload-container[aria-label]").forEach((button) => {
        if (button.textContent.trim()) button.removeAttribute("aria-label");
    });
};
new MutationObserver(name).observe(document.body, {childList: true, subtree: true});
name();
}"""
"""What Gradio's own parts lack: arrow keys, Home and End move between tabs, as they do wherever there are tabs; and
what a button says is in its name, so that one can ask for it. The address follows model, tab and compared runs, and
opens the page on them. What a visitor has chosen by hand since the page was loaded (`hfftChosen`) is kept where the
choice of an earlier visit comes back later than that."""


def theme() -> gr.Theme:
    """Return the page's theme: it needs no font from elsewhere, and its text stands out from what lies under it."""
    return gr.themes.Soft(
        primary_hue="blue", secondary_hue="orange", font=["system-ui", "sans-serif"], font_mono=["monospace"]
    ).set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*primary_800",
        block_title_text_color="*primary_800",
        block_label_text_color_dark="*primary_100",
        block_title_text_color_dark="*primary_100",
        block_label_background_fill_dark="*primary_800",
        checkbox_label_background_fill_selected="*primary_100",
        checkbox_label_background_fill_selected_dark="*primary_900",
        checkbox_label_text_color_selected="*primary_900",
        checkbox_label_text_color_selected_dark="*primary_50",
        color_accent="*primary_700",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        input_placeholder_color="*neutral_500",
        checkbox_border_color="*neutral_500",
        checkbox_border_color_dark="*neutral_400",
    )


_NOT_HERE = "The model of this address, {!r}, is not here: a visitor's own models are shown to that visitor alone."


class _Header:
    """The chooser of models and the facts about the one in use."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.visit = gr.BrowserState("", storage_key="hfft-visit")
        nobody = Session()
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                self.model = Name(
                    choices=space.choices(nobody),
                    value=space.current(nobody) or None,
                    label="Model",
                    info="Finished runs, newest first",
                    elem_id="model",
                )
            with gr.Column(scale=2, min_width=300):
                self.summary = gr.HTML(
                    self._facts(nobody, space.current(nobody)), label="Facts", elem_id="summary", min_height=72
                )
        self._cleared = cleared(self.model.change, [self.summary], [""])

    def wire(self, blocks: gr.Blocks, classify: ClassifyTab) -> Any:
        """Fill the page when it is opened, and follow the choice of a model; return the event of the opening."""
        self.model.input(None, self.model, None, js="(name) => {hfftChosen.model = name}", **_PRIVATE)
        self._cleared(plainly(self.facts), self.model, self.summary, api_name="describe_model", show_progress="hidden")
        offer(self.models, "models")
        blocks.unload(self.leave)
        begun = blocks.load(
            self.begin,
            [self.visit, self.model],
            [self.visit, self.model, self.summary, classify.offer],
            api_visibility="private",
            show_progress="hidden",
        )
        return begun.then(None, self.model, self.model, js="(name) => hfftKept('model', name)", **_PRIVATE)

    def facts(self, model: str | None, request: gr.Request) -> str:
        """Answer with a line about a model."""
        session = self.space.visits.of(request.session_hash)
        if model:
            self.space.source(session, model)  # whether it is here
            session.shown = model
        return self._facts(session, model)

    def _facts(self, session: Session, name: str | None) -> str:
        if not name:
            return views.empty(NO_MODEL)
        try:
            return views.summary(self.space.run(session, name), name, name in session.own)
        except HfftError as error:
            return views.empty(f"{name} cannot be used: {error}")

    def begin(self, visit: str | None, model: str | None, request: gr.Request) -> Any:
        """Answer with the visitor's id, the models, the facts, and the offer to make a model where there is none."""
        session = self.space.visits.join(request.session_hash, visit)
        names, name = self.space.choices(session), self.space.current(session)
        wanted = request.query_params.get("model")
        if wanted in names:
            name = wanted
        elif wanted:
            gr.Warning(escape(_NOT_HERE.format(wanted[:80]), quote=False))
        # What the page shows already is not set again: by the time of the answer, another one may have been chosen.
        chooser = gr.update(choices=names) if name == (model or "") else gr.update(choices=names, value=name or None)
        facts = gr.skip() if name == (model or "") else self._facts(session, name)
        return session.id, chooser, facts, gr.update(visible=not names)

    def models(self, request: gr.Request) -> list[str]:
        """Answer with the models that can be chosen."""
        return self.space.choices(self.space.visits.of(request.session_hash))

    def leave(self, request: gr.Request) -> None:
        """Start the clock that ends the visit: a page that is closed may be one that is loaded again."""
        self.space.visits.of(request.session_hash)
