"""What stands behind the page, without a page: examples, cameras, sheets, and models that rest."""

from __future__ import annotations

import base64
import csv
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from bad_uploads import make_zip, png, two_classes
from finished import make_images, make_model, run_finetune

pytest.importorskip("gradio", reason="the extra 'space' is not installed")

from hfft.errors import DataError, HfftError, ModelError
from hfft.inference.classifier import Prediction
from hfft.space.models import Models
from hfft.space.options import SpaceArguments
from hfft.space.service import Space, write_sheet
from hfft.space.trainings.sessions import OwnModel, Session
from hfft.space.trainings.visitors import MOST_FRAMES, RECORDED
from hfft.space.uploads import Limits, frame
from hfft.space.views.html import evaluated
from hfft.tasks.contract import Score
from hfft.tasks.regression import REGRESSION
from hfft.tasks.single_label import SINGLE_LABEL


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("service")
    run_finetune(make_model(folder / "base"), make_images(folder / "images"), folder / "outputs" / "run")
    return folder / "outputs"


@pytest.fixture
def space(outputs: Path, tmp_path: Path) -> Iterator[Space]:
    space = Space(SpaceArguments(outputs=str(outputs)), tmp_path, "cpu")
    yield space
    space.close()


def address(colour: tuple[int, int, int] = (9, 9, 9), kind: str = "jpeg") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(png(colour)).decode()}"


def test_what_a_camera_recorded_is_put_under_its_class(space: Space) -> None:
    session = Session()
    frames = [address((number, 0, 0)) for number in range(5)]
    text = space.trainings.add_frames(session, "mug", frames)
    assert "mug (5)" in text
    assert RECORDED in text
    assert session.given is not None
    assert len(list(session.given.folder.glob("train/mug/*"))) == 5
    assert "mug (6)" in space.trainings.add_frames(session, "mug", [address((0, 7, 0))])
    assert session.given.uploaded.notes == [RECORDED]
    assert not [file for file in (space.work / "uploads").rglob("*") if file.is_file()]


def test_what_was_made_of_a_visitors_images_goes_with_the_visit(space: Space, outputs: Path) -> None:
    session = Session()
    run = shutil.copytree(outputs / "run", space.trainings.folder(session, "run") / "run")
    session.own["mine"] = OwnModel(run, None)
    assert space.examples(session, "mine")
    space.classify_batch(session, "mine", [str(outputs.parent / "images" / "red" / "0.png")])
    space.trainings.end(session)
    assert not [file for file in space.work.rglob("*") if file.is_file()]


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([], "choose the images"),
        ([address()] * (MOST_FRAMES + 1), f"at most {MOST_FRAMES}"),
        (["/etc/passwd"], "not a picture that a camera took"),
        (["data:text/html;base64,PGI+"], "not a picture that a camera took"),
        ([7], "not a picture that a camera took"),
        (["data:image/jpeg;base64,****"], "damaged"),
    ],
)
def test_what_no_camera_took_is_refused(frames: list[str], reason: str, space: Space) -> None:
    session = Session()
    with pytest.raises(HfftError, match=reason):
        space.trainings.add_frames(session, "mug", frames)
    assert session.given is None


def test_a_frame_is_no_longer_than_an_upload(space: Space) -> None:
    with pytest.raises(DataError):
        frame(address() + "A" * 2_000_000, Limits(megabytes=1))


def test_a_frame_that_is_no_image_is_left_out_and_said(space: Space) -> None:
    broken = f"data:image/jpeg;base64,{base64.b64encode(b'no image').decode()}"
    assert "Left out: 1" in space.trainings.add_frames(Session(), "mug", [address(), broken])


def test_visitors_who_upload_the_same_file_do_not_take_it_from_each_other(space: Space, tmp_path: Path) -> None:
    image, archive = tmp_path / "uploads" / "hash" / "a.png", tmp_path / "uploads" / "other" / "z.zip"
    for file in (image, archive):
        file.parent.mkdir(parents=True)
    image.write_bytes(png())
    make_zip(archive, two_classes())
    for session in (Session(), Session()):
        assert "a (3), b (3)" in space.trainings.read_zip(session, str(archive))
        assert "a (4)" in space.trainings.add_files(session, "a", [image])
        (row,), _, _ = space.classify_batch(session, "run", [str(image)])
        assert not row.error


