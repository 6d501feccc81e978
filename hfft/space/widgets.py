"""Widgets that hand over what visitors gave as it is, and errors that reach the page as plain words."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from html import escape
from typing import Any, Literal

import gradio as gr
from gradio.data_classes import ImageData
from gradio.events import api

from hfft.errors import HfftError

BUTTONS: tuple[Literal["download", "fullscreen"], ...] = ("download", "fullscreen")
"""Beside every picture that is shown."""


class ImageFile(gr.Image):
    """An image widget that hands over the file as it was uploaded; `hfft.space.uploads` opens it with care."""

    is_template = True

    def preprocess(self, payload: ImageData | None) -> Any:
        """Return the file's path, unopened."""
        return payload.path if payload else None


class CameraFrames(gr.Image):
    """A camera that hands over picture after picture, each as the address of data that the page sent, unopened."""

    is_template = True

    def preprocess(self, payload: ImageData | None) -> Any:
        """Return the address."""
        return payload.url if payload else None


class NameList(gr.CheckboxGroup):
    """Checkboxes whose choices grow while the page is open; the handlers hold each name against what there is."""

    is_template = True

    def preprocess(self, payload: list[str | int | float]) -> list[str]:  # type: ignore[override]
        """Return what was chosen."""
        return [str(name) for name in payload] if isinstance(payload, list) else []


class Name(gr.Dropdown):
    """A dropdown of the same kind."""

    is_template = True

    def preprocess(self, payload: Any) -> str | None:
        """Return what was chosen."""
        return None if payload is None else str(payload)


class Tabs:
    """Keeps each tab filled with what belongs to the model that the page shows.

    A tab is filled when it is opened. When another model is chosen, all are emptied at once, so that no figure of one
    model stands under the name of another, and the one that is open is filled again.

    Args:
        model: the chooser of models.
        first: id of the tab that is open at the beginning.
    """

    def __init__(self, model: gr.Dropdown, first: str) -> None:
        self.model = model
        self.opened = gr.Textbox(first, label="The open tab", visible=False)  # which the page itself writes

    def fill(
        self,
        tab: gr.Tab,
        function: Callable[..., Any],
        inputs: list[Any],
        outputs: list[Any],
        empty: Sequence[Any],
        also: Sequence[Any] = (),
        api_name: str | None = None,
        **more: Any,
    ) -> Any:
        """Fill a tab.

        Args:
            tab: with an id.
            function: takes the inputs and the request, and answers with the outputs.
            inputs: what it is told.
            outputs: widgets of this tab.
            empty: what they hold until then.
            also: events within the tab at which it is filled again.
            api_name: what programs call the function by; by default they cannot.
            more: of the event, as Gradio takes it.

        Returns:
            The event.
        """
        name = tab.id

        def filled(opened: str, request: gr.Request, *given: Any) -> Any:
            if opened == name:
                return function(*given, request)
            return [gr.skip()] * len(outputs) if len(outputs) > 1 else gr.skip()

        tab.select(None, None, self.opened, js=f"() => {json.dumps(name)}", api_visibility="private")
        cleared(self.model.change, outputs, empty)
        asked = latest([tab.select, self.model.change, *also])
        if api_name:
            gr.on([], plainly(function), inputs, outputs, api_name=api_name)
        return asked(plainly(filled), [self.opened, *inputs], outputs, api_visibility="private", **more)


def latest(events: Sequence[Any]) -> Callable[..., Any]:
    """Return the one event for an answer that several events ask for.

    It answers the last of them: of two events that write the same widgets, the answer to the older choice can come
    last, and stays.

    Args:
        events: of widgets. What was wired to them earlier is done before.
    """
    asked = gr.on(events, None, None, None, js="() => {}", api_visibility="private")
    return partial(asked.then, trigger_mode="always_last")


def cleared(event: Callable[..., Any], outputs: Sequence[Any], empty: Sequence[Any]) -> Callable[..., Any]:
    """Let widgets hold what stands where nothing is known, at an event.

    The page does so itself, without the server. What follows one event is done one after the other, in the order in
    which it was wired. So this comes before whatever the server answers, or what is said of one model stands under the
    name of the next for seconds.

    Args:
        event: of a widget, or `gr.on` with its triggers.
        outputs: the widgets.
        empty: what they are to hold; one that is to stay as it is gets ``gr.skip()``.

    Returns:
        The event of its end; of choices in quick succession it answers the last.
    """
    changed = [(output, value) for output, value in zip(outputs, empty, strict=True) if value != gr.skip()]
    values = [value for _, value in changed]
    told = json.dumps(values[0] if len(values) == 1 else values)
    done = event(None, None, [output for output, _ in changed], js=f"() => ({told})", api_visibility="private")
    return partial(done.then, trigger_mode="always_last")


def offer(function: Callable[..., Any], name: str, **more: Any) -> None:
    """Make a function an endpoint of the page for programs, whose arguments no widget holds against their types.

    Args:
        function: its arguments are annotated, as Gradio needs it; None stands for one that was left out.
        name: of the endpoint.
        more: of the event, as Gradio takes it.
    """
    parameters = inspect.signature(function).parameters.values()

    @functools.wraps(function)
    def call(*given: Any) -> Any:
        return function(*map(_argument, parameters, given), *given[len(parameters) :])

    api(plainly(call), api_name=name, **more)


def _argument(parameter: inspect.Parameter, given: Any) -> Any:
    """Return an argument as its function expects it; every text says for itself why it cannot be used.

    Raises:
        HfftError: it is not a number where one is expected.
    """
    if given is None:
        given = "" if parameter.default is parameter.empty else parameter.default
    if parameter.annotation == "str":
        return str(given)
    if parameter.annotation in ("int", "float") and not isinstance(given, int | float):
        raise HfftError(f"{parameter.name} must be a number, not {str(given)[:80]!r}")
    return given


def plainly(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn an HfftError into a message on the page; its text is shown as text, whatever names are in it."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def stream(*args: Any) -> Iterator[Any]:
            try:
                yield from function(*args)
            except HfftError as error:
                raise gr.Error(_sentence(error), print_exception=False) from error

        return stream

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        try:
            return function(*args)
        except HfftError as error:
            raise gr.Error(_sentence(error), print_exception=False) from error

    return call


def _sentence(error: HfftError) -> str:
    text = str(error)
    word = text.partition(" ")[0]
    # A file's name, or anything else that is not a plain word, stays as it is.
    return escape(text[:1].upper() + text[1:] if word.isalpha() else text, quote=False)
