"""The Space as programs see it: every named endpoint, hostile files, trainings, and an empty start."""

from __future__ import annotations

import base64
import io
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import psutil
import pytest
from bad_uploads import BAD_IMAGES, BAD_ZIPS, make_zip, png
from finished import make_images, make_model, run_finetune

pytest.importorskip("gradio", reason="the extra 'space' is not installed")

from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from hfft.inference.classifier import classify, load_classifier
from hfft.inference.runs import find_runs, read_run
from hfft.planning.policies import installed_policies
from hfft.report.card_metadata import plain_policy
from hfft.space.app import Served, run_space, serve
from hfft.space.options import SpaceArguments
from hfft.space.quiz import Guess, make_quiz
from hfft.space.trainings.sessions import KEPT, OwnModel
from hfft.space.trainings.visitors import (
    BUILT_IN,
    DEFAULT_POLICY,
    FILES,
    NO_IMAGES,
    ZIP,
    describe_policy,
    policy_choices,
)

if TYPE_CHECKING:
    from hfft.space.service import Space

ENDPOINTS = {
    "/classify",
    "/explain",
    "/classify_batch",
    "/pipeline",
    "/training",
    "/trace",
    "/compare",
    "/read_zip",
    "/add_files",
    "/clear_images",
    "/finetune",
    "/cancel",
    "/download",
    "/quiz",
    "/answer",
    "/describe_model",
    "/models",
}

PATIENCE = 1800
"""Seconds after which what does not come is given up; no time that a busy machine may need."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small seeded runs under ``outputs``, and the images that they learned from."""
    folder = tmp_path_factory.mktemp("space")
    base, images = make_model(folder / "base"), make_images(folder / "images")
    run_finetune(base, images, folder / "outputs" / "first", policy="head", learning_rate=0.05)
    time.sleep(1.1)  # the newest is told by the second
    run_finetune(base, images, folder / "outputs" / "second", learning_rate=0.05)
    return folder


@contextmanager
def serving(folder: Path, **options: Any) -> Iterator[Served]:
    with serve(SpaceArguments(outputs=str(folder / "outputs"), max_waiting=3, **options), device="cpu") as served:
        yield served


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    with serving(folder, max_upload_mb=2, max_megapixels=1, max_images=40, max_classes=5, max_batch=10) as served:
        yield served


@pytest.fixture
def client(served: Served) -> Client:
    return Client(served.url, verbose=False)


@pytest.fixture
def image(folder: Path) -> Any:
    return handle_file(str(folder / "images" / "red" / "0.png"))


def test_every_endpoint_has_a_name(client: Client) -> None:
    api: Any = client.view_api(return_format="dict", print_info=False)
    assert set(api["named_endpoints"]) == ENDPOINTS
    assert not api["unnamed_endpoints"]


def test_every_answer_of_an_endpoint_has_a_name(client: Client) -> None:
    api: Any = client.view_api(return_format="dict", print_info=False)
    for endpoint, info in api["named_endpoints"].items():
        for returned in info["returns"]:
            assert not re.fullmatch(r"value_\d+", returned["label"]), (endpoint, returned)


def test_classify_says_what_the_model_says(client: Client, folder: Path) -> None:
    classifier = load_classifier(folder / "outputs" / "second", device="cpu")
    files = sorted((folder / "images").glob("*/*.png"))[::5]
    for file, expected in zip(files, classify(classifier, files), strict=True):
        label, picture, _ = client.predict(handle_file(str(file)), api_name="/classify")
        assert label["label"] == expected.label
        assert label["confidences"][0]["confidence"] == pytest.approx(expected.probability, abs=1e-6)
        assert picture.count("<img") == 2


def test_another_class_can_be_explained(client: Client, image: Any) -> None:
    label, first, _ = client.predict(image, api_name="/classify")
    other = label["confidences"][-1]["label"]
    second = client.predict(image, other, api_name="/explain")
    assert f"evidence for <b>{other}</b>" in second
    assert pictures(first)[0] == pictures(second)[0]
    assert pictures(first)[1] != pictures(second)[1]


def pictures(html: str) -> list[bytes]:
    return [base64.b64decode(text) for text in re.findall(r"base64,([^\"]+)", html)]


