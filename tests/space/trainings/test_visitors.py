"""What a visitor gives to train on: what is done at the same time is done in turn."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bad_uploads import make_zip, png, two_classes

pytest.importorskip("gradio", reason="the extra 'space' is not installed")

from hfft.space import uploads
from hfft.space.models import Models
from hfft.space.options import SpaceArguments
from hfft.space.trainings import visitors
from hfft.space.trainings.sessions import Session
from hfft.space.trainings.visitors import NO_IMAGES, VisitorTrainings

MEANWHILE = 0.5
"""Seconds that the zip takes longer than what is done meanwhile, where that does not wait."""


@pytest.fixture
def trainings(tmp_path: Path) -> VisitorTrainings:
    options = SpaceArguments(outputs=str(tmp_path / "outputs"))
    return VisitorTrainings(options, tmp_path / "work", Models(None, tmp_path / "outputs", "cpu"))


def read_zip(trainings: VisitorTrainings, session: Session, archive: Path, do: Callable[[], Any]) -> None:
    """Read a zip, and let a visitor do something else before it is read."""
    unpack, other = uploads.unpack, threading.Thread(target=do)

    def slowly(*args: Any) -> Any:
        found = unpack(*args)
        other.start()
        other.join(MEANWHILE)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visitors, "unpack", slowly)
        trainings.read_zip(session, str(archive))
    other.join()


def test_images_that_are_added_while_a_zip_is_read_are_there_as_well(
    trainings: VisitorTrainings, tmp_path: Path
) -> None:
    session, image = Session(), tmp_path / "mug.png"
    image.write_bytes(png((7, 7, 7)))
    archive = make_zip(tmp_path / "z.zip", two_classes())
    read_zip(trainings, session, archive, lambda: trainings.add_files(session, "mug", [image]))
    assert session.given is not None
    assert session.given.uploaded.of("train") == {"a": 3, "b": 3, "mug": 1}
    assert len(list(session.given.folder.glob("train/mug/*"))) == 1


def test_what_is_removed_while_a_zip_is_read_does_not_come_back(trainings: VisitorTrainings, tmp_path: Path) -> None:
    session, archive = Session(), make_zip(tmp_path / "z.zip", two_classes())
    read_zip(trainings, session, archive, lambda: trainings.clear_images(session))
    assert trainings.describe(session) == NO_IMAGES
    assert session.folder is not None
    assert not list(session.folder.glob("images-*"))
