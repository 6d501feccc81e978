"""Photos without labels: ranked, labelled one by one, taken back, and put among the classes."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hfft.errors import DataError
from hfft.space import uploads
from hfft.space.curation import labelling
from hfft.space.curation.labelling import Labelling, LabelNext
from hfft.space.trainings.sessions import OwnModel, Session

from .conftest import MEANWHILE, Visit


@pytest.fixture
def photos(visit: Visit) -> list[str]:
    """Uploads: photos of all three colours, one that the visitor has already, and one that is no image."""
    folder = visit.space.work / "uploads"
    folder.mkdir(parents=True)
    generator, paths = np.random.default_rng(7), []
    for number in range(6):
        pixels = generator.integers(0, 120, (40, 40, 3), np.uint8)
        pixels[..., number % 3] += 120
        paths.append(folder / f"photo {number}.png")
        Image.fromarray(pixels).save(paths[-1])
    (folder / "broken.png").write_bytes(b"no image")
    return [*map(str, paths), str(folder / "broken.png")]


def ranked(visit: Visit, photos: list[str]) -> tuple[LabelNext, Labelling]:
    after = LabelNext(visit.space)
    after.choose(visit.session, photos, "run")
    return after, list(after.follow(visit.session))[-1]


def test_photos_are_ranked_labelled_and_joined(visit: Visit, photos: list[str]) -> None:
    after, found = ranked(visit, photos)
    assert found.photos is not None
    assert sorted(each.rank for each in found.photos) == [1, 2, 3, 4, 5, 6]
    assert all(Path(photo).exists() for photo in photos)  # another visitor may have uploaded the same
    assert after.classes(visit.session, "run") == ["blue", "green", "red"]
    assert after.picture(found).startswith("data:image/jpeg;base64,")
    given = visit.session.given
    assert given is not None
    before = given.uploaded.counts.copy()
    for label in ("red", "red", "", "violet"):
        found.answer(label)
    unanswered = found.photos[4:]
    said = after.join(visit.session)
    assert said.startswith("To train on: 33 images in 4 classes")
    assert said.endswith("2 photos are left to label.")
    assert given.uploaded.counts - before == Counter({("train", "red"): 2, ("train", "violet"): 1})
    assert after.of(visit.session) is found
    assert (found.photos, found.at, found.labelled) == (unanswered, 0, {})
    assert after.picture(found).startswith("data:image/jpeg;base64,")
    for label in ("red", ""):
        found.answer(label)
    assert "left to label" not in after.join(visit.session)
    assert not found.folder.exists()
    assert after.of(visit.session) is None


def test_files_that_are_no_photos_are_counted_with_the_reason(visit: Visit, photos: list[str]) -> None:
    _, found = ranked(visit, photos)
    assert found.status.startswith("Done. 6 of 6 photos.")
    assert " Left out: 1; the first: broken.png is not an image that can be read" in found.status


def test_undo_asks_again(visit: Visit, photos: list[str]) -> None:
    after, found = ranked(visit, photos)
    found.answer("red")
    found.answer("")
    assert (found.at, found.labelled) == (2, {0: "red"})
    found.undo()
    found.undo()
    assert (found.at, found.labelled) == (0, {})
    with pytest.raises(DataError, match="nothing was labelled"):
        found.undo()
    with pytest.raises(DataError, match="label at least one photo first"):
        after.join(visit.session)


def test_a_press_counts_for_the_photo_that_was_on_show_alone(visit: Visit, photos: list[str]) -> None:
    after, found = ranked(visit, photos)
    assert found.photos is not None
    first = found.turn
    assert after.press(visit.session, first, lambda found: found.answer("red"))
    assert not after.press(visit.session, first, lambda found: found.answer("green"))
    assert not after.press(visit.session, first, Labelling.undo)
    assert found.labels == {0: "red"}
    second, image = found.turn, found.photos[1].image
    after.join(visit.session)  # the photo that was on show is another number now
    assert after.press(visit.session, second, lambda found: found.answer("green"))
    assert found.photos[0].image == image
    assert found.labels == {0: "green"}
    after, found = ranked(visit, photos[:1])
    assert not after.press(visit.session, first, lambda found: found.answer("red"))
    assert after.press(visit.session, found.turn, lambda found: found.answer("red"))
    assert after.press(visit.session, found.turn, Labelling.undo)
    with pytest.raises(DataError, match="add photos first"):
        after.press(Session(), first, Labelling.undo)


def test_photos_are_there_though_nobody_followed_the_ranking(visit: Visit, photos: list[str]) -> None:
    after = LabelNext(visit.space)
    after.choose(visit.session, photos, "run")
    found = after.of(visit.session)
    assert found is not None
    assert found.photos is not None
    found.answer("red")
    after.join(visit.session)
    assert list(after.follow(visit.session))[-1].photos == found.photos  # which are not read again
    assert len(found.photos) == 5


def test_what_is_answered_while_photos_are_put_among_the_classes_is_kept(
    visit: Visit, photos: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    after, found = ranked(visit, photos)
    found.answer("red")
    turn, place, done = found.turn, uploads.place, []
    other = threading.Thread(
        target=lambda: done.append(after.press(visit.session, turn, lambda found: found.answer("green")))
    )

    def slowly(*given: Any) -> None:
        place(*given)
        other.start()
        other.join(MEANWHILE)

    monkeypatch.setattr(labelling, "place", slowly)
    assert after.join(visit.session).endswith("5 photos are left to label.")
    other.join()
    assert done == [True]
    assert found.labelled == {0: "green"}


def test_after_the_last_photo_there_is_nothing_to_label(visit: Visit, photos: list[str]) -> None:
    after, found = ranked(visit, photos[:1])
    found.answer("red")
    assert found.at is None
    assert after.picture(found) == ""
    with pytest.raises(DataError, match="there is no photo to label"):
        found.answer("red")


@pytest.mark.processes
def test_a_visitor_without_images_goes_on_with_those_of_the_model(visit: Visit, photos: list[str]) -> None:
    training = visit.space.trainings.start(visit.session, "Zip of class folders", "last_block", 1, None)
    assert training.state == "done", training.message
    list(visit.space.trainings.follow(visit.session, training))
    (name,) = visit.session.own
    visit.session.given = None
    after = LabelNext(visit.space)
    after.choose(visit.session, photos, name)
    found = list(after.follow(visit.session))[-1]
    found.answer("red")
    after.join(visit.session)
    given = visit.session.given
    assert given is not None
    assert given.folder != visit.session.own[name].images
    assert given.uploaded.of("train") == {"blue": 11, "green": 10, "red": 10}


def test_labels_of_a_model_become_class_names(visit: Visit, photos: list[str], tmp_path: Path) -> None:
    after, found = ranked(visit, photos)
    given = visit.session.given
    assert given is not None
    images = sorted((given.folder / "train").glob("red/*.png"))
    for name, labels in {"tree": ("../../../tmp/x", "warm/red"), "twins": ("warm/red", "warm red")}.items():
        rows = [f"{image},{labels[number % 2]}\n" for number, image in enumerate(images)]
        (tmp_path / f"{name}.csv").write_text("image,label\n" + "".join(rows))
        visit.session.own[name] = OwnModel(tmp_path / "run", tmp_path / f"{name}.csv")
    visit.session.given, found.model = None, "twins"
    found.answer("red")
    with pytest.raises(DataError, match="two classes would be called 'warm red'"):
        after.join(visit.session)
    found.model = "tree"
    after.join(visit.session)
    given = visit.session.given
    assert given is not None
    assert set(given.uploaded.of("train")) == {"tmp x", "warm red", "red"}
    assert {path.name for path in (given.folder / "train").iterdir()} == {"tmp x", "warm red", "red"}


def test_what_cannot_be_ranked_is_said(visit: Visit, photos: list[str]) -> None:
    after = LabelNext(visit.space)
    with pytest.raises(DataError, match="choose some photos first"):
        after.choose(visit.session, [], "run")
    broken = shutil.copy(photos[-1], photos[-1].replace("broken", "other"))
    with pytest.raises(DataError, match=r"not one of these files can be used; the first: other\.png is not an image"):
        after.choose(visit.session, [broken], "run")
    assert after.of(Session()) is None
