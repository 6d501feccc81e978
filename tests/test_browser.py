"""The Space as people see it: a real browser uploads, looks, trains, cancels and answers the quiz."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from finished import make_images, make_model, run_finetune

pytest.importorskip("gradio", reason="the extra 'space' is not installed")
pytest.importorskip("playwright", reason="playwright is not installed")

from playwright.sync_api import Page, expect, sync_playwright

from hfft.predict import classify, load_classifier
from hfft.quiz import make_quiz
from hfft.runs import read_run

CHROMIUM = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TABS = {
    "Classify": "#image",
    "Pipeline": "#flow .hf-card",
    "Training": "#epochs table",
    "Prediction trace": "#steps .hf-step",
    "Compare": "#runs label",
    "Fine-tune": "#start",
    "Learn": "#question-1 label",
}
TIMEOUT = 20_000  # milliseconds

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    base, images = make_model(folder / "base"), make_images(folder / "images")
    run_finetune(base, images, folder / "outputs" / "run", learning_rate=0.05)
    shutil.make_archive(str(folder / "images"), "zip", images)
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    """The Space as a user starts it, in a process of its own."""
    command = [sys.executable, "-m", "hfft", "space", "--outputs", str(folder / "outputs")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        line = next((line for line in process.stdout if line.startswith("hfft space: ")), "")
        yield line.removeprefix("hfft space: ").strip()
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Page]:
    """The page, newly opened; nothing on it may go wrong unseen."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(TIMEOUT)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(url)
    expect(page.get_by_role("tab", name="Classify")).to_be_visible(timeout=TIMEOUT)
    yield page
    context.close()
    assert not problems


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()
    expect(page.locator(TABS[name]).first).to_be_visible(timeout=TIMEOUT)


def start_training(page: Page, folder: Path, epochs: int) -> None:
    open_tab(page, "Fine-tune")
    page.locator("#zip input[type=file]").set_input_files(str(folder / "images.zip"))
    expect(page.locator("#zip table")).to_be_visible(timeout=TIMEOUT)
    page.locator("#epoch-count input[type=number]").fill(str(epochs))
    page.locator("#epoch-count input[type=number]").press("Tab")
    page.locator("#start").click()


def test_an_uploaded_image_gets_its_label(page: Page, folder: Path) -> None:
    file = folder / "images" / "green" / "0.png"
    (expected,) = classify(load_classifier(folder / "outputs" / "run", device="cpu"), [file])
    page.locator("#image input[type=file]").set_input_files(str(file))
    expect(page.locator("#label h2, #label [data-testid=label-output-value]").first).to_contain_text(
        expected.label, timeout=TIMEOUT
    )
    expect(page.locator("#overlay img")).to_have_attribute(
        "alt", "The image under its class activation map; bright spots speak for the class"
    )


def test_a_hostile_file_gets_a_message_with_its_name_as_text(page: Page, tmp_path: Path) -> None:
    bad = tmp_path / "<img src=x onerror=alert(1)>.png"
    bad.write_bytes(b"no image")
    page.on("dialog", lambda dialog: pytest.fail("the file's name ran as code"))
    page.locator("#image input[type=file]").set_input_files(str(bad))
    expect(page.get_by_text("no image that can be read")).to_be_visible(timeout=TIMEOUT)


def test_every_tab_shows_this_model(page: Page, folder: Path) -> None:
    page.locator("#image input[type=file]").set_input_files(str(folder / "images" / "red" / "0.png"))
    for name in TABS:
        open_tab(page, name)
    open_tab(page, "Pipeline")
    expect(page.locator("#flow .hf-card")).to_have_count(5)
    expect(page.locator("#architecture svg.architecture")).to_have_attribute("role", "img")
    open_tab(page, "Compare")
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("#comparison td", has_text="last_block")).to_be_visible(timeout=TIMEOUT)


def test_tabs_are_reached_by_keyboard(page: Page) -> None:
    page.get_by_role("tab", name="Classify").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#flow .hf-card").first).to_be_visible(timeout=TIMEOUT)


def test_every_picture_has_a_text(page: Page, folder: Path) -> None:
    page.locator("#image input[type=file]").set_input_files(str(folder / "images" / "red" / "0.png"))
    expect(page.locator("#overlay img")).to_be_visible(timeout=TIMEOUT)
    for name in ("Pipeline", "Prediction trace"):
        open_tab(page, name)
        expect(page.locator("img:visible").first).to_be_visible(timeout=TIMEOUT)
        assert page.locator("img:visible:not([alt]), img:visible[alt='']").count() == 0


def test_the_page_fits_a_phone(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_quiz_is_answered(page: Page, folder: Path) -> None:
    open_tab(page, "Learn")
    for number, item in enumerate(make_quiz(read_run(folder / "outputs" / "run")), start=1):
        page.locator(f"#question-{number} label", has_text=item.choices[item.answer]).first.click()
        page.locator(f"#check-{number}").click()
        expect(page.locator(f"#verdict-{number}")).to_contain_text("Right.", timeout=TIMEOUT)


def test_a_training_in_the_page_is_used_by_classify(page: Page, folder: Path) -> None:
    start_training(page, folder, 2)
    expect(page.locator("#status [data-state=running]")).to_be_visible(timeout=TIMEOUT)
    expect(page.locator("#status [data-state=done]")).to_be_visible(timeout=3 * TIMEOUT)
    expect(page.locator("#model input")).to_have_value("your new model", timeout=TIMEOUT)
    expect(page.locator("#get")).to_be_visible(timeout=TIMEOUT)
    open_tab(page, "Classify")
    page.locator("#image input[type=file]").set_input_files(str(folder / "images" / "red" / "0.png"))
    expect(page.locator("#overlay img")).to_be_visible(timeout=TIMEOUT)


def test_a_training_is_cancelled(page: Page, folder: Path) -> None:
    start_training(page, folder, 20)
    expect(page.locator("#status [data-state=running]")).to_be_visible(timeout=TIMEOUT)
    page.locator("#cancel").click()
    expect(page.locator("#status [data-state=cancelled]")).to_be_visible(timeout=TIMEOUT)
    start_training(page, folder, 1)
    expect(page.locator("#status [data-state=running]")).to_be_visible(timeout=TIMEOUT)
    page.locator("#cancel").click()
    expect(page.locator("#status [data-state=cancelled]")).to_be_visible(timeout=TIMEOUT)
