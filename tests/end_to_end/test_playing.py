"""What can be played with on the page, in a real browser on the embedded default: by mouse, touch and keyboard."""

from __future__ import annotations

import io
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from chromium import TIMEOUT, chromium, needed, open_tab, settle
from finished import make_images, run_finetune
from gradio import Warning as Warned
from gradio.route_utils import delete_files_created_by_app
from PIL import Image, ImageStat
from playwright.sync_api import Page, expect

from hfft.curate.choose import Choice
from hfft.curate.desk import Desk, Suspect
from hfft.inference.runs import EvaluationImages, read_answers, read_run, worst_answers
from hfft.output_folder import EPOCH_ANSWERS
from hfft.space.app import Served, serve
from hfft.space.curation.images import Pictures
from hfft.space.curation.labelling import Labelling, LabelNext
from hfft.space.curation.labels import LabelDesk, LabelDesks
from hfft.space.curation.review import Decision, Review
from hfft.space.first_screen import FirstScreen
from hfft.space.models import Loaded
from hfft.space.options import SpaceArguments
from hfft.space.quiz import GENERAL, make_quiz
from hfft.space.trainings.queue import Errand, Training
from hfft.space.trainings.sessions import Session
from hfft.space.trainings.visitors import BUILT_IN, FILES, ZIP
from hfft.space.views.curation import LATE

pytestmark = [needed, pytest.mark.processes]
expect.set_options(timeout=TIMEOUT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("playing")
    images = make_images(folder / "images")
    poor, run, old = (folder / "outputs" / name for name in ("poor", "run", "old"))
    run_finetune(None, images, poor, learning_rate=1e-8)  # one epoch that changes nothing: most answers are wrong
    time.sleep(1.1)  # the newest is told by the second
    run_finetune(None, images, run, learning_rate=0.01, num_train_epochs=2.0)
    shutil.copytree(run, old)  # as an earlier hfft left it
    record = json.loads((old / "hfft.json").read_text())
    (old / "hfft.json").write_text(json.dumps(record | {"created": "2020-01-01T00:00:00+00:00"}))
    for each in (poor, old):
        (each / EPOCH_ANSWERS).unlink()
    return folder


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    with serve(SpaceArguments(outputs=str(folder / "outputs")), device="cpu") as served:
        yield served


@pytest.fixture(scope="module")
def url(served: Served) -> str:
    return served.url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, permissions=["camera"])
    page = context.new_page()
    page.set_default_timeout(TIMEOUT)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(url)
    expect(page.locator("#cut .hf-cut-block").first).to_be_visible()
    yield page
    context.close()
    assert not problems


def test_the_epoch_slider_moves_curves_matrix_and_pictures(page: Page) -> None:
    open_tab(page, "Training")
    said, slider = page.locator("#player .said"), page.locator("#player input[type=range]")
    expect(said).to_contain_text("of 18 validation images right")
    slider.focus()
    page.keyboard.press("Home")
    expect(said).to_have_text(re.compile(r"^Before any training: \d+ of 18 validation images right \(95 % interval"))
    expect(page.locator("#player .matrix tr")).to_have_count(4)
    pictures = page.locator("#player .columns button")
    expect(pictures).to_have_count(18)
    wrong = int(18 - int(re.search(r": (\d+) of", said.inner_text())[1]))  # type: ignore[index]
    expect(page.locator("#player .columns button.wrong")).to_have_count(wrong)
    cursor = page.locator("#player .cursor").first
    before = cursor.get_attribute("x1")
    page.keyboard.press("ArrowRight")
    expect(said).to_contain_text("Epoch 1:")
    assert cursor.get_attribute("x1") != before
    pictures.first.click()
    expect(page.locator("#player .one .share")).to_have_count(3)
    page.keyboard.press("Tab")
    page.locator("#player .play").press("Enter")
    expect(said).to_contain_text("Epoch 2:")
    expect(page.locator("#player .play")).to_have_attribute("aria-pressed", "false")


