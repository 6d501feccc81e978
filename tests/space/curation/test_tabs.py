"""What the tabs show a visitor who loads the page again while something is under way."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from PIL import Image

from hfft.space.curation.images import GIVEN
from hfft.space.tabs.curation.label_next import LabelNextTab
from hfft.space.tabs.curation.labels import LabelsTab
from hfft.space.tabs.finetune import FinetuneTab
from hfft.space.trainings.queue import Errand, Job, Training
from hfft.space.trainings.visitors import ZIP
from hfft.space.widgets import Name

from .conftest import Visit, done_at_once

RELOADED: Any = SimpleNamespace(session_hash="reloaded")


@pytest.fixture
def started(visit: Visit, monkeypatch: pytest.MonkeyPatch) -> list[Training]:
    """What is under way; a page that is loaded again belongs to the visit."""
    trainings: list[Training] = []

    def submit(job: Job | Errand) -> Training:
        trainings.append(Training(job, "running", "Half of it."))
        return trainings[-1]

    monkeypatch.setattr(visit.space.trainings.queue, "submit", submit)
    monkeypatch.setattr(visit.space.visits, "of", lambda connection: visit.session)
    return trainings


def test_a_search_goes_on_after_a_reload_and_can_be_cancelled(visit: Visit, started: list[Training]) -> None:
    with gr.Blocks():
        tab = LabelsTab(visit.space, FinetuneTab(visit.space, Name(["run"], value="run")))
    (status, look, stop, desk, *_), *more = tab.there(RELOADED)
    assert (status, look["visible"], stop["visible"], desk["visible"], more) == ("", True, False, False, [])
    tab.desks.look(visit.session, GIVEN, ZIP, "run")
    shown = tab.there(RELOADED)
    status, look, stop, desk, *_ = next(shown)
    assert "Running. Half of it." in status
    assert (look["visible"], stop["visible"], desk["visible"]) == (False, True, False)
    tab.cancel_search(RELOADED)
    status, look, stop, *_ = list(shown)[-1]
    assert "Cancelled." in status
    assert (look["visible"], stop["visible"]) == (True, False)


def test_a_ranking_goes_on_after_a_reload_to_its_photos(
    visit: Visit, started: list[Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    with gr.Blocks():
        tab = LabelNextTab(visit.space, FinetuneTab(visit.space, Name(["run"], value="run")))
    assert [status for status, *_ in tab.there("run", RELOADED)] == [""]
    image = visit.space.work / "photo.png"
    Image.new("RGB", (40, 40)).save(image)
    tab.next.choose(visit.session, [str(image)], "run")
    shown = tab.there("run", RELOADED)
    status, turn, photo, *_ = next(shown)
    assert "Running. Half of it." in status
    assert "No photo to label." in photo
    done = done_at_once(started[0].job)
    for field in dataclasses.fields(done):
        setattr(started[0], field.name, getattr(done, field.name))
    status, turn, photo, *_ = list(shown)[-1]
    assert "Done. 1 of 1 photo." in status
    assert turn.endswith("/00000.png")
    assert "Photo 1 of 1" in photo
