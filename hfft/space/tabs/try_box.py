"""The third box: what the model says of a picture, before training and after it."""

from __future__ import annotations

import io
from typing import Any

import gradio as gr

from hfft.space.first_screen import FirstScreen
from hfft.space.service import Space
from hfft.space.trainings.sessions import Session
from hfft.space.uploads import frame
from hfft.space.views.answers import both_answers
from hfft.space.widgets import CameraFrames, ImageFile, plainly

_EVERY = 0.5  # seconds between two looks through the camera
_LIVE = 60  # seconds for which the camera is followed at a time, since it keeps a place in the queue


class TryBox:
    """A picture and two answers: that of the pretrained model as it came, and that of the model in use.

    Args:
        space: what answers.
        screen: what stands behind the boxes.
        model: the chooser of models.
    """

    def __init__(self, space: Space, screen: FirstScreen, model: gr.Dropdown) -> None:
        self.space, self.screen = space, screen
        self.model = model
        gr.HTML("<h2>3. Try it</h2>", label="Heading")
        self._picture()
        with gr.Accordion("Live camera", open=False):
            self.live = CameraFrames(
                sources=["webcam"],
                streaming=True,
                type="filepath",
                label="What the camera sees now",
                height=220,
                elem_id="try-live",
                webcam_options=gr.WebcamOptions(mirror=False, constraints={"video": {"width": {"ideal": 320}}}),
            )
            note = f"Press Record, and the answers follow the camera for {_LIVE} s. Nothing of it is kept."
            gr.Markdown(note, elem_classes="hf-note")
        self.answers = gr.HTML(both_answers(None, None, ""), label="Answers", elem_id="try-answers")
        offered = self._offered(Session(), model.value)
        self.examples = gr.Gallery(
            offered,
            label="Or press one of these",
            columns=3,
            height="auto",
            allow_preview=False,
            interactive=False,
            object_fit="contain",
            visible=bool(offered),
            elem_id="try-examples",
            elem_classes="hf-gallery",
            buttons=[],
        )

    def _picture(self) -> None:
        self.image = ImageFile(
            sources=["upload", "webcam", "clipboard"],
            type="filepath",
            image_mode=None,
            label="A picture",
            height=220,
            alt_text="The picture that you chose",
            elem_id="try-image",
            elem_classes="hf-fit",
        )

    def wire(self) -> None:
        """Let the answers follow the picture, the camera and the model."""
        quick: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        changed = [self.image.change, self.model.change]
        gr.on(changed, plainly(self.said), [self.image, self.model], self.answers, concurrency_limit=2, **quick)
        self.live.stream(
            plainly(self.seen),
            [self.live, self.model],
            self.answers,
            stream_every=_EVERY,
            time_limit=_LIVE,
            concurrency_limit=4,
            **quick,
        )
        self.model.change(self.fitting, self.model, self.examples, **quick)
        self.examples.select(self.choose, self.model, self.image, **quick)

    def said(self, path: str | None, model: str | None, request: gr.Request) -> str:
        """Answer with what the model says before training and after it."""
        if not path:
            return both_answers(None, None, "")
        session = self.space.visits.of(request.session_hash)
        return both_answers(*self.screen.answers(session, model, path), model or "")

    def seen(self, address: str | None, model: str | None, request: gr.Request) -> str:
        """Answer as `said` does, of what the camera sees at this moment."""
        if not address:
            return both_answers(None, None, "")
        session = self.space.visits.of(request.session_hash)
        picture = io.BytesIO(frame(address, self.space.limits))
        return both_answers(*self.screen.answers(session, model, picture), model or "")

    def fitting(self, model: str | None, request: gr.Request) -> Any:
        """Answer with pictures that fit a model."""
        found = self._offered(self.space.visits.of(request.session_hash), model)
        return gr.update(value=found, visible=bool(found))

    def choose(self, model: str | None, chosen: gr.SelectData, request: gr.Request) -> str | None:
        """Answer with the picture that was pressed."""
        found = self._offered(self.space.visits.of(request.session_hash), model)
        return found[chosen.index][0] if chosen.index < len(found) else None

    def _offered(self, session: Session, model: str | None) -> list[tuple[str, str]]:
        return self.space.offered(session, model)
