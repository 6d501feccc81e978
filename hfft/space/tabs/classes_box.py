"""The first box: the classes that are to be trained, and how images come into them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr

from hfft.space.first_screen import FirstScreen
from hfft.space.service import Space
from hfft.space.trainings.sessions import Session
from hfft.space.trainings.visitors import FILES, NO_IMAGES, SMALL, SOURCES, UPLOADED, ZIP
from hfft.space.views import cards
from hfft.space.views.cards import class_cards
from hfft.space.widgets import ImageFile, plainly

_CAMERA = Path(cards.__file__).with_name("camera")
_FITTING = f"""(source) => {json.dumps([[ZIP], [FILES], UPLOADED])}.map(
    (sources) => ({{__type__: "update", visible: sources.includes(source)}})
)"""


class ClassesBox:
    """Cards of the classes, and what adds images to them.

    Args:
        space: what answers.
        screen: what stands behind the boxes.

    Attributes:
        source: which images are trained on.
        cards: the classes with their counts.
        given: what was read, in words.
        changed: events of the page at which there are other images than before.
    """

    def __init__(self, space: Space, screen: FirstScreen) -> None:
        self.space, self.screen = space, screen
        small = space.trainings.small() is not None
        order = [source for source in SOURCES if small or source != SMALL]
        gr.HTML("<h2>1. Your classes</h2>", label="Heading")
        self.cards = gr.HTML(class_cards(screen.cards(Session(), order[0])), label="Classes", elem_id="classes")
        self.source = gr.Radio(order, value=order[0], label="Images", elem_id="source")
        self._uploads(order[0])
        self.changed = [self.source.change, self.given.change]
        self._wire()

    def _uploads(self, source: str) -> None:
        self.archive = gr.File(
            file_types=[".zip"],
            label="Zip file: one folder of images for each class",
            elem_id="zip",
            height=140,
            visible=source == ZIP,
        )
        with gr.Group(visible=source == FILES) as self.by_class:
            self.name = gr.Textbox(label="Class name", max_length=60, elem_id="class-name")
            self.files = gr.File(file_count="multiple", label="Images of this class", elem_id="class-files", height=140)
            self.camera = gr.HTML(
                html_template=_CAMERA.with_suffix(".html").read_text(encoding="utf-8"),
                js_on_load=_CAMERA.with_suffix(".js").read_text(encoding="utf-8"),
                label="Camera",
                elem_id="class-camera",
            )
            self.snap = ImageFile(
                sources=["clipboard"],
                type="filepath",
                image_mode=None,
                label="Or paste pictures of this class, one after the other",
                elem_id="class-snap",
                height=160,
            )
            self.add = gr.Button("Add to this class", elem_id="class-add")
        with gr.Column(visible=source in UPLOADED) as self.own:
            self.given = gr.Textbox(NO_IMAGES, label="What was read", interactive=False, elem_id="given", lines=2)
            self.clear = gr.Button("Remove all", size="sm", elem_id="class-clear")

    def _wire(self) -> None:
        # The page itself shows what fits the source: an answer of the server may be older than the latest choice.
        self.source.change(
            None, self.source, [self.archive, self.by_class, self.own], js=_FITTING, api_visibility="private"
        )
        self.source.input(
            None, self.source, None, js="(source) => {hfftChosen.source = source}", api_visibility="private"
        )
        named, added = [self.name, self.files], [self.given, self.name, self.files]
        self.source.input(self.choose, self.source, None, api_visibility="private", show_progress="hidden")
        read = self.archive.upload(
            plainly(self.read_zip), self.archive, [self.given, self.archive], api_name="read_zip"
        )
        # Also where it cannot be used: there is no room for another zip before.
        read.failure(lambda: None, None, self.archive, api_visibility="private", show_progress="hidden")
        self.add.click(plainly(self.add_files), named, added, api_name="add_files")
        self.snap.input(
            plainly(self.add_picture), [self.name, self.snap], [self.given, self.snap], api_visibility="private"
        )
        self.camera.input(
            plainly(self.add_frames), self.name, self.given, api_visibility="private", show_progress="hidden"
        )
        self.clear.click(plainly(self.clear_images), None, self.given, api_name="clear_images")

    def choose(self, source: str, request: gr.Request) -> None:
        """Remember the kind of images."""
        self.space.visits.of(request.session_hash).source = source

    def drawn(self, source: str, request: gr.Request) -> str:
        """Answer with the cards."""
        return class_cards(self.screen.cards(self.space.visits.of(request.session_hash), source))

    def there(self, request: gr.Request) -> Any:
        """Answer with what a visitor who comes again has given: the source, and what was read."""
        session = self.space.visits.of(request.session_hash)
        source = session.source or (ZIP if session.given else "")
        if not source:  # the page shows what a first visit begins with
            return gr.skip(), gr.skip()
        return source, self.space.trainings.describe(session)

    def read_zip(self, path: str | None, request: gr.Request) -> Any:
        """Answer with what is in a zip, and what was left out of it, and an emptied upload."""
        return self.space.trainings.read_zip(self.space.visits.of(request.session_hash), path), None

    def add_files(self, name: str, paths: list[str] | None, request: gr.Request) -> Any:
        """Answer with what there is now, an emptied name and an emptied upload."""
        session = self.space.visits.of(request.session_hash)
        return self.space.trainings.add_files(session, name, paths or []), "", None

    def add_picture(self, name: str, path: str | None, request: gr.Request) -> Any:
        """Answer with what there is now, and room for the next picture; the name of the class stays."""
        if not path:
            return gr.skip(), gr.skip()
        return self.space.trainings.add_files(self.space.visits.of(request.session_hash), name, [path]), None

    def add_frames(self, name: str, event: gr.EventData, request: gr.Request) -> str:
        """Answer with what there is now, with what the camera recorded; the name of the class stays."""
        frames = event.frames if isinstance(event.frames, list) else []
        return self.space.trainings.add_frames(self.space.visits.of(request.session_hash), name, frames)

    def clear_images(self, request: gr.Request) -> str:
        """Answer with what there is now: nothing."""
        return self.space.trainings.clear_images(self.space.visits.of(request.session_hash))