def test_the_journey_follows_what_is_done_to_the_picture(page: Page) -> None:
    open_tab(page, "Prediction trace")
    shares = page.locator("#journey .bars .share")
    expect(shares).to_have_count(3)
    untouched = shares.all_inner_texts()
    page.locator("#journey .stop").focus()
    page.keyboard.press("Home")
    expect(page.locator("#journey .way [aria-pressed=true]")).to_have_text("picture")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#journey .map")).to_be_visible()
    page.locator("#journey .way button.trained").first.click()
    page.locator("#journey .layers").get_by_role("button", name="base model").click()
    expect(page.locator("#journey .map")).to_have_attribute("alt", re.compile("base model"))
    page.locator("#journey .canvas").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#journey .said")).to_have_text(
        re.compile(r"^Cell 1, 1 of \d+ x \d+: 90 % of what it depends on")
    )
    expect(page.locator("#journey .sees")).to_be_visible()
    expect(page.locator("#steps .hf-faces img").first).to_be_visible()
    page.locator("#journey .dark").fill("90")
    expect(shares.first).not_to_have_text(untouched[0])
    dark = shares.all_inner_texts()
    page.locator("#journey .cover").check()
    drag(page, page.locator("#journey .square"), 60)
    expect(shares.first).not_to_have_text(dark[0])
    page.locator("#journey .undo").click()
    expect(shares.first).to_have_text(re.compile(re.escape(untouched[0].split("\n")[-1])))


def test_all_images_lie_in_a_map_that_a_new_one_lands_in(page: Page, folder: Path) -> None:
    page.goto(f"{page.url.partition('?')[0]}?tab=classify&model=run")
    page.locator("#image input[type=file]").set_input_files(str(folder / "images" / "red" / "0.png"))
    expect(page.locator("#overlay img").first).to_be_visible()
    open_tab(page, "Training")
    expect(page.locator("#feature-map svg .photo")).to_have_count(2)
    expect(page.locator("#feature-map .star")).to_contain_text("The image is like those that the model learned from")
    page.locator("#feature-map .pick").press("ArrowRight")
    expect(page.locator("#feature-map .said")).to_contain_text("A validation image of blue")
    expect(page.locator("#map-image img")).to_have_attribute("alt", "The validation image 1.png")
    expect(page.locator("#feature-map .ring").nth(1)).to_be_visible()
    assert "tab=training" in page.url


def test_an_address_of_a_model_that_is_not_here_says_so(page: Page) -> None:
    page.goto(f"{page.url.partition('?')[0]}?tab=learn&model=someone%27s+model")
    expect(page.locator("#lesson .hf-card").first).to_be_visible()
    expect(page.locator(".toast-body")).to_contain_text("is not here: a visitor's own models are shown to that visitor")
    expect(page.locator("#model input")).to_have_value("run")


def drag(page: Page, thing: Any, away: float) -> None:
    thing.scroll_into_view_if_needed()
    box = thing.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 10, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + 10 + away, box["y"] + 10 + away, steps=4)
    page.mouse.up()
    after = thing.bounding_box()
    assert after is not None
    assert after["x"] - box["x"] == pytest.approx(away, abs=3)


def test_the_quiz_asks_before_it_shows_and_keeps_score(page: Page, folder: Path) -> None:
    open_tab(page, "Learn")
    page.locator("#register").get_by_label("With the mathematics").check()
    expect(page.locator("#lesson")).to_contain_text("softmax(h(z_i; b))")
    first = GENERAL[0]
    page.locator("#question-1").get_by_label(first.choices[0]).check()
    expect(page.locator("#verdict-1")).to_contain_text(first.reasons[0])
    expect(page.locator("#score")).to_contain_text("0 right at the first try, of 1 answered")
    open_tab(page, "Pipeline")  # where some answers stand
    open_tab(page, "Learn")
    expect(page.locator("#question-1").get_by_label(first.choices[0])).to_be_checked()
    expect(page.locator("#verdict-1")).to_contain_text(first.reasons[0])
    page.locator("#question-1").get_by_label(first.choices[first.answer]).check()
    expect(page.locator("#verdict-1")).to_contain_text("Right.")
    expect(page.locator("#score")).to_contain_text("0 right at the first try, of 1 answered")
    for number, item in enumerate(make_quiz(read_run(folder / "outputs" / "run")), start=1):
        if item in GENERAL[1:]:
            page.locator(f"#question-{number}").get_by_label(item.choices[item.answer], exact=True).check()
        elif number > 1 and not page.locator(f"#guess-{number}").is_visible():
            page.locator(f"#question-{number} input").first.check()
        elif number > 1:
            assert "measured" not in page.locator(f"#verdict-{number}").inner_text()
            page.locator(f"#guess-{number} input[type=number]").fill("18")
            page.locator(f"#show-{number}").click()
        expect(page.locator(f"#verdict-{number} p")).to_be_visible()
    expect(page.locator("#score")).to_contain_text("The key.")
    expect(page.locator("#score")).to_contain_text("of the arithmetic of a pass")


