"""The second box: where the model is cut, for how long it is trained, and the button that trains it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from hfft.errors import HfftError
from hfft.space.first_screen import FirstScreen
from hfft.space.service import Space
from hfft.space.trainings.sessions import Session
from hfft.space.trainings.visitors import DEFAULT_POLICY, describe_policy, policy_choices
from hfft.space.views import cut as views
from hfft.space.views.html import no_progress
from hfft.space.widgets import Name

_SEEN = "() => document.querySelector('#status').scrollIntoView({block: 'nearest'})"
_DRAWING = Path(views.__file__)


class CutBox:
    """The cut with its handle, the epochs, other policies, and what a training says of itself.

    Args:
        space: what answers.
        screen: what stands behind the boxes.
        source: of the images, on a first visit.
        model: that the page shows on a first visit; None without one.

    Attributes:
        cut: the drawing; its events are ``input`` when the handle has moved and ``release`` when it was let go.
        policy: what is trained, as ``--policy`` takes it.
        epochs: passes over the training images.
        start: the button that trains.
        stop: the button that cancels.
        status: how far a training is.
        get: the button that downloads the model.
    """

    def __init__(self, space: Space, screen: FirstScreen, source: str, model: str | None) -> None:
        self.space, self.screen = space, screen
        most = space.options.max_epochs
        epochs = min(EPOCHS, most)
        gr.HTML("<h2>2. The cut</h2>", label="Heading")
        self.cut = gr.HTML(
            self.value(Session(), source, DEFAULT_POLICY, epochs, model),
            html_template=_DRAWING.with_suffix(".html").read_text(encoding="utf-8"),
            js_on_load=_DRAWING.with_suffix(".js").read_text(encoding="utf-8"),
            label="Where the model is cut",
            elem_id="cut",
            min_height=330,
        )
        self.start = gr.Button("Train", variant="primary", elem_id="start")
        self.stop = gr.Button("Cancel", variant="stop", elem_id="cancel", visible=False)
        self.status = gr.HTML(no_progress(), label="Progress", elem_id="status", min_height=170)
        self.get = gr.DownloadButton("Download this model", visible=False, elem_id="get")
        self.epochs = gr.Slider(1, most, epochs, step=1, label="Epochs", elem_id="epoch-count")
        with gr.Accordion("Other choices than a cut", open=False):
            self.policy = Name(
                policy_choices(),
                value=DEFAULT_POLICY,
                allow_custom_value=True,
                label="What is trained",
                info="Another argument can be typed: last_n:4",
                elem_id="policy",
            )
            self.meaning = gr.Markdown(describe_policy(DEFAULT_POLICY), elem_id="meaning")
        private: dict[str, Any] = {"api_visibility": "private"}
        self.policy.change(
            describe_policy, self.policy, self.meaning, show_progress="hidden", trigger_mode="always_last", **private
        )
        gr.on([self.start.click, self.cut.release], None, None, None, js=_SEEN)
        # The page itself does this: what the handle shows is what is trained, whatever the server is still busy with.
        moved = [self.cut.input, self.cut.release]
        gr.on(moved, None, None, self.policy, js="() => hfftChosen.policy", **private)
        self.policy.input(None, self.policy, None, js="(policy) => {hfftChosen.policy = policy}", **private)

    def value(self, session: Session, source: str, policy: str | None, epochs: float, model: str | None) -> Any:
        """Return what the drawing shows for what is chosen now."""
        try:
            return self.screen.cut(session, source, policy or DEFAULT_POLICY, epochs, model)
        except HfftError as error:
            return views.no_cut(f"There is nothing to cut: {error}")


EPOCHS = 5
"""Passes over the training images that the page begins with."""