def test_a_photograph_is_sent_small(client: Client, served: Served, tmp_path: Path) -> None:
    # A PNG, since a JPEG is decoded at a fraction of its size for a model that reads 32 pixels.
    Image.linear_gradient("L").resize((1100, 800)).convert("RGB").save(tmp_path / "photo.png")
    _, html, _ = client.predict(handle_file(str(tmp_path / "photo.png")), api_name="/classify")
    sides = [max(Image.open(io.BytesIO(data)).size) for data in pictures(html)]
    assert sides[-2:] == [1024, 224]
    assert max(sides[:-2], default=0) <= 104  # of the nearest training images, since the model does not know this one


def test_the_pipeline_shows_this_models_figures(client: Client, image: Any, folder: Path) -> None:
    flow, before, after, drawing = client.predict(image, api_name="/pipeline")
    assert [name for name in ("Input image", "Preprocessing", "Frozen part", "Retrained part", "Head") if name in flow]
    assert "1 x 40 x 40 x 3" in flow
    assert "1 x 3 x 32 x 32" in flow
    run = read_run(folder / "outputs" / "second")
    assert f"{sum(part.parameters for part in run.record.parts):,}" in drawing
    assert before
    assert after


def test_the_trace_shows_five_steps_beside_the_base(client: Client, image: Any) -> None:
    steps = client.predict(image, api_name="/trace")
    assert [number for number in "12345" if f"<h2>{number}." in steps] == list("12345")
    assert "Base model" in steps
    assert all('alt="' in picture for picture in re.findall(r"<img[^>]*>", steps))


def test_the_training_shows_the_runs_own_epochs(client: Client, folder: Path) -> None:
    table, loss, accuracy, matrix, mistakes, _ = client.predict(api_name="/training")
    row = read_run(folder / "outputs" / "second").rows[0]
    assert f"{row.score:.3f}" in table
    assert row.observation.split(":")[0] in table
    assert not loss["visible"]  # one epoch is not a line
    assert not accuracy["visible"]
    assert Path(matrix["value"]["path"] if isinstance(matrix["value"], dict) else matrix["value"]).stat().st_size > 0
    assert "visible" in mistakes


@pytest.mark.processes
def test_phases_are_marked_where_they_begin(folder: Path, tmp_path: Path) -> None:
    base, images = folder / "base", folder / "images"
    run_finetune(base, images, tmp_path / "outputs" / "phases", policy="lp_ft", num_train_epochs=4.0)
    with serving(tmp_path) as served:
        table, loss, accuracy, *_ = Client(served.url, verbose=False).predict(api_name="/training")
    phases = re.findall(r"Phase (\d of \d: \w+)", table)
    assert phases == ["1 of 2: head", "2 of 2: last_block"]
    for plot in (loss, accuracy):
        assert plot["sort"] == ["1: head", "2", "3: last_block", "4"]
        columns = plot["value"]["columns"]
        rows = [dict(zip(columns, row, strict=True)) for row in plot["value"]["data"]]
        assert {row["epoch"] for row in rows} == set(plot["sort"])


def test_runs_are_compared(client: Client, image: Any) -> None:
    assert client.predict(api_name="/models") == ["second", "first"]
    table, *_ = client.predict(["first", "second"], image, api_name="/compare")
    assert "the new head alone" in table
    assert "the last block and the head" in table
    assert table.count("<tr>") == 3 + 2 + 2  # the runs and two baselines, and the runs' difference, each under its head
    assert "linear probe" in table
    assert "on the same validation images, pair by pair" in table
    assert "not validated on the same images" not in table
    assert "of 18 right (95 % interval" in table
    assert "different images" not in table
    with pytest.raises(AppError, match=r"(?i)choose two"):
        client.predict(["first"], image, api_name="/compare")


def test_each_request_names_its_model(served: Served, image: Any) -> None:
    client = Client(served.url, verbose=False)
    newest = client.predict(image, api_name="/classify")[0]
    assert "trained: the new head alone" in client.predict("first", api_name="/describe_model")
    assert client.predict(image, "first", api_name="/classify")[0] != newest
    assert client.predict(image, "second", api_name="/classify")[0] == newest