def test_every_answer_of_the_quiz_counts_however_late_its_verdict_is(
    page: Page, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_tab(page, "Learn")
    second = GENERAL[1]
    choice = page.locator("#question-2").get_by_label
    choice(second.choices[second.answer], exact=True).wait_for()
    asked, go = held_up(monkeypatch, served.space, "quiz")
    choice(second.choices[second.answer], exact=True).check()
    assert asked.wait(TIMEOUT / 1000)
    wrong = (second.answer + 1) % len(second.choices)
    choice(second.choices[wrong], exact=True).check()
    with page.expect_response("**/gradio_api/queue/join**"):
        page.locator("#question-3 input").first.check()
    go.set()
    expect(page.locator("#verdict-3 p")).to_be_visible()
    expect(page.locator("#verdict-2")).to_contain_text(second.reasons[wrong])
    expect(page.locator("#score")).to_contain_text("of 2 answered")


def test_the_camera_records_while_its_button_is_held_and_is_followed_live(page: Page) -> None:
    page.locator("#source").get_by_label("Files under class names").check()
    camera = page.locator("#class-camera")
    camera.get_by_role("button", name="Turn the camera on").click()
    hold = camera.get_by_role("button", name="Hold to record")
    expect(hold).to_be_enabled()
    page.wait_for_function("document.querySelector('#class-camera video').videoWidth > 0")
    page.locator("#class-name textarea, #class-name input").first.fill("test card")
    hold.focus()
    page.keyboard.down("Space")
    expect(camera.locator("p")).to_contain_text(re.compile(r"^\d+ pictures so far"))
    page.keyboard.up("Space")
    expect(page.locator("#given textarea")).to_have_value(re.compile(r"test card \(\d+\).*recording", re.DOTALL))
    expect(page.locator("#classes")).to_contain_text("test card")
    camera.get_by_role("button", name="Turn the camera off").click()
    expect(hold).to_be_disabled()
    page.get_by_text("Live camera").click()
    live = page.locator("#try-live")
    live.get_by_text("Click to Access Webcam").click()
    live.get_by_label(re.compile("capture photo|start recording|Record", re.IGNORECASE)).first.click()
    expect(page.locator("#try-answers")).to_contain_text("After training: run")


def open_address(page: Page, **asked: str) -> None:
    page.goto(f"{page.url.partition('?')[0]}?" + "&".join(f"{name}={value}" for name, value in asked.items()))


def held_up(monkeypatch: pytest.MonkeyPatch, thing: Any, name: str) -> tuple[threading.Event, threading.Event]:
    """Let a method answer with what it found at first only when it is let go; return when it was asked, and the go."""
    asked, go, method = threading.Event(), threading.Event(), getattr(thing, name)

    def answer(*given: Any) -> Any:
        found = method(*given)
        asked.set()
        assert go.wait(TIMEOUT / 1000)
        return found

    monkeypatch.setattr(thing, name, answer)
    return asked, go


def reload_until(page: Page, asked: threading.Event) -> None:
    page.wait_for_function("localStorage.length > 0")  # the browser knows the visit by then
    page.reload()
    assert asked.wait(TIMEOUT / 1000)
    expect(page.locator("#source")).to_be_visible()


def test_images_chosen_while_an_earlier_visit_comes_back_stay(
    page: Page, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = page.locator("#source")
    source.get_by_label("Files under class names").check()
    expect(page.locator("#class-name")).to_be_visible()
    asked, go = held_up(monkeypatch, served.space.trainings, "describe")
    reload_until(page, asked)
    source.get_by_label("Zip of class folders").check()
    expect(page.locator("#zip")).to_be_visible()
    expect(page.locator("#classes")).to_contain_text("No images yet")
    go.set()
    expect(page.locator("#cut")).to_contain_text("my-images")  # the last that comes back
    settle(page)
    expect(source.get_by_label("Zip of class folders")).to_be_checked()
    expect(page.locator("#zip")).to_be_visible()
    expect(page.locator("#class-name")).not_to_be_visible()
    page.reload()
    expect(source.get_by_label("Zip of class folders")).to_be_checked()


def test_a_model_chosen_while_an_earlier_visit_comes_back_stays(
    page: Page, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose_model(page, "poor")
    page.wait_for_url("**model=poor*")
    asked, go = held_up(monkeypatch, served.space, "current")
    reload_until(page, asked)
    choose_model(page, "old")
    go.set()
    expect(page.locator("#cut .hf-cut-block").first).to_be_visible()
    settle(page)
    expect(page.locator("#model input")).to_have_value("old")
    page.wait_for_url("**model=old*")


def test_what_is_said_of_a_model_goes_with_its_name_before_the_server_answers(page: Page, folder: Path) -> None:
    open_tab(page, "Training")
    open_tab(page, "Classify")
    page.locator("#image input[type=file]").set_input_files(str(folder / "images" / "red" / "0.png"))
    expect(page.locator("#overlay img").first).to_be_visible()
    settle(page)
    held: list[Any] = []
    page.route("**/gradio_api/**", lambda route: held.append(route))
    choose_model(page, "poor")
    expect(page.locator("#summary")).not_to_contain_text("base")
    expect(page.locator("#label")).not_to_contain_text("%")
    expect(page.locator("#overlay img")).to_have_count(0)
    expect(page.locator("#epochs table")).to_have_count(0)
    for route in held:
        route.continue_()
    page.unroute("**/gradio_api/**")
    expect(page.locator("#summary")).to_contain_text("base")
    expect(page.locator("#overlay img").first).to_be_visible()


def test_a_tab_shows_the_model_that_was_chosen_last_however_late_an_answer_is(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go, follow = threading.Event(), threading.Event(), Loaded.pipeline

    def pipeline(loaded: Loaded, *given: Any) -> Any:
        if loaded.run is not None and loaded.run.folder.name == "run":
            asked.set()
            assert go.wait(TIMEOUT / 1000)
        return follow(loaded, *given)

    monkeypatch.setattr(Loaded, "pipeline", pipeline)
    page.get_by_role("tab", name="Pipeline", exact=True).click()
    assert asked.wait(TIMEOUT / 1000)
    choose_model(page, "poor")
    page.wait_for_url("**model=poor*")
    go.set()
    drawing = page.locator("#architecture svg.architecture")
    expect(drawing).to_have_attribute("aria-label", re.compile("^poor: "))
    settle(page)
    expect(drawing).to_have_attribute("aria-label", re.compile("^poor: "))


def test_runs_compared_are_those_ticked_last_and_those_of_the_address_however_late_an_answer_is(
    page: Page, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_tab(page, "Compare")
    settle(page)
    press = page.get_by_role("button", name="Compare", exact=True)
    runs = page.locator("#runs").get_by_label
    for name in ("run", "poor", "old"):
        runs(name, exact=True).set_checked(name != "old")
    asked, go = held_up(monkeypatch, served.space, "compare")
    press.click()
    assert asked.wait(TIMEOUT / 1000)
    runs("run", exact=True).uncheck()
    runs("old", exact=True).check()
    press.click()
    go.set()
    table = page.locator("#comparison table").first
    expect(table.get_by_text("old", exact=True)).to_be_visible()
    settle(page)
    expect(table.get_by_text("poor", exact=True)).to_be_visible()
    expect(table.get_by_text("run", exact=True)).to_have_count(1)  # the head of the column
    assert sorted(parse_qs(urlsplit(page.url).query)["runs"]) == ["old", "poor"]


def test_a_class_whose_name_is_longer_than_a_line_stays_on_a_phone(page: Page, folder: Path) -> None:
    page.set_viewport_size({"width": 375, "height": 800})
    open_tab(page, "Classify")
    page.locator("#image input[type=file]").set_input_files(str(folder / "images" / "red" / "0.png"))
    expect(page.locator("#overlay img").first).to_be_visible()
    wide = page.evaluate(
        """() => {
            const named = document.querySelectorAll("#label .output-class, #label .text, #overlay b");
            named.forEach((each) => {each.textContent = "red".repeat(20)});
            const parts = [...document.querySelectorAll("#label *, #overlay *")];
            return [named.length, parts.filter((each) => each.getBoundingClientRect().right > innerWidth).length];
        }"""
    )
    assert wide == [5, 0]  # the answer, three classes, and the title of the map
    open_tab(page, "Prediction trace")
    shares = page.locator("#steps .hf-step").last.locator(".hf-rows td.n")
    expect(shares).to_have_count(3)
    right = page.evaluate(
        """() => [...document.querySelectorAll("#steps .hf-step:last-child .hf-rows tr")].map((row) => {
            row.cells[0].firstChild.textContent = "red".repeat(20);
            return row;
        }).map((row) => row.cells[1].getBoundingClientRect().right)"""
    )
    assert len(right) == 3
    assert max(right) <= 375


def choose_model(page: Page, name: str) -> None:
    page.locator("#model input").click()
    page.get_by_role("option", name=name, exact=True).click()
    expect(page.locator("#model input")).to_have_value(name)


def test_a_run_without_answers_by_epoch_is_drawn_without_glare_and_without_empty_plots(page: Page) -> None:
    plots = page.locator("#training .vega-embed:visible, [role=tabpanel] .vega-embed:visible")
    open_address(page, __theme="dark", model="old", tab="training")
    expect(page.locator("#epochs table")).to_be_visible()
    expect(plots).to_have_count(2)
    settle(page)
    shot = Image.open(io.BytesIO(page.locator("#answers img").screenshot())).convert("L")
    assert ImageStat.Stat(shot).mean[0] < 80
    choose_model(page, "poor")  # of one epoch, which makes no line
    expect(page.locator("#epochs tbody tr")).to_have_count(2)
    expect(page.locator("#answers img")).to_be_visible()
    settle(page)
    expect(plots).to_have_count(0)
    assert "about 0 s" not in page.locator("#epochs").inner_text()


def test_a_mistake_is_opened_alone_and_the_wheel_scrolls_past_all(
    page: Page, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = worst_answers(read_answers(folder / "outputs" / "poor"))
    opened: list[str] = []
    get: Callable[..., Any] = EvaluationImages.get

    def counted(images: EvaluationImages, file: str, least: int | None = None) -> Any:
        opened.append(file)
        return get(images, file, least)

    open_address(page, model="poor", tab="training")
    mistakes = page.locator("#mistakes button.thumbnail-item")
    expect(mistakes).to_have_count(len(wrong))
    settle(page)  # else the thumbnails may be drawn once more
    mistakes.first.scroll_into_view_if_needed()
    settle(page)
    mistakes.first.hover()
    before = page.evaluate("window.scrollY")
    page.mouse.wheel(0, -200)
    page.wait_for_function(f"window.scrollY <= {before} - 100")
    monkeypatch.setattr(EvaluationImages, "get", counted)
    mistakes.nth(2).click()
    expect(page.locator("#steps .hf-step")).to_have_count(5)
    assert opened == [wrong[2].file]


def test_bars_have_a_track_and_evidence_a_middle(page: Page) -> None:
    open_tab(page, "Prediction trace")
    expect(page.locator("#steps .hf-bar").first).to_be_visible()
    bars = page.locator("#steps .hf-bar").evaluate_all(
        """(bars) => bars.map((bar) => {
            const track = bar.getBoundingClientRect(), part = bar.querySelector("i").getBoundingClientRect();
            const said = bar.closest("tr").lastElementChild.textContent;
            return {zero: bar.classList.contains("zero"), said, wide: track.width,
                left: (part.left - track.left) / track.width, right: (part.right - track.left) / track.width};
        })"""
    )
    shares = [bar for bar in bars if not bar["zero"]]
    assert {round(bar["wide"]) for bar in shares} == {round(shares[0]["wide"])}
    for bar in shares:
        assert bar["right"] == pytest.approx(float(bar["said"].strip(" %")) / 100, abs=0.02)
    evidence = [(bar["left"], bar["right"], float(bar["said"])) for bar in bars if bar["zero"]]
    assert {value > 0 for _, _, value in evidence} == {True, False}
    for left, right, value in evidence:
        assert (left if value > 0 else right) == pytest.approx(0.5, abs=0.01)


def test_without_an_image_the_trace_follows_one_of_the_models_own_and_says_so(page: Page) -> None:
    open_tab(page, "Prediction trace")
    expect(page.locator("#steps")).to_contain_text(
        re.compile(r"No image is chosen under Classify, so this follows one .* \((red|green|blue)\)")
    )
    open_tab(page, "Classify")
    names = page.locator("#examples button.thumbnail-item").evaluate_all(
        "(buttons) => buttons.map((button) => button.innerText.trim())"
    )
    assert sorted(names) == ["blue", "chessboard", "green", "red"]


def test_the_map_says_for_which_class_it_is(page: Page, folder: Path) -> None:
    open_tab(page, "Classify")
    page.locator("#image input[type=file]").set_input_files(str(folder / "images" / "red" / "0.png"))
    expect(page.locator("#overlay [role=status]")).to_contain_text(re.compile("evidence for (red|green|blue) lies"))
    first = page.locator("#overlay b").inner_text()
    other = next(label for label in ("red", "green", "blue") if label != first)
    page.locator("#about input").click()
    page.get_by_role("option", name=other, exact=True).click()
    expect(page.locator("#overlay [role=status]")).to_contain_text(f"Where the evidence for {other} lies")
    expect(page.locator("#overlay img").nth(1)).to_have_attribute("alt", re.compile(f"speak for {other}$"))


def test_what_a_visitor_gave_can_all_be_removed_and_the_page_says_when(
    page: Page, served: Served, folder: Path, tmp_path: Path
) -> None:
    given = Path(shutil.copyfile(folder / "images" / "red" / "0.png", tmp_path / "given.png"))
    minutes = served.space.options.keep_minutes
    open_tab(page, "Classify")
    expect(page.get_by_text(f"stay on this server for at most {minutes} minutes after you leave")).to_be_visible()
    page.locator("#image input[type=file]").set_input_files(str(given))
    expect(page.locator("#overlay img").first).to_be_visible()
    open_address(page, model="poor", tab="training")
    expect(page.locator("#mistakes button.thumbnail-item").first).to_be_visible()
    settle(page)  # else the thumbnails may be drawn once more
    page.locator("#mistakes button.thumbnail-item").first.click()
    expect(page.locator("#steps .hf-step")).to_have_count(5)
    uploads = served.space.work / "uploads"
    assert {path.name for path in uploads.rglob("*.png")} >= {given.name, "mistake.png"}
    assert served.blocks.delete_cache[1] == minutes * 60
    delete_files_created_by_app(served.blocks, age=-1)  # what Gradio does with files of that age
    assert not [path for path in uploads.rglob("*") if path.is_file() and path.name in {given.name, "mistake.png"}]


def test_the_page_shows_what_fits_the_latest_choice_of_images_however_late_an_answer_is(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, asked, go_on = FirstScreen.cards, threading.Event(), threading.Event()

    def cards(self: FirstScreen, session: Session, source: str) -> Any:
        if source == BUILT_IN:
            asked.set()
            assert go_on.wait(TIMEOUT / 1000)
        return drawn(self, session, source)

    monkeypatch.setattr(FirstScreen, "cards", cards)
    choice = page.locator("#source").get_by_label
    choice(BUILT_IN).check()
    assert asked.wait(TIMEOUT / 1000)
    choice(ZIP).check()
    expect(page.locator("#zip")).to_be_visible()
    expect(page.locator("#given")).to_be_visible()
    go_on.set()
    expect(page.locator("#classes")).to_contain_text("No images yet")
    settle(page)
    expect(page.locator("#classes")).to_contain_text("No images yet")
    expect(page.locator("#zip")).to_be_visible()
    choice(FILES).check()
    expect(page.locator("#zip")).to_be_hidden()
    expect(page.locator("#class-add")).to_be_visible()
    choice(BUILT_IN).check()
    expect(page.locator("#class-add")).to_be_hidden()
    expect(page.locator("#given")).to_be_hidden()
    expect(page.locator("#classes li")).to_have_count(10)


def press_at_once(page: Page, keys: str, answered: Callable[[], None]) -> None:
    """Press keys before the server answers the first of them; the others reach it once that is answered."""
    held: list[Any] = []
    page.route("**/queue/join*", lambda route: held.append(route))
    for key in keys:
        with page.expect_request("**/queue/join*"):
            page.keyboard.press(key)
    held[0].continue_()
    answered()
    for route in held[1:]:
        route.continue_()
    page.unroute("**/queue/join*")


def test_keys_pressed_before_the_server_answers_decide_about_nothing_unseen(
    page: Page, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradio.Warning", partial(Warned, duration=None))  # so that all can be counted
    errand = Training(Errand(folder, "labels", {}), "done")
    suspects = tuple(Suspect("label", f"red/{n}.png", "train", "red", "blue", 0.9) for n in range(4))
    review = Review(Desk("photos", "model", {"train": 9}, 9, (), suspects))
    desk = LabelDesk(Pictures({"train_dir": str(folder / "images")}), errand, review)
    monkeypatch.setattr(LabelDesks, "of", lambda self, session: desk)
    open_tab(page, "Labels")
    expect(page.locator("#labels-finding")).to_contain_text("1 of 4")
    press_at_once(page, "krduk", lambda: expect(page.locator("#labels-finding")).to_contain_text("2 of 4"))
    expect(page.get_by_text(LATE)).to_have_count(4)
    assert review.decisions == {0: Decision("keep")}
    page.keyboard.press("r")
    expect(page.locator("#labels-finding")).to_contain_text("3 of 4")
    assert review.decisions[1] == Decision("relabel", "blue")
    ranked = tuple(Choice(n + 1, str(folder / "images" / "red" / f"{n}.png"), "red", 0.5, 0.1) for n in range(4))
    found = Labelling(folder, errand, "run", ranked)
    monkeypatch.setattr(LabelNext, "of", lambda self, session: found)
    open_tab(page, "Label next")
    expect(page.locator("#next-photo")).to_contain_text("Photo 1 of 4")
    classes = page.locator("button[id^=key-next-]:not(#key-next-0, #key-next-u)")
    second = classes.nth(1).inner_text().split()[-1]
    monkeypatch.setattr(LabelNext, "classes", lambda self, session, model: ["blue", "other", "than", "before"])
    press_at_once(page, "213u2", lambda: expect(page.locator("#next-photo")).to_contain_text("Photo 2 of 4"))
    expect(page.get_by_text(LATE)).to_have_count(8)
    assert found.labels == {0: second}
    page.keyboard.press("2")
    expect(page.locator("#next-photo")).to_contain_text("Photo 3 of 4")
    assert found.labels == {0: second, 1: "other"}


def test_what_the_handle_shows_is_what_is_trained_however_late_the_server_is(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle, command = page.locator("#cut [role=slider]"), page.locator("#cut .hf-cut-command")
    page.get_by_text("Other choices than a cut").click()
    listed = page.locator("#policy input")
    expect(listed).to_have_value("last_block")
    settle(page)
    asked, go = held_up(monkeypatch, FirstScreen, "cut")
    page.locator("#epoch-count input[type=number]").fill("3")
    page.locator("#epoch-count input[type=number]").press("Tab")
    assert asked.wait(TIMEOUT / 1000)  # about the cut where it is now
    handle.focus()
    for _ in range(2):
        page.keyboard.press("ArrowLeft")
    expect(command).to_contain_text("--policy last_n:3 ")
    expect(listed).to_have_value("last_n:3")
    go.set()
    expect(command).to_contain_text("--num_train_epochs 3 ")
    expect(command).to_contain_text("--policy last_n:3 ")
    page.keyboard.press("ArrowRight")
    expect(command).to_contain_text("--policy last_n:2 ")
    expect(listed).to_have_value("last_n:2")
