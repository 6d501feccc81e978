"""The tab Compare: runs side by side, on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import gradio as gr

from hfft.errors import DataError, HfftError
from hfft.inference.runs import FinishedRun, disagreements
from hfft.metrics import WORDS
from hfft.space.service import NO_MODEL, THUMBNAIL, Space
from hfft.space.trainings.sessions import Session
from hfft.space.views import html as views
from hfft.space.views.curves import compared
from hfft.space.widgets import BUTTONS, NameList, Tabs, plainly

_DIFFERING = 12  # images that are shown of those on which runs differ
_PRESSED = """(opened, chosen, pressed, ...others) => {
    pressed = Boolean(hfftChosen.compare);
    hfftChosen.compare = false;
    return [opened, chosen, pressed, ...others];
}"""


class CompareTab:
    """Runs side by side.

    Args:
        space: what answers.
        image: the image that every run is asked about.
        tabs: fills it.
    """

    def __init__(self, space: Space, image: gr.Image, tabs: Tabs) -> None:
        self.space = space
        with gr.Tab("Compare", id="compare") as tab:
            chosen = NameList([], label="Runs", info="Choose two or more of one task", elem_id="runs")
            button = gr.Button("Compare", variant="primary")
            table = gr.HTML(label="Runs side by side", elem_id="comparison")
            differing = gr.Gallery(
                label="Images on which they differ",
                buttons=list(BUTTONS),
                columns=6,
                object_fit="contain",
                height="auto",
                visible=False,
                elem_id="differing",
                elem_classes="hf-gallery",
            )
            note = gr.HTML(label="How many")
            curves = gr.HTML(label="Epoch by epoch", elem_id="compared-curves")
            # Both are the page's own: whether Compare was pressed since the last question, and what the table is of.
            pressed, told = gr.Checkbox(visible=False), gr.JSON(visible=False)
        shown = [table, differing, note, curves]
        gr.on([], plainly(self.compare), [chosen, image], shown, api_name="compare")
        button.click(None, None, None, js="() => {hfftChosen.compare = true}", api_visibility="private")
        tabs.model.change(None, None, None, js="() => {hfftChosen.compare = false}", api_visibility="private")
        hidden = gr.update(visible=False)
        filled = tabs.fill(
            tab,
            self.filled,
            [chosen, pressed, image, tabs.model],
            [chosen, *shown, told],
            (gr.update(choices=[], value=[]), "", hidden, "", "", None),
            also=[button.click],
            js=_PRESSED,
            show_progress_on=table,  # an error is said once
        )
        to_address = "(names) => {if (names) hfftAddress('runs', names)}"
        filled.success(None, told, None, js=to_address, api_visibility="private")

    def filled(
        self, chosen: list[str] | None, pressed: bool, path: str | None, model: str | None, request: gr.Request
    ) -> Any:
        """Answer with the runs that there are, what `compare` says of those that are chosen, and which these are."""
        if pressed:
            return gr.skip(), *self.compare(chosen or [], path, request), chosen
        return *self.offer(chosen, model, request), gr.skip()

    def offer(self, before: list[str] | None, model: str | None, request: gr.Request) -> Any:
        """Answer with the runs that there are, and which are chosen.

        These are the same as before; at first those of the page's address, which are compared at once, else the newest
        two of the task of the model in use.
        """
        session = self.space.visits.of(request.session_hash)
        names = self.space.choices(session)
        if kept := [name for name in before or [] if name in names]:
            return gr.update(choices=names, value=kept), *[gr.skip()] * 4
        asked = [name for name in request.query_params.getlist("runs") if name in names]
        chosen = gr.update(choices=names, value=asked or self._alike(session, names, model)[:2])
        if len(asked) > 1:
            return chosen, *self.compare(asked, None, request)
        return chosen, "" if names else views.empty(NO_MODEL), *[gr.skip()] * 3

    def _alike(self, session: Session, names: list[str], model: str | None) -> list[str]:
        """Return those that can be compared with a model: runs are held against each other by one metric."""
        metrics = {}
        for name in names:
            with suppress(HfftError):
                metrics[name] = self.space.models.read(self.space.source(session, name)).record.solved.metric
        return [name for name, metric in metrics.items() if metric == metrics.get(model or names[0])]

    def compare(self, names: list[str], path: str | None, request: gr.Request) -> Any:
        """Answer with a table, the images on which the runs differ, a note on them, and the curves of all."""
        if len({*(names or [])}) < 2:
            raise DataError("choose two runs or more")
        session = self.space.visits.of(request.session_hash)
        runs, answers = self.space.compare(session, names, path)
        metrics = {WORDS[run.record.solved.metric].name for run in runs}
        if len(metrics) > 1:
            raise DataError(f"choose runs of one task: {' and '.join(sorted(metrics))} do not compare")
        hint = "" if path else views.note("With an image under Classify, each run's answer stands here as well.")
        text = views.comparison(runs, answers) + views.differences(runs) + hint
        return text, *_differing(self.space, session, runs), compared(runs)


def _differing(space: Space, session: Session, runs: Sequence[FinishedRun]) -> tuple[Any, str]:
    """Return the pictures of images that runs answer differently, and a note on how many there are."""
    found = disagreements(runs)
    if found is None:
        return gr.update(visible=False), ""  # which the table says
    images, pictures = space.loaded(session, runs[0].name).images, []
    for each in found[0][:_DIFFERING]:
        image = images.get(each.file, THUMBNAIL) if images is not None else None
        if image is not None:
            image.thumbnail((THUMBNAIL, THUMBNAIL))
            said = "; ".join(f"{run.name} says {answer}" for run, answer in zip(runs, each.said, strict=True))
            pictures.append((image, f"{each.label}: {said}"))
    shown = f", {len(pictures)} of which are shown, those first that the fewest have right" if pictures else ""
    note = views.note(f"They differ on {len(found[0]):,} of {found[1]:,} validation images{shown}.")
    return gr.update(value=pictures, visible=bool(pictures)), note