@pytest.mark.parametrize("name", ["../../etc", "your model 1: head, 3 epochs"])
def test_a_model_that_is_not_here_is_never_replaced(name: str, client: Client, folder: Path, image: Any) -> None:
    requests: dict[str, tuple[Any, ...]] = {
        "/classify": (image, name),
        "/explain": (image, "red", name),
        "/classify_batch": ([image], name),
        "/pipeline": (image, name),
        "/trace": (image, name),
        "/training": (name,),
        "/compare": (["first", name], image),
        "/describe_model": (name,),
        "/finetune": (BUILT_IN, "head", 1, name),
    }
    for endpoint, arguments in requests.items():
        with pytest.raises(AppError, match="not here any more"):
            client.predict(*arguments, api_name=endpoint)


def test_the_quiz_explains_every_answer(client: Client, folder: Path) -> None:
    questions = client.predict("second", api_name="/quiz")
    known = make_quiz(read_run(folder / "outputs" / "second"))
    assert len(questions) == len(known) >= 6
    assert any(question["own"] for question in questions)
    for question, item in list(zip(questions, known, strict=True))[::3]:
        answers = (item.measured, 0) if isinstance(item, Guess) else (item.choices[item.answer], item.choices[0])
        said = [client.predict(question["number"], str(each), "second", api_name="/answer") for each in answers]
        assert said == [item.grade(str(each)).text for each in answers]
        assert item.explanation in said[0]
    assert "no question" in client.predict(99, "x", "second", api_name="/answer")


@pytest.mark.parametrize(
    ("endpoint", "arguments", "said"),
    [
        ("/answer", (None, "x", "second"), "Number must be a number"),
        ("/answer", (["1"], "x", "second"), "Number must be a number"),
        ("/compare", (7, None), "Choose two runs or more"),
    ],
)
def test_an_argument_of_another_type_is_refused_in_a_sentence(
    endpoint: str, arguments: tuple[Any, ...], said: str, client: Client
) -> None:
    with pytest.raises(AppError, match=said):
        client.predict(*arguments, api_name=endpoint)


def test_no_folder_of_the_server_is_told(client: Client, image: Any, folder: Path) -> None:
    for arguments, endpoint in ((("second",), "/describe_model"), ((["first", "second"], image), "/compare")):
        told = str(client.predict(*arguments, api_name=endpoint))
        assert "base" in told
        assert str(folder) not in told


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_hostile_image_gets_a_message_and_the_server_stays(
    name: str, client: Client, served: Served, image: Any, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(BAD_IMAGES[name][0])
    for endpoint in ("/classify", "/pipeline", "/trace"):
        with pytest.raises(AppError, match=BAD_IMAGES[name][1]) as caught:
            client.predict(handle_file(str(tmp_path / name)), api_name=endpoint)
        assert name in str(caught.value)  # as the visitor spells it
    assert client.predict(image, api_name="/classify")[0]["label"]


def test_a_batch_keeps_going(client: Client, tmp_path: Path) -> None:
    names = ["good.png", "<b>bold<b>.png", *BAD_IMAGES]
    for name in names:
        (tmp_path / name).write_bytes(BAD_IMAGES[name][0] if name in BAD_IMAGES else png())
    gallery, table, sheet, _ = client.predict(
        [handle_file(str(tmp_path / name)) for name in names], api_name="/classify_batch"
    )
    assert len(gallery) == 2
    assert len(Path(sheet).read_text().splitlines()) == 1 + len(names)
    assert "<b>" not in table


def test_too_many_at_a_time_are_refused(client: Client, image: Any) -> None:
    with pytest.raises(AppError, match="at most 10"):
        client.predict([image] * 11, api_name="/classify_batch")
    with pytest.raises(AppError, match=r"(?i)choose some"):
        client.predict([], api_name="/classify_batch")


@pytest.mark.parametrize("kind", BAD_ZIPS)
def test_a_hostile_zip_gets_a_message(kind: str, client: Client, served: Served, tmp_path: Path) -> None:
    members, reason = BAD_ZIPS[kind]
    path = make_zip(tmp_path / "hostile.zip", members)
    with pytest.raises(AppError, match=re.compile(reason, re.IGNORECASE)):
        client.predict(handle_file(str(path)), api_name="/read_zip")
    assert not [path for path in (served.space.work / "trainings").glob("*/images-*/**/*") if path.is_file()]
    with pytest.raises(AppError, match=r"(?i)choose images first"):
        client.predict(ZIP, "head", 1, api_name="/finetune")


def test_an_upload_above_the_limit_is_refused(client: Client, tmp_path: Path) -> None:
    (tmp_path / "big.zip").write_bytes(bytes(2_100_000))
    with pytest.raises(Exception, match="maximum file size"):
        client.predict(handle_file(str(tmp_path / "big.zip")), api_name="/read_zip")


def test_files_are_put_under_class_names(client: Client, image: Any, folder: Path) -> None:
    other = handle_file(str(folder / "images" / "red" / "1.png"))
    text, name, _ = client.predict("<i>odd</i>", [image], api_name="/add_files")
    assert "(1)" in text
    assert name == ""
    assert "(2)" in client.predict("<i>odd</i>", [other, image], api_name="/add_files")[0]  # one of them is there
    with pytest.raises(AppError, match="two classes"):
        client.predict(FILES, "head", 1, api_name="/finetune")
    assert client.predict(api_name="/clear_images") == NO_IMAGES
    with pytest.raises(AppError, match="name"):
        client.predict("..", [image], api_name="/add_files")


def test_what_was_left_out_is_said_before_training(client: Client, folder: Path, tmp_path: Path) -> None:
    images = shutil.copytree(folder / "images", tmp_path / "images")
    for path in sorted((images / "red").iterdir())[:3]:
        path.write_bytes(path.read_bytes()[:60])
    text, _ = client.predict(handle_file(shutil.make_archive(str(tmp_path / "z"), "zip", images)), api_name="/read_zip")
    assert f"red ({len(list((images / 'red').iterdir())) - 3})" in text
    assert "Left out: 3, the last of them 2.png" in text


def read(client: Client, folder: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "images"), "zip", folder / "images")
    client.predict(handle_file(archive), api_name="/read_zip")