def test_an_upload_that_is_gone_is_to_be_chosen_again(space: Space, tmp_path: Path) -> None:
    image, archive = tmp_path / "uploads" / "hash" / "a.png", tmp_path / "uploads" / "other" / "z.zip"
    again = "is no longer here; choose it again"
    with pytest.raises(DataError, match=f"^the zip {again}$"):
        space.trainings.read_zip(Session(), str(archive))
    with pytest.raises(DataError, match=f"^a.png {again}$"):
        space.trainings.add_files(Session(), "a", [image])
    with pytest.raises(DataError, match=f"^a.png {again}$"):
        space.image(str(image))


def test_a_stranger_is_among_the_images_to_try(space: Space) -> None:
    labels = [label for _, label in space.offered(Session(), "run")]
    assert set(labels[:-1]) == {"red", "green", "blue"}
    assert labels[-1] == "chessboard"


def test_what_could_not_be_read_has_no_probability(tmp_path: Path) -> None:
    rows = [Prediction("a.png", "cat", 0.5, (Score("cat", 0.5),)), Prediction("b.png", error="damaged")]
    with write_sheet(tmp_path / "sheet.csv", rows).open() as stream:
        found = list(csv.DictReader(stream))
    assert [row["probability"] for row in found] == ["0.500000", ""]


def test_no_name_is_run_as_a_formula_and_numbers_stay(tmp_path: Path) -> None:
    rows = [Prediction("=1.png", "+cat", 0.5, (Score("+cat", 0.5),)), Prediction("b.png", values={"@deg": -1.5})]
    for row, task, labels, cells in (
        (rows[0], SINGLE_LABEL, (), ["'=1.png", "'+cat", "0.500000", ""]),
        (rows[1], REGRESSION, ("@deg",), ["b.png", "-1.5", ""]),
    ):
        with write_sheet(tmp_path / "sheet.csv", [row], task, labels).open() as stream:
            heads, found = csv.reader(stream)
        assert found == cells
        assert not [head for head in heads if head.startswith("@")]


def test_a_model_that_nobody_asks_for_is_let_go_of(space: Space) -> None:
    loaded = space.loaded(Session(), "run")
    space.models.rest(60)
    assert space.loaded(Session(), "run") is loaded
    loaded.asked -= 61
    space.models.rest(60)
    assert space.loaded(Session(), "run") is not loaded


def test_a_run_that_is_replaced_is_the_model_from_then_on(outputs: Path, tmp_path: Path) -> None:
    run, base = tmp_path / "outputs" / "run", outputs.parent / "base"
    shutil.copytree(outputs / "run", run)
    space, session = Space(SpaceArguments(outputs=str(tmp_path / "outputs")), tmp_path / "work", "cpu"), Session()
    before, examples = space.loaded(session, "run"), space.examples(session, "run")
    shutil.rmtree(tmp_path / "outputs")
    (run / "hfft.json").parent.mkdir(parents=True)
    assert space.models.get(str(run)) is before  # while the new one is being written
    images = make_images(tmp_path / "images")
    (images / "blue").rename(images / "<b>C#")
    run_finetune(base, images, run, overwrite_output_dir=True)
    after = space.loaded(session, "run")
    assert list(after.classifier.labels) == ["<b>C#", "green", "red"]
    assert after.run is not None
    assert after.run.record.data.labels == list(after.classifier.labels)
    assert {label for _, label in space.examples(session, "run")} == {"<b>C#", "green", "red"}
    assert {label for _, label in examples} == {"blue", "green", "red"}
    assert space.loaded(session, "run") is after
    space.close()


def test_to_ask_a_model_is_not_to_choose_it(space: Space, outputs: Path) -> None:
    session = Session(own={"mine": OwnModel(outputs / "run", None)}, shown="mine")
    assert space.loaded(session, "run").run is not None  # as a page asks before the visit's model is back
    space.compare(session, ["run", "mine"], None)
    assert space.current(session) == "mine"


def test_a_run_is_compared_and_listed_once(space: Space, outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, answers = space.compare(Session(), ["run", "run"], None)
    assert ([run.name for run in runs], answers) == (["run"], ["-"])
    monkeypatch.chdir(outputs.parent)
    assert Models("outputs/run", Path("outputs")).runs() == {"outputs/run": "outputs/run"}


def test_a_model_that_cannot_be_loaded_is_told_without_its_place_on_the_server(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    with pytest.raises(ModelError, match="broken cannot be loaded") as caught:
        Models(str(broken), tmp_path).get(str(broken))
    assert str(tmp_path) not in str(caught.value)


def test_what_a_run_is_held_against_has_a_name_for_people(space: Space) -> None:
    run = space.run(Session(), "run")
    assert run is not None
    assert "For comparison, the best constant answer: 6 of 18 right" in evaluated(run)
