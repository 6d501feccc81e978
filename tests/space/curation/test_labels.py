"""The label desk of a visit: decisions, which can be taken back, and a training on the new list."""

from __future__ import annotations

import csv
import hashlib
import io
import threading
from pathlib import Path

import pytest
from bad_uploads import png
from PIL import Image

from hfft.curate.desk import Desk, Suspect
from hfft.errors import DataError, HfftError
from hfft.inference.runs import EvaluationImages
from hfft.report.record import read_record
from hfft.space.curation.images import GIVEN, OF_MODEL, Pictures
from hfft.space.curation.labels import LabelDesk, LabelDesks, computed_anew
from hfft.space.curation.review import Decision, Review
from hfft.space.trainings.queue import Errand, Job, Training, data_options
from hfft.space.trainings.sessions import Session
from hfft.space.trainings.visitors import ZIP
from hfft.space.views import curation as views

from .conftest import MEANWHILE, Visit


def found(count: int = 3) -> Review:
    suspects = tuple(Suspect("label", f"cat/{n}.png", "train", "cat", "dog", 0.9) for n in range(count))
    return Review(Desk("photos", "model", {"train": 9}, 9, (), suspects))


def test_a_decision_leads_to_the_next_finding_that_is_open() -> None:
    review = found()
    review.look(1)
    review.decide(Decision("drop"))
    assert review.at == 2
    review.decide(Decision("keep"))
    assert review.at == 0
    review.decide(Decision("relabel", "dog"))
    assert (review.at, len(review.decisions)) == (0, 3)  # nothing is open any more
    assert review.describe() == "3 of 3 findings decided: 1 kept, 1 relabelled, 1 dropped."


def test_undo_goes_back_one_decision_at_a_time() -> None:
    review = found()
    review.decide(Decision("drop"))
    review.look(0)
    review.decide(Decision("keep"))
    review.undo()
    assert (review.at, review.decisions) == (0, {0: Decision("drop")})
    review.undo()
    assert (review.at, review.decisions) == (0, {})
    with pytest.raises(DataError, match="nothing was decided"):
        review.undo()


def test_a_new_label_needs_a_name() -> None:
    with pytest.raises(DataError, match="choose the label"):
        found().decide(Decision("relabel"))
    with pytest.raises(DataError, match="look for wrong labels first"):
        found(0).decide(Decision("keep"))


def test_decisions_are_written_as_the_command_line_reads_them() -> None:
    review = found()
    review.decide(Decision("relabel", "fox"))
    (row,) = csv.DictReader(io.StringIO(review.csv()))
    assert (row["image"], row["split"], row["label"]) == ("cat/0.png", "train", "cat")
    assert (row["action"], row["new_label"], row["suggestion"]) == ("relabel", "fox", "dog")


def looked(visit: Visit, place: str = GIVEN) -> tuple[LabelDesks, LabelDesk]:
    desks = LabelDesks(visit.space)
    desks.look(visit.session, place, ZIP, "run")
    return desks, list(desks.follow(visit.session))[-1]


def test_a_press_counts_for_the_finding_that_was_on_show_alone(visit: Visit) -> None:
    desks, desk = looked(visit)
    session, desk.review = visit.session, found()
    first = desk.turn
    assert desks.press(session, first, lambda review: review.decide(Decision("keep")))
    assert not desks.press(session, first, lambda review: review.decide(Decision("relabel", "dog")))
    assert not desks.press(session, first, Review.undo)
    assert (desk.review.at, desk.review.decisions) == (1, {0: Decision("keep")})
    assert desks.press(session, desk.turn, lambda review: review.decide(Decision("drop")))
    assert desk.review.decisions == {0: Decision("keep"), 1: Decision("drop")}
    assert desks.choose(session, first, 2)  # which says itself which finding it means
    assert desk.review.at == 2


def test_of_presses_at_the_same_time_the_first_counts(visit: Visit) -> None:
    desks, desk = looked(visit)
    desk.review, turn, later = found(), desk.turn, []
    other = threading.Thread(target=lambda: later.append(desks.press(visit.session, turn, Review.undo)))

    def slowly(review: Review) -> None:
        other.start()
        other.join(MEANWHILE)
        review.decide(Decision("drop"))

    assert desks.press(visit.session, turn, slowly)
    other.join()
    assert later == [False]
    assert desk.review.decisions == {0: Decision("drop")}


def test_findings_are_there_though_nobody_followed_the_search(visit: Visit) -> None:
    desks = LabelDesks(visit.space)
    desks.look(visit.session, GIVEN, ZIP, "run")
    review = desks.review(visit.session)
    review.decide(Decision("keep"))
    assert list(desks.follow(visit.session))[-1].review is review  # which is not read again


def test_a_press_does_not_count_for_another_search(visit: Visit) -> None:
    desks, desk = looked(visit)
    before = desk.turn
    _, desk = looked(visit)
    assert desk.review is not None
    assert desk.review.at == 0
    assert not desks.press(visit.session, before, lambda review: review.decide(Decision("keep")))
    assert not desks.choose(visit.session, before, 0)
    assert desk.review.decisions == {}