@pytest.mark.processes
def test_trainings_in_the_browser_make_models_to_use_to_compare_and_to_download(
    client: Client, served: Served, folder: Path, image: Any, tmp_path: Path
) -> None:
    read(client, folder, tmp_path)
    job = client.submit(ZIP, "lp_ft", 2, api_name="/finetune")
    job.result(timeout=PATIENCE)
    shown = [update[0] for update in job.outputs()]
    states = [state for update in shown for state in re.findall(r'data-state="(\w+)"', update)]
    assert states[-1] == "done", shown[-1]
    assert "running" in states
    stations = [name for update in shown for name in re.findall(r'data-station="(\w+)" aria-current', update)]
    # The page looks four times a second, and a station may pass between two looks; none is shown out of its order.
    training = served.space.visits.of(client.session_hash).training
    assert training is not None
    assert list(training.arrived) == ["fill", "train", "evaluate"]
    assert stations
    assert stations == sorted(stations, key=["load", *training.arrived].index)
    curve = job.outputs()[-1][2]["value"]["data"]
    assert [row[0] for row in curve if "accuracy" in row] == ["1: head", "2: last_block"]
    name = client.predict(api_name="/models")[0]
    assert re.fullmatch(r"your model \d+: lp_ft, 2 epochs", name)
    label, *_ = client.predict(image, name, api_name="/classify")
    (own,) = (served.space.work / "trainings").glob("*/*/run")
    (expected,) = classify(load_classifier(own, device="cpu"), [folder / "images" / "red" / "0.png"])
    assert label["confidences"][0]["confidence"] == pytest.approx(expected.probability, abs=1e-6)
    assert_tells_nothing_of_the_server(Path(client.predict(name, api_name="/download")), served, tmp_path)
    # The same images and their activations are there still.
    client.predict(ZIP, "last_block", 1, name, api_name="/finetune")
    newest = max(own.parents[1].glob("*/run"), key=lambda run: read_run(run).record.created)
    assert read_run(newest).record.cache.hits == sum(read_run(newest).record.data.counts.values())
    second = client.predict(api_name="/models")[0]
    assert second.endswith("last_block, 1 epoch")
    table, *_ = client.predict([second, name], image, api_name="/compare")
    assert "different images" not in table
    for _ in range(KEPT - 1):
        client.predict(ZIP, "head", 1, second, api_name="/finetune")
    names = client.predict(api_name="/models")
    assert name not in names
    assert second in names
    with pytest.raises(AppError, match="not here any more"):
        client.predict(image, name, api_name="/classify")


