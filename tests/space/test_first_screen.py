"""What stands behind the three boxes, without a page."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from finished import make_images, make_model, run_finetune
from PIL import Image

pytest.importorskip("gradio", reason="the extra 'space' is not installed")

from hfft.inference.classifier import Prediction, classify, load_classifier
from hfft.inference.runs import read_run
from hfft.space.first_screen import FirstScreen
from hfft.space.options import SpaceArguments
from hfft.space.service import Space
from hfft.space.trainings.sessions import Session, Tried
from hfft.space.trainings.small_set import ANIMALS, EACH
from hfft.space.trainings.visitors import BUILT_IN, SMALL, ZIP
from hfft.space.views.answers import both_answers
from hfft.tasks.contract import Score


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first-screen")
    base, images = make_model(folder / "base"), make_images(folder / "images")
    run_finetune(base, images, folder / "outputs" / "run", learning_rate=0.05)
    shutil.make_archive(str(folder / "images"), "zip", images)
    return folder


@pytest.fixture
def screen(folder: Path, tmp_path: Path) -> Iterator[FirstScreen]:
    space = Space(SpaceArguments(outputs=str(folder / "outputs")), tmp_path, "cpu")
    yield FirstScreen(space)
    space.close()


def give(screen: FirstScreen, session: Session, folder: Path) -> None:
    archive = shutil.copy(folder / "images.zip", screen.space.work / "given.zip")
    screen.space.trainings.read_zip(session, str(archive))


def facts(screen: FirstScreen, session: Session, source: str) -> dict[str, str]:
    value = screen.cut(session, source, "last_block", 5, "run")
    return dict(value["places"][value["at"]]["facts"])


def test_a_first_visit_has_images(screen: FirstScreen) -> None:
    cards = screen.cards(Session(), SMALL)
    assert [card.label for card in cards] == sorted(ANIMALS)
    assert all(card.counts == EACH and card.pictures for card in cards)
    small = screen.space.trainings.small()
    assert small is not None
    small.uploaded.check()
    assert len(list(small.folder.glob("*/*/*"))) == len(ANIMALS) * sum(EACH.values())


def test_the_small_sets_of_training_and_validation_share_no_image(screen: FirstScreen) -> None:
    small = screen.space.trainings.small()
    assert small is not None
    contents = [path.read_bytes() for path in small.folder.glob("*/*/*")]
    assert len(set(contents)) == len(contents)


def test_the_cards_show_what_was_given(screen: FirstScreen, folder: Path) -> None:
    session = Session()
    assert screen.cards(session, ZIP) == []
    give(screen, session, folder)
    cards = screen.cards(session, ZIP)
    assert [(card.label, card.counts) for card in cards] == [(name, {"train": 6}) for name in ("blue", "green", "red")]
    picture = (
        Image.open(io.BytesIO(base64.b64decode(cards[2].pictures[0].partition(",")[2])))
        .convert("RGB")
        .resize((1, 1))
        .getpixel((0, 0))
    )
    assert isinstance(picture, tuple)
    assert picture[0] > max(picture[1:])


def test_all_ten_animals_have_a_card(screen: FirstScreen) -> None:
    cards = screen.cards(Session(), BUILT_IN)
    assert len(cards) == 10
    assert all(card.counts == {"train": 100, "validation": 50, "test": 50} and card.pictures for card in cards)


def test_the_cut_is_that_of_the_images_and_the_model(screen: FirstScreen, folder: Path) -> None:
    session = Session()
    give(screen, session, folder)
    run = read_run(folder / "outputs" / "run")
    own = facts(screen, session, ZIP)
    assert f"({run.trained_share:.1%})" in own["Parameters trained"]
    command = screen.cut(session, ZIP, "head", 3, "run")["places"][-1]["command"]
    assert command.endswith("--policy head --num_train_epochs 3 --model_name_or_path base --train_dir my-images")
    assert own["Kept to train on"] != facts(screen, session, BUILT_IN)["Kept to train on"]


def test_dots_are_of_the_same_images_and_the_same_base(screen: FirstScreen, folder: Path) -> None:
    session, base = Session(), str(folder / "base")
    small = screen.space.trainings.small()
    assert small is not None
    session.tried = [
        Tried(small.folder, base, "head", 5, 30, 48, 3.0),
        Tried(small.folder, None, "head", 5, 31, 48, 3.0),
        Tried(None, base, "head", 5, 32, 48, 3.0),
    ]
    texts = [dot["text"] for dot in screen.cut(session, SMALL, "head", 5, "run")["tried"]]
    assert len(texts) == 1
    assert "30 of 48" in texts[0]


def test_both_answers_are_those_of_the_models(screen: FirstScreen, folder: Path) -> None:
    file = folder / "images" / "red" / "0.png"
    before, after = screen.answers(Session(), "run", str(file))
    for found, place in ((before, folder / "base"), (after, folder / "outputs" / "run")):
        (expected,) = classify(load_classifier(place, device="cpu"), [file])
        assert found is not None
        assert found.label == expected.label
        assert found.probability == pytest.approx(expected.probability, abs=1e-6)


def test_a_base_that_is_gone_is_said_beside_the_answer(folder: Path, tmp_path: Path) -> None:
    base = make_model(tmp_path / "base")
    run_finetune(base, folder / "images", tmp_path / "outputs" / "run")
    shutil.rmtree(base)
    space = Space(SpaceArguments(outputs=str(tmp_path / "outputs")), tmp_path, "cpu")
    before, after = FirstScreen(space).answers(Session(), "run", str(folder / "images" / "red" / "0.png"))
    assert "not here any more" in before.error
    assert after is not None
    html = both_answers(before, after, "run")
    assert "not here any more" in html
    assert f"<b>{after.label}</b>" in html


def test_without_a_model_the_pretrained_one_answers(folder: Path, tmp_path: Path) -> None:
    space = Space(SpaceArguments(outputs=str(tmp_path / "none")), tmp_path, "cpu")
    before, after = FirstScreen(space).answers(Session(), None, str(folder / "images" / "red" / "0.png"))
    assert before.label
    assert after is None


def test_an_image_unlike_all_is_none_of_these() -> None:
    found = Prediction("a.png", "cat", 0.9, (Score("cat", 0.9),), unknown=True, unknown_score=3.0)
    html = both_answers(found, replace(found, unknown=False), "run")
    before, after = html.split("After training")
    assert "None of these" in before
    assert "None of these" not in after
    assert "<b>cat</b>" in after
