"""What can be played with on the page, in a real browser on the embedded default: by mouse, touch and keyboard."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import TIMEOUT, chromium, needed, open_tab
from finished import make_images, run_finetune
from playwright.sync_api import Page, expect

from hfft.inference.runs import read_run
from hfft.space.app import serve
from hfft.space.options import SpaceArguments
from hfft.space.quiz import GENERAL, make_quiz

pytestmark = [needed, pytest.mark.processes]
expect.set_options(timeout=TIMEOUT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("playing")
    images = make_images(folder / "images")
    run_finetune(None, images, folder / "outputs" / "run", learning_rate=0.01, num_train_epochs=2.0)
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with serve(SpaceArguments(outputs=str(folder / "outputs")), device="cpu") as served:
        yield served.url


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