def assert_tells_nothing_of_the_server(path: Path, served: Served, tmp_path: Path) -> None:
    assert path.name == "hfft-model-lp_ft-2-epochs.zip"
    shutil.unpack_archive(path, tmp_path / "taken")
    taken = tmp_path / "taken" / "hfft-model"
    assert 'model="hfft-model"' in (taken / "README.md").read_text()
    for file in taken.rglob("*"):
        assert not file.is_file() or str(served.space.work).encode() not in file.read_bytes(), file
    assert load_classifier(taken, device="cpu").labels


def test_a_page_that_is_loaded_again_finds_its_model(served: Served, folder: Path, tmp_path: Path) -> None:
    visits = served.space.visits
    client = Client(served.url, verbose=False)
    read(client, folder, tmp_path)
    client.predict(ZIP, "head", 1, api_name="/finetune")
    session = visits.of(client.session_hash)
    assert visits.join("another page", session.id) is session
    assert served.space.current(session) in session.own
    assert visits.join("a stranger", "no such id") is not session


def test_a_visit_that_is_over_leaves_nothing(served: Served, folder: Path, tmp_path: Path) -> None:
    client = Client(served.url, verbose=False)
    read(client, folder, tmp_path)
    session = served.space.visits.of(client.session_hash)
    assert session.folder is not None
    assert session.folder.exists()
    session.seen -= served.space.options.keep_minutes * 60 + 1
    served.space.visits.sweep()
    assert not session.folder.exists()
    assert served.space.visits.of(client.session_hash) is not session


def test_a_work_folder_may_lie_anywhere(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))  # of which Gradio serves files unasked
    (tmp_path / "temporary").mkdir()
    with serving(folder, work_dir=str(tmp_path / "data")) as served:
        client = Client(served.url, verbose=False)
        session = served.space.visits.of(client.session_hash)
        run = served.space.trainings.folder(session, "run") / "run"
        session.own["mine"] = OwnModel(shutil.copytree(folder / "outputs" / "first", run), None)
        assert Path(client.predict("mine", api_name="/download")).suffix == ".zip"


def test_a_second_training_waits_and_both_can_be_cancelled(served: Served, folder: Path, tmp_path: Path) -> None:
    one, two = Client(served.url, verbose=False), Client(served.url, verbose=False)
    for client in (one, two):
        read(client, folder, tmp_path)
    first = one.submit(ZIP, "last_block", 20, api_name="/finetune")
    wait_for(lambda: 'data-state="running"' in str(first.outputs()[-1:]))
    second = two.submit(ZIP, "last_block", 20, api_name="/finetune")
    wait_for(lambda: "Place 1 in the queue" in str(second.outputs()[-1:]))
    with pytest.raises(AppError, match="already"):
        two.predict(ZIP, "last_block", 20, api_name="/finetune")
    assert 'data-state="cancelled"' in two.predict(api_name="/cancel")
    assert 'data-state="cancelled"' in one.predict(api_name="/cancel")
    assert 'data-state="cancelled"' in first.result(timeout=PATIENCE)[0]
    assert 'data-state="cancelled"' in second.result(timeout=PATIENCE)[0]
    for client in (one, two):  # the images stay for another try
        given = served.space.visits.of(client.session_hash).given
        assert given is not None
        assert list(given.folder.glob("train/*/*"))
        wait_for(lambda folder=given.folder.parent: not list(folder.glob("run-*")))


def test_the_policies_offered_are_the_cores_own() -> None:
    choices = policy_choices()
    assert choices[0] == "last_block"
    assert {choice.partition(":")[0] for choice in choices} == set(installed_policies())
    assert {"last_n:1", "surgical:first", "surgical:last"} <= set(choices)
    assert not {"last_n", "surgical"} & set(choices)


def test_an_emptied_policy_is_the_default_one(client: Client) -> None:
    assert describe_policy(None) == describe_policy(DEFAULT_POLICY)
    job = client.submit(BUILT_IN, None, 1, api_name="/finetune")
    wait_for(lambda: job.outputs() or job.done())
    client.predict(api_name="/cancel")
    assert 'data-state="cancelled"' in job.result(timeout=PATIENCE)[0]