def digests(folder: Path) -> dict[str, str]:
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_the_wrong_label_is_found_mended_and_trained_on_without_a_new_row(visit: Visit) -> None:
    desks, desk = looked(visit)
    assert desk.review is not None
    first = desk.review.current
    assert first is not None
    assert (first.finding, first.label, first.suggestion) == ("label", "blue", "red")
    shown = views.finding(desk.review, desk.pictures)
    assert "The other images speak for <b>red</b>" in shown
    assert shown.count("<img") == 1 + len(first.nearest)
    desk.review.decide(Decision("relabel", "red"))
    assert "Now red." in views.gallery(desk.review, desk.pictures)
    given = visit.session.given
    assert given is not None
    before = digests(given.folder)
    fixed, training = desks.train_again(visit.session, "last_block", 1, "run")
    assert digests(given.folder) == before
    assert (fixed.images, fixed.relabelled, fixed.dropped) == (30, 1, 0)
    assert training.state == "done", training.message
    assert computed_anew(training) == (0, 30)  # the search has put all rows into the cache
    list(visit.space.trainings.follow(visit.session, training))
    (own,) = visit.session.own.values()
    record = read_record(own.run / "hfft.json")
    assert record.data.labels == ["blue", "green", "red"]
    pictures = EvaluationImages(record, local=True)
    assert isinstance(training.job, Job)
    named = Pictures(data_options(training.job.images)).gathered.splits["train"]
    assert named.names.count("red") == 10
    assert isinstance(pictures.trained_on(named.images.files[0]) or pictures.get(named.images.files[0]), Image.Image)


def test_a_new_label_is_a_class_name_and_one_of_the_images_stays(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(png((number, 0, 0)))
    (tmp_path / "tree.csv").write_text("image,label\n0.png,warm/red\n1.png,warm/red\n2.png,cold/blue\n")
    errand = Training(Errand(tmp_path, "labels", {}))
    desk = LabelDesk(Pictures(data_options(tmp_path / "tree.csv")), errand)
    assert desk.named(" warm/red ") == "warm/red"
    assert desk.named("../../../tmp/x") == "tmp x"
    assert desk.named(" ") == ""
    with pytest.raises(DataError, match="needs a name"):
        desk.named("../..")


def test_images_stay_while_labels_are_looked_at_and_as_long_as_a_model_of_their_list(visit: Visit) -> None:
    desks, desk = looked(visit)
    given, trainings = visit.session.given, visit.space.trainings
    assert given is not None
    trainings.clear_images(visit.session)
    assert given.folder.exists()  # the findings are of these
    for _ in range(2):  # the second list is made of the first
        first = desk.pictures.gathered.splits["train"].images.files[0]
        desk.review = Review(Desk("photos", "model", {}, 0, (), (Suspect("label", first, "train", "x"),)))
        desk.review.decide(Decision("drop"))
        _, training = desks.train_again(visit.session, "head", 1, "run")
        list(trainings.follow(visit.session, training))
        visit.session.looked = None  # as where other images are looked at
        trainings.clear_images(visit.session)
        assert given.folder.exists()
        desks.look(visit.session, OF_MODEL, ZIP, next(reversed(visit.session.own)))
        desk = list(desks.follow(visit.session))[-1]
    visit.session.own.clear()
    trainings.clear_images(visit.session)
    assert given.folder.exists()
    visit.session.looked = None
    trainings.clear_images(visit.session)
    assert not given.folder.exists()


def test_the_images_of_a_run_are_looked_at_where_they_are_here(visit: Visit, folder: Path) -> None:
    before = digests(folder / "images")
    _, desk = looked(visit, OF_MODEL)
    assert desk.review is not None
    assert desk.review.desk.images == {"train": 30, "validation": 30}
    assert digests(folder / "images") == before


def test_images_that_a_run_names_from_the_folder_of_its_command_are_found(
    visit: Visit, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = visit.space.models.read(visit.space.models.runs()["run"])
    run.record.arguments |= {"train_dir": "images", "validation_dir": "images"}
    monkeypatch.setattr(visit.space, "run", lambda session, model: run)
    monkeypatch.chdir(folder)
    _, desk = looked(visit, OF_MODEL)
    assert desk.review is not None
    assert desk.review.desk.images == {"train": 30, "validation": 30}
    monkeypatch.chdir(folder / "outputs")
    with pytest.raises(DataError, match="the images of run are not on this machine"):
        looked(visit, OF_MODEL)


def test_a_strangers_record_names_no_folder_of_this_machine(visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visit.space, "source", lambda session, model: "owner/model")
    run = visit.space.models.read(visit.space.models.runs()["run"])
    monkeypatch.setattr(visit.space, "run", lambda session, model: run)
    with pytest.raises(DataError, match="the images of run are not on this machine"):
        looked(visit, OF_MODEL)


def test_nothing_to_look_at_or_to_apply_is_said(visit: Visit) -> None:
    desks = LabelDesks(visit.space)
    with pytest.raises(DataError, match="there are no images under Fine-tune yet"):
        desks.look(Session(), GIVEN, ZIP, "run")
    with pytest.raises(DataError, match="look for wrong labels first"):
        desks.train_again(visit.session, "last_block", 1, "run")
    looked(visit)
    with pytest.raises(DataError, match="decide about at least one finding"):
        desks.train_again(visit.session, "last_block", 1, "run")


def test_dropping_everything_names_no_path_of_the_server(visit: Visit) -> None:
    desks, desk = looked(visit)
    assert desk.review is not None
    everything = tuple(
        Suspect("outlier", file, split, label)
        for split, named in desk.pictures.gathered.splits.items()
        for file, label in zip(named.images.files, named.names, strict=True)
    )
    desk.review = Review(Desk("photos", "model", {}, 0, (), everything))
    for _ in everything:
        desk.review.decide(Decision("drop"))
    with pytest.raises(HfftError, match=r"^your decisions: it drops every image"):
        desks.apply(visit.session)
