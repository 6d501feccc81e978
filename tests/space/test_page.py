"""How the events of the page are wired."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("gradio", reason="the extra 'space' is not installed")

from hfft.space.options import SpaceArguments
from hfft.space.service import Space
from hfft.space.tabs.page import build

if TYPE_CHECKING:
    import gradio as gr


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[gr.Blocks]:
    work = tmp_path_factory.mktemp("page")
    space = Space(SpaceArguments(outputs=str(work / "outputs")), work, device="cpu")
    yield build(space)
    space.close()


def modes(page: gr.Blocks, name: str) -> list[str]:
    """Return how each event of the page that writes a widget with the server's answer deals with several at once."""
    events = [event for event in page.fns.values() if event.fn is not None and event.targets]
    return [event.trigger_mode for event in events if name in [output.elem_id for output in event.outputs]]


@pytest.mark.parametrize(
    "name",
    [
        *("flow", "architecture", "epochs", "player", "feature-map", "steps", "lesson", "comparison", "differing"),
        *("label", "overlay", "about"),
    ],
)
def test_one_event_writes_what_belongs_to_a_choice_and_answers_the_last_one(page: gr.Blocks, name: str) -> None:
    assert modes(page, name) == ["always_last"]


def test_answers_to_the_quiz_are_judged_one_after_the_other(page: gr.Blocks) -> None:
    judged = [event for event in page.fns.values() if event.name == "judge"]
    assert judged
    assert {(event.concurrency_id, event.concurrency_limit) for event in judged} == {("quiz", 1)}
    assert {event.trigger_mode for event in judged} == {"always_last"}