def test_what_a_policy_trains_is_said_in_a_visitors_words() -> None:
    said = {policy: plain_policy(policy) for policy in [*policy_choices(), "lp_ft:full", "lora:last_n=4,r=8"]}
    assert not [words for words in said.values() if set("_:{=") & set(words)]
    assert said["last_n:2"] == "the last 2 blocks and the head"
    assert said["last_n:1"] == said["last_block"]
    assert plain_policy("another:3") == "another:3"  # of a package that is not known here


@pytest.mark.parametrize(
    ("policy", "epochs", "reason"),
    [
        ("last_n:99", 1, "from 1 to 3 for this model"),
        ("lp_ft", 1, "at least 2"),
        ("auto", 1, "decided by the images"),
        ("last", 1, "unknown; choose one of"),
        ("head", 500, r"(?i)epochs|maximum"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_a_worker_is_asked(
    policy: str, epochs: int, reason: str, client: Client, served: Served
) -> None:
    with pytest.raises(AppError, match=reason):
        client.predict(BUILT_IN, policy, epochs, api_name="/finetune")
    assert served.space.visits.of(client.session_hash).training is None


@pytest.mark.processes
def test_a_training_that_fails_says_why(client: Client, served: Served, folder: Path, tmp_path: Path) -> None:
    read(client, folder, tmp_path)
    given = served.space.visits.of(client.session_hash).given
    assert given is not None
    shutil.rmtree(given.folder / "train" / "red")
    shutil.rmtree(given.folder / "train" / "blue")
    status, *_ = client.predict(ZIP, "head", 1, api_name="/finetune")
    assert 'data-state="failed"' in status
    assert "class" in status


@pytest.mark.processes
def test_nothing_is_canned_where_there_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(png())
    with serving(tmp_path) as served:
        client = Client(served.url, verbose=False)
        image = handle_file(str(tmp_path / "red.png"))
        assert client.predict(api_name="/models") == []
        assert "no finished run" in client.predict(image, None, api_name="/pipeline")[0]
        assert "no finished run" in client.predict(None, api_name="/training")[0]
        assert "no finished run" in client.predict(image, None, api_name="/trace")
        with pytest.raises(AppError, match="no finished run"):
            client.predict(image, None, api_name="/classify")
        assert sum(question["own"] for question in client.predict("", api_name="/quiz")) == 0
        work = served.space.work
    assert not work.exists()


def test_the_newest_run_comes_first(folder: Path) -> None:
    assert [run.name for run in find_runs(folder / "outputs")] == ["second", "first"]


def test_the_environment_names_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HFFT_MODEL", "somebody/model")
    assert SpaceArguments().model == "somebody/model"
    assert SpaceArguments(model="mine").model == "mine"


def test_whoever_starts_it_is_told_that_it_is_coming(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def slow(options: SpaceArguments) -> Iterator[Served]:
        assert capsys.readouterr().out == "Loading; the address follows.\n"
        yield Served("http://127.0.0.1:1/", cast("Space", None), SimpleNamespace(block_thread=lambda: None))

    monkeypatch.setattr("hfft.space.app.serve", slow)
    assert run_space(SpaceArguments()) == 0
    assert capsys.readouterr().out == "hfft space: http://127.0.0.1:1/\n"


def wait_for(what: Any) -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.2)


@pytest.mark.processes
def test_a_server_that_is_told_to_end_leaves_nothing_of_its_own(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "mine.txt").write_text("kept")
    command = [sys.executable, "-m", "hfft", "space", "--outputs", str(folder / "outputs"), "--work_dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "Loading; the address follows.\n"
            client = Client(process.stdout.readline().removeprefix("hfft space: ").strip(), verbose=False)
            client.predict(handle_file(str(folder / "images" / "red" / "0.png")), api_name="/classify")
            job = client.submit(BUILT_IN, "last_block", 20, api_name="/finetune")
            wait_for(lambda: 'data-state="running"' in str(job.outputs()[-1:]))
            workers = psutil.Process(process.pid).children(recursive=True)
            assert workers
            process.terminate()
            assert process.wait() == 128 + signal.SIGTERM
        finally:
            process.kill()
    assert not psutil.wait_procs(workers, timeout=PATIENCE)[1]
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*.*")] == [Path("examples/mine.txt")]
    assert len(list(tmp_path.iterdir())) == 1
