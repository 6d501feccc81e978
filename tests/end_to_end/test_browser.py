"""The Space as people see it: a real browser uploads, looks, trains, cancels and answers the quiz."""

from __future__ import annotations

import base64
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from finished import make_images, make_model, run_finetune

pytest.importorskip("gradio", reason="the extra 'space' is not installed")
pytest.importorskip("playwright", reason="playwright is not installed")

from playwright.sync_api import Page, expect, sync_playwright

from hfft.inference.classifier import classify, load_classifier
from hfft.inference.runs import read_run
from hfft.space.quiz import make_quiz

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
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
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


RUNS = ("embedded", "resnet", "vit")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded default, a ResNet and a ViT, each fine-tuned for a moment, and the images that they learned from."""
    folder = tmp_path_factory.mktemp("browser")
    images = make_images(folder / "images")
    shutil.make_archive(str(folder / "images"), "zip", images)
    for kind in RUNS:
        base = None if kind == "embedded" else make_model(folder / kind, kind=kind)
        run_finetune(base, images, folder / "outputs" / kind, learning_rate=0.05)
        time.sleep(1.1)  # the newest is told by the second
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


def choose_model(page: Page, name: str) -> None:
    page.locator("#model input").click()
    page.get_by_role("option", name=name, exact=True).click()
    expect(page.locator("#model input")).to_have_value(name)


def upload(page: Page, file: Path) -> None:
    page.locator("#image input[type=file]").set_input_files(str(file))
    expect(page.locator("#overlay img")).to_be_visible(timeout=TIMEOUT)


def told(page: Page) -> Any:
    """What the page takes for the likeliest label."""
    return page.locator("#label h2, #label [data-testid=label-output-value]").first


def start_training(page: Page, folder: Path, epochs: int) -> None:
    open_tab(page, "Fine-tune")
    page.locator("#zip input[type=file]").set_input_files(str(folder / "images.zip"))
    expect(page.locator("#zip table")).to_be_visible(timeout=TIMEOUT)
    page.locator("#epoch-count input[type=number]").fill(str(epochs))
    page.locator("#epoch-count input[type=number]").press("Tab")
    page.locator("#start").click()


def test_an_uploaded_image_gets_its_label(page: Page, folder: Path) -> None:
    file = folder / "images" / "green" / "0.png"
    (expected,) = classify(load_classifier(folder / "outputs" / RUNS[-1], device="cpu"), [file])
    upload(page, file)
    expect(told(page)).to_contain_text(expected.label)
    expect(page.locator("#overlay img")).to_have_attribute(
        "alt", "The image under its class activation map; bright spots speak for the class"
    )


def test_a_pasted_image_gets_its_label(page: Page, folder: Path) -> None:
    file = folder / "images" / "red" / "1.png"
    (expected,) = classify(load_classifier(folder / "outputs" / RUNS[-1], device="cpu"), [file])
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate(
        """async (text) => {
            const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
            const blob = new Blob([bytes], {type: "image/png"});
            await navigator.clipboard.write([new ClipboardItem({"image/png": blob})]);
        }""",
        base64.b64encode(file.read_bytes()).decode(),
    )
    page.locator("#image").get_by_label("Paste from clipboard").click()
    expect(told(page)).to_contain_text(expected.label, timeout=TIMEOUT)


def test_a_picture_from_the_webcam_is_labelled(page: Page, folder: Path) -> None:
    labels = load_classifier(folder / "outputs" / RUNS[-1], device="cpu").labels
    page.context.grant_permissions(["camera"])
    page.locator("#image").get_by_label("Capture from camera").click()
    page.locator("#image").get_by_text("Click to Access Webcam").click()
    # Before the first frame is there, the button does nothing.
    page.wait_for_function("document.querySelector('#image video')?.videoWidth > 0")
    page.locator("#image").get_by_label("capture photo").click()
    expect(told(page)).to_contain_text(re.compile("|".join(labels)), timeout=TIMEOUT)


def test_the_opacity_changes_the_map(page: Page, folder: Path) -> None:
    upload(page, folder / "images" / "red" / "0.png")
    shown = page.locator("#overlay img")
    before = shown.get_attribute("src")
    page.locator("#opacity input[type=range]").fill("0")
    page.locator("#opacity input[type=range]").dispatch_event("pointerup")
    expect(shown).not_to_have_attribute("src", before or "", timeout=TIMEOUT)


def test_a_hostile_file_gets_a_message_with_its_name_as_text(page: Page, tmp_path: Path) -> None:
    bad = tmp_path / "<img src=x onerror=alert(1)>.png"
    bad.write_bytes(b"no image")
    page.on("dialog", lambda dialog: pytest.fail("the file's name ran as code"))
    page.locator("#image input[type=file]").set_input_files(str(bad))
    expect(page.get_by_text("no image that can be read")).to_be_visible(timeout=TIMEOUT)


@pytest.mark.parametrize("name", RUNS)
def test_every_tab_shows_the_model_in_use(name: str, page: Page, folder: Path) -> None:
    file, run = folder / "images" / "red" / "0.png", read_run(folder / "outputs" / name)
    (expected,) = classify(load_classifier(run.folder, device="cpu"), [file])
    choose_model(page, name)
    upload(page, file)
    expect(told(page)).to_contain_text(expected.label)
    open_tab(page, "Pipeline")
    expect(page.locator("#flow .hf-card")).to_have_count(5)
    drawing = page.locator("#architecture svg.architecture")
    expect(drawing).to_have_attribute("aria-label", re.compile(f"^{name}: {len(run.record.parts)} parts"))
    open_tab(page, "Training")
    expect(page.locator("#epochs")).to_contain_text(run.rows[0].observation)
    open_tab(page, "Prediction trace")
    expect(page.locator("#steps .hf-step")).to_have_count(5)
    expect(page.locator("#steps")).to_contain_text("Base model")
    open_tab(page, "Compare")
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("#comparison tbody tr")).to_have_count(2, timeout=TIMEOUT)
    open_tab(page, "Learn")
    total = sum(part.parameters for part in run.record.parts)
    expect(page.get_by_text(f"This model has {total:,} parameters")).to_be_visible()


def test_tabs_are_reached_by_keyboard(page: Page) -> None:
    page.get_by_role("tab", name="Classify").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#flow .hf-card").first).to_be_visible(timeout=TIMEOUT)


def test_every_picture_has_a_text(page: Page, folder: Path) -> None:
    upload(page, folder / "images" / "red" / "0.png")
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
    for number, item in enumerate(make_quiz(read_run(folder / "outputs" / RUNS[-1])), start=1):
        page.locator(f"#question-{number} label", has_text=item.choices[item.answer]).first.click()
        page.locator(f"#check-{number}").click()
        expect(page.locator(f"#verdict-{number}")).to_contain_text("Right.", timeout=TIMEOUT)


@pytest.mark.parametrize("name", RUNS)
def test_a_training_in_the_page_is_used_by_classify(name: str, page: Page, folder: Path) -> None:
    choose_model(page, name)
    start_training(page, folder, 2)
    expect(page.locator("#status [data-state=running]")).to_be_visible(timeout=TIMEOUT)
    expect(page.locator("#status [data-state=done]")).to_be_visible(timeout=3 * TIMEOUT)
    expect(page.locator("#model input")).to_have_value("your new model", timeout=TIMEOUT)
    expect(page.locator("#summary")).to_contain_text(f"base {read_run(folder / 'outputs' / name).record.base.id}")
    expect(page.locator("#get")).to_be_visible(timeout=TIMEOUT)
    open_tab(page, "Classify")
    upload(page, folder / "images" / "red" / "0.png")


def test_a_training_is_cancelled(page: Page, folder: Path) -> None:
    start_training(page, folder, 20)
    expect(page.locator("#status [data-state=running]")).to_be_visible(timeout=TIMEOUT)
    page.locator("#cancel").click()
    expect(page.locator("#status [data-state=cancelled]")).to_be_visible(timeout=TIMEOUT)
    start_training(page, folder, 1)
    expect(page.locator("#status [data-state=running]")).to_be_visible(timeout=TIMEOUT)
    page.locator("#cancel").click()
    expect(page.locator("#status [data-state=cancelled]")).to_be_visible(timeout=TIMEOUT)
