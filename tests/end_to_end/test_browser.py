"""The Space as people see it: a real browser uploads, looks, trains, cancels and answers the quiz."""

from __future__ import annotations

import base64
import contextlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import TABS, TIMEOUT, chromium, needed, open_tab
from finished import make_images, make_model, run_finetune
from PIL import Image
from playwright.sync_api import Page, expect

from hfft.inference.classifier import classify, load_classifier
from hfft.inference.runs import read_run
from hfft.report.card_metadata import plain_base_name
from hfft.space.quiz import Guess, make_quiz
from hfft.space.service import NONE

ENDLESS = 10_000  # epochs of a training that is still running whenever a test looks
DRAWN = "((name) => [...document.querySelectorAll(name)].every((image) => image.complete && image.naturalWidth > 0))"
MAP = "getComputedStyle(document.querySelectorAll('#overlay img')[1]).opacity"

pytestmark = [needed, pytest.mark.processes]


expect.set_options(timeout=TIMEOUT)

RUNS = ("embedded", "resnet", "vit")
EACH = ["embedded", *(pytest.param(name, marks=pytest.mark.slow) for name in RUNS[1:])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded default, a ResNet and a ViT, each fine-tuned for a moment, and the images that they learned from."""
    folder = tmp_path_factory.mktemp("browser")
    images = make_images(folder / "images")
    shutil.make_archive(str(folder / "images"), "zip", images)
    for path in images.iterdir():
        shutil.copytree(path, folder / "renamed" / f"my {path.name}")
    shutil.make_archive(str(folder / "renamed"), "zip", folder / "renamed")
    alike = make_images(folder / "alike", ("one", "two", "three"), count=12)  # all red: mistakes are certain
    shutil.make_archive(str(folder / "alike"), "zip", alike)
    for kind in RUNS:
        base = None if kind == "embedded" else make_model(folder / kind, kind=kind)
        run_finetune(base, images, folder / "outputs" / kind, learning_rate=0.05)
        time.sleep(1.1)  # the newest is told by the second
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    """The Space as a user starts it, in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "hfft",
        "space",
        "--outputs",
        str(folder / "outputs"),
        "--max_epochs",
        str(ENDLESS),
    ]
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
    with chromium() as opened:
        yield opened


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Page]:
    """The page, newly opened; nothing on it may go wrong unseen."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(TIMEOUT)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(url)
    expect(page.locator("#cut .hf-cut-block").first).to_be_visible(timeout=TIMEOUT)
    yield page
    context.close()
    # Gradio measures parts that a reload has taken away already; nothing of hfft's own asks for this.
    assert not [problem for problem in problems if "reading 'offsetWidth'" not in problem]


def choose_model(page: Page, name: str) -> None:
    page.locator("#model input").click()
    page.get_by_role("option", name=name, exact=True).click()
    expect(page.locator("#model input")).to_have_value(name)


def upload(page: Page, file: Path) -> None:
    open_tab(page, "Classify")
    page.locator("#image input[type=file]").set_input_files(str(file))
    expect(page.locator("#overlay img").first).to_be_visible(timeout=TIMEOUT)


def told(page: Page) -> Any:
    """What the page takes for the most probable label."""
    return page.locator("#label h2, #label [data-testid=label-output-value]").first


def start_training(page: Page, folder: Path, epochs: int, archive: str = "images.zip") -> None:
    open_tab(page, "Fine-tune")
    page.locator("#source").get_by_label("Zip of class folders").check()
    expect(page.locator("#zip")).to_be_visible(timeout=TIMEOUT)
    page.wait_for_timeout(1_000)  # the field has just been put on the page; who uploads by hand is slower
    page.locator("#zip input[type=file]").set_input_files(str(folder / archive))
    expect(page.locator("#given textarea")).to_have_value(re.compile("images in 3 classes"), timeout=TIMEOUT)
    train(page, epochs)


def train(page: Page, epochs: int) -> None:
    page.locator("#epoch-count input[type=number]").fill(str(epochs))
    page.locator("#epoch-count input[type=number]").press("Tab")
    page.locator("#start").click()


def test_an_uploaded_image_gets_its_label(page: Page, folder: Path) -> None:
    file = folder / "images" / "green" / "0.png"
    (expected,) = classify(load_classifier(folder / "outputs" / RUNS[-1], device="cpu"), [file])
    upload(page, file)
    expect(told(page)).to_contain_text(expected.label)
    expect(page.locator("#overlay img").nth(1)).to_have_attribute(
        "alt", f"Class activation map: bright spots speak for {expected.label}"
    )


def test_a_pasted_image_gets_its_label(page: Page, folder: Path) -> None:
    file = folder / "images" / "red" / "1.png"
    (expected,) = classify(load_classifier(folder / "outputs" / RUNS[-1], device="cpu"), [file])
    open_tab(page, "Classify")
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
    open_tab(page, "Classify")
    page.context.grant_permissions(["camera"])
    page.locator("#image").get_by_label("Capture from camera").click()
    page.locator("#image").get_by_text("Click to Access Webcam").click()
    # Before the first frame is there, the button does nothing.
    page.wait_for_function("document.querySelector('#image video')?.videoWidth > 0")
    page.locator("#image").get_by_label("capture photo").click()
    # A browser without a camera films a test card, which no model here knows.
    expect(told(page)).to_contain_text(re.compile("|".join([*labels, NONE])), timeout=TIMEOUT)


def test_the_opacity_follows_the_keyboard(page: Page, folder: Path) -> None:
    upload(page, folder / "images" / "red" / "0.png")
    page.wait_for_function(f"{MAP} === '0.5'")
    page.locator("#opacity input[type=range]").focus()
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    page.wait_for_function(f"{MAP} === '0.8'")


def test_tabbing_through_an_untouched_page_raises_nothing(page: Page) -> None:
    page.locator("#model input").focus()
    for _ in range(40):
        page.keyboard.press("Tab")
    expect(page.locator(".toast-body")).to_have_count(0)


def test_another_model_changes_what_an_open_tab_shows(page: Page, folder: Path) -> None:
    first, second = (read_run(folder / "outputs" / name) for name in RUNS[:2])
    choose_model(page, RUNS[0])
    open_tab(page, "Training")
    seconds = f"{first.rows[0].seconds:.1f}"
    expect(page.locator("#epochs")).to_contain_text(seconds, timeout=TIMEOUT)
    choose_model(page, RUNS[1])
    expect(page.locator("#epochs")).to_contain_text(f"{second.rows[0].eval_loss:.3f}", timeout=TIMEOUT)
    expect(page.locator("#epochs")).not_to_contain_text(f"{first.rows[0].eval_loss:.3f}")
    open_tab(page, "Pipeline")
    open_tab(page, "Training")
    expect(page.locator("#epochs")).to_contain_text(f"{second.rows[0].eval_loss:.3f}", timeout=TIMEOUT)


def test_a_hostile_file_gets_a_message_with_its_name_as_text(page: Page, tmp_path: Path) -> None:
    bad = tmp_path / "<img src=x onerror=alert(1)>.png"
    bad.write_bytes(b"no image")
    open_tab(page, "Classify")
    page.on("dialog", lambda dialog: pytest.fail("the file's name ran as code"))
    page.locator("#image input[type=file]").set_input_files(str(bad))
    expect(page.get_by_text("not an image that can be read")).to_be_visible(timeout=TIMEOUT)


@pytest.mark.parametrize("control", ["#source input[type=radio]", "#model input", "#start", "#cut [role=slider]"])
def test_what_has_the_focus_is_seen(control: str, page: Page) -> None:
    page.keyboard.press("Tab")  # a keyboard is used
    page.locator(control).first.focus()
    style = page.locator(control).first.evaluate("(one) => getComputedStyle(one).outlineStyle")
    assert style in ("solid", "auto")


def test_a_zip_that_cannot_be_used_makes_room_for_another(page: Page, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    page.locator("#source").get_by_label("Zip of class folders").check()
    page.wait_for_timeout(1_000)  # the field has just been put on the page
    page.locator("#zip input[type=file]").set_input_files(str(tmp_path / "bad.zip"))
    expect(page.get_by_text("not a zip that can be read")).to_be_visible()
    page.locator("#zip input[type=file]").set_input_files(str(folder / "images.zip"))
    expect(page.locator("#given textarea")).to_have_value(re.compile("images in 3 classes"))


def test_the_cut_of_another_model_is_gone_at_once(page: Page) -> None:
    expect(page.locator("#cut .hf-cut-command")).to_contain_text("hfft finetune")  # the page has arrived
    page.evaluate(
        """() => {
            const command = document.querySelector("#cut .hf-cut-command");
            window.seen = [];
            new MutationObserver(() => window.seen.push(command.textContent)).observe(command, {childList: true});
        }"""
    )
    choose_model(page, "resnet")
    expect(page.locator("#cut .hf-cut-command")).to_contain_text("--model_name_or_path resnet")
    assert page.evaluate("window.seen[0]") == ""


@pytest.mark.parametrize("name", EACH)
def test_every_tab_shows_the_model_in_use(name: str, page: Page, folder: Path) -> None:
    file, run = folder / "images" / "red" / "0.png", read_run(folder / "outputs" / name)
    (expected,) = classify(load_classifier(run.folder, device="cpu"), [file])
    choose_model(page, name)
    expect(page.locator("#cut .hf-cut-command")).to_contain_text("--policy last_block")
    upload(page, file)
    expect(told(page)).to_contain_text(expected.label)
    open_tab(page, "Pipeline")
    expect(page.locator("#flow .hf-card")).to_have_count(5)
    drawing = page.locator("#architecture svg.architecture")
    expect(drawing).to_have_attribute("aria-label", re.compile(f"^{name}: {len(run.record.parts)} parts"))
    open_tab(page, "Training")
    expect(page.locator("#epochs")).to_contain_text(run.rows[0].observation)
    expect(page.locator("#player .said")).to_contain_text("of 18 validation images right")
    expect(page.locator("#feature-map .dot").first).to_be_visible()
    open_tab(page, "Prediction trace")
    expect(page.locator("#steps .hf-step")).to_have_count(5)
    expect(page.locator("#steps")).to_contain_text("Base model")
    expect(page.locator("#journey .bars .share")).to_have_count(3)
    expect(page.locator("#journey .way button.trained").first).to_be_visible()
    open_tab(page, "Compare")
    page.get_by_role("button", name="Compare").click()
    for text in ("resnet", "vit", "the linear probe"):
        expect(page.locator("#comparison table").first).to_contain_text(text, timeout=TIMEOUT)
    open_tab(page, "Learn")
    total = sum(part.parameters for part in run.record.parts)
    expect(page.get_by_text(f"This model has {total:,} parameters")).to_be_visible()


def test_an_address_opens_the_runs_that_were_compared(page: Page) -> None:
    open_tab(page, "Compare")
    runs = page.locator("#runs")
    runs.get_by_label(RUNS[1]).uncheck()
    runs.get_by_label(RUNS[0]).check()
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.locator("#comparison")).to_contain_text(f"Accuracy of {RUNS[2]} less")
    open_tab(page, "Pipeline")
    open_tab(page, "Compare")  # what is chosen stays
    expect(runs.get_by_label(RUNS[0])).to_be_checked()
    page.goto(page.url)
    expect(page.locator("#comparison")).to_contain_text(f"Accuracy of {RUNS[2]} less")
    expect(page.locator("#comparison table").first).to_contain_text(RUNS[0])
    for name, chosen in zip(RUNS, (True, False, True), strict=True):
        expect(runs.get_by_label(name)).to_be_checked(checked=chosen)


def test_tabs_are_reached_by_keyboard(page: Page) -> None:
    page.get_by_role("tab", name="Classify").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#flow .hf-card").first).to_be_visible(timeout=TIMEOUT)
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#image")).to_be_visible(timeout=TIMEOUT)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#question-1")).to_be_visible(timeout=TIMEOUT)


def test_every_picture_has_a_text(page: Page, folder: Path) -> None:
    upload(page, folder / "images" / "red" / "0.png")
    for name in ("Pipeline", "Prediction trace"):
        open_tab(page, name)
        expect(page.locator("img:visible").first).to_be_visible(timeout=TIMEOUT)
        assert page.locator("img:visible:not([alt]), img:visible[alt='']").count() == 0


def test_the_page_fits_a_phone(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(500)
    for name in TABS:  # every tab can be seen, none lies in a menu
        open_tab(page, name)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name


@pytest.mark.slow  # on cores that other tests keep busy, parts arrive so late that the browser counts them as jumps
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_jumps_while_the_page_arrives(theme: str, browser: Any, url: str) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.add_init_script(
        """window.shifts = 0; new PerformanceObserver((list) => list.getEntries().forEach((entry) => {
            if (!entry.hadRecentInput) window.shifts += entry.value;
        })).observe({type: "layout-shift", buffered: true})"""
    )
    page.goto(f"{url}?__theme={theme}")
    expect(page.locator("#cut .hf-cut-block").first).to_be_visible()
    page.wait_for_timeout(1_000)
    assert page.evaluate("window.shifts") < 0.1, "above 0.1 a page counts as one that needs work"
    page.close()


def cut_facts(page: Page) -> str:
    return page.locator("#cut .hf-cut-facts").inner_text()


def test_the_cut_is_moved_by_keys_and_trained_by_enter(page: Page) -> None:
    choose_model(page, "vit")
    handle = page.locator("#cut [role=slider]")
    command = page.locator("#cut .hf-cut-command")
    expect(command).to_contain_text("--policy last_block --num_train_epochs 5 --model_name_or_path vit")
    before = cut_facts(page)
    handle.focus()
    page.keyboard.press("ArrowLeft")
    expect(command).to_contain_text("--policy last_n:2 ")
    assert cut_facts(page) != before
    page.keyboard.press("Home")
    expect(command).to_contain_text("--policy full ")
    expect(handle).to_have_attribute("aria-valuenow", "0")
    page.keyboard.press("End")
    expect(handle).to_have_attribute("aria-valuetext", re.compile("head: frozen up to neck"))
    page.keyboard.press("Enter")
    expect(page.locator("#status [data-state=done]")).to_be_visible(timeout=TIMEOUT)
    expect(page.locator("#cut .hf-cut-dot")).to_have_count(1)
    expect(page.locator("#cut .hf-cut-said")).to_contain_text(re.compile(r"^head, 5 epochs: \d+ of 48 validation"))
    assert own_model(page).endswith("head, 5 epochs")


@pytest.mark.parametrize("pointer", ["mouse", pytest.param("touch", marks=pytest.mark.slow)])
def test_the_cut_is_dragged_and_trained_where_it_is_let_go(pointer: str, browser: Any, url: str) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, has_touch=pointer == "touch")
    page = context.new_page()
    page.set_default_timeout(TIMEOUT)
    page.goto(url)
    expect(page.locator("#cut .hf-cut-block").first).to_be_visible()
    choose_model(page, "vit")
    command = page.locator("#cut .hf-cut-command")
    expect(command).to_contain_text("--model_name_or_path vit")
    drag(page, page.locator("#cut .hf-cut-bar"), pointer, lambda: expect(command).to_contain_text("--policy full "))
    expect(command).to_contain_text("--policy head ")
    expect(page.locator("#status [data-state=done]")).to_be_visible()
    expect(page.locator("#cut .hf-cut-dot")).to_have_count(1)
    assert own_model(page).endswith("head, 5 epochs")
    context.close()


def drag(page: Page, bar: Any, pointer: str, on_the_way: Any) -> None:
    """Take the handle to the left end, then to the right one, and let it go there."""
    bar.scroll_into_view_if_needed()
    box = bar.bounding_box()
    assert box is not None
    y, left, right = box["y"] + box["height"] / 2, box["x"] + 2, box["x"] + box["width"] - 2
    start = (left + right) / 2
    if pointer == "mouse":
        page.mouse.move(start, y)
        page.mouse.down()
        page.mouse.move(left, y)
        on_the_way()
        page.mouse.move(right, y)
        page.mouse.up()
        return
    line = page.context.new_cdp_session(page)
    for kind, x in (("touchStart", start), ("touchMove", start - 20), ("touchMove", left)):
        line.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
    on_the_way()
    line.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [{"x": right, "y": y}]})
    line.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def test_a_first_visit_has_images_and_trains_at_a_press(page: Page, folder: Path) -> None:
    choose_model(page, "vit")
    expect(page.locator("#classes li")).to_have_count(4)
    expect(page.locator("#classes li").first).to_contain_text("12 images, 12 for validation")
    page.locator("#try-image input[type=file]").set_input_files(str(folder / "images" / "red" / "0.png"))
    expect(page.locator("#try-answers")).to_contain_text("Before training")
    page.locator("#start").click()
    expect(page.locator("#status [data-state=done]")).to_be_visible(timeout=TIMEOUT)
    expect(page.locator("#try-answers")).to_contain_text("After training: your model")
    expect(page.locator("#try-answers")).to_contain_text(re.compile("cat|cow|dog|horse"))


def test_pictures_are_put_under_a_class_one_after_the_other(page: Page, folder: Path) -> None:
    page.locator("#source").get_by_label("Files under class names").check()
    page.locator("#class-name textarea, #class-name input").fill("mine")
    files = [str(folder / "images" / "red" / f"{number}.png") for number in range(3)]
    page.locator("#class-files input[type=file]").set_input_files(files)
    page.locator("#class-add").click()
    expect(page.locator("#classes li")).to_have_count(1)
    expect(page.locator("#classes li")).to_contain_text("3 images")
    expect(page.locator("#classes .few")).to_contain_text("only 3")
    expect(page.locator("#classes img")).to_have_count(3)
    page.reload()
    expect(page.locator("#source").get_by_label("Files under class names")).to_be_checked()
    expect(page.locator("#classes img")).to_have_count(3)
    page.locator("#class-clear").click()
    expect(page.locator("#classes")).to_contain_text("No images yet")


def test_a_camera_is_opened_once_and_let_go_of_when_it_is_not_seen(page: Page) -> None:
    page.evaluate(
        """() => {
            window.cameras = [];
            const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
            navigator.mediaDevices.getUserMedia = async (wanted) => {
                await new Promise((answered) => setTimeout(answered, 500));
                const stream = await ask(wanted);
                window.cameras.push(stream.getTracks()[0]);
                return stream;
            };
        }"""
    )
    source, turn = page.locator("#source"), page.locator("#class-camera .turn")
    leaving: tuple[Callable[[], None], ...] = (
        lambda: source.get_by_label("Zip of class folders").check(),
        lambda: open_tab(page, "Classify"),
    )
    for number, leave in enumerate(leaving, start=1):
        open_tab(page, "Fine-tune")
        source.get_by_label("Files under class names").check()
        turn.dblclick()
        expect(turn).to_have_text("Turn the camera off")
        leave()
        expect(turn).not_to_be_visible()
        page.wait_for_function("window.cameras.every((each) => each.readyState === 'ended')")
        assert page.evaluate("window.cameras.length") == number


def test_labels_are_mended_and_photos_labelled_by_keys(page: Page, tmp_path: Path) -> None:
    images = make_images(tmp_path / "mine", count=10)
    (images / "red" / "9.png").rename(images / "blue" / "stray.png")
    shutil.make_archive(str(tmp_path / "mine"), "zip", images)
    choose_model(page, "vit")
    page.locator("#source").get_by_label("Zip of class folders").check()
    page.wait_for_timeout(1_000)  # the field has just been put on the page
    page.locator("#zip input[type=file]").set_input_files(str(tmp_path / "mine.zip"))
    expect(page.locator("#given textarea")).to_have_value(re.compile("30 images in 3 classes"))
    open_tab(page, "Labels")
    page.locator("#labels-look").click()
    expect(page.locator("#labels-finding")).to_contain_text("The other images speak for red", timeout=TIMEOUT)
    page.locator("#labels-gallery button").first.click()
    page.keyboard.press("r")
    expect(page.locator("#labels-said")).to_contain_text("1 relabelled")
    page.keyboard.press("u")
    expect(page.locator("#labels-said")).to_contain_text("0 of ")
    page.keyboard.press("r")
    expect(page.locator("#labels-said")).to_contain_text("1 relabelled")
    page.locator("#labels-again").click()
    expect(page.locator("#labels-trained [data-state=done]")).to_be_visible(timeout=TIMEOUT)
    expect(page.locator("#labels-trained")).to_contain_text("0 of 30 images went through the frozen part anew")
    expect(page.locator("#model input")).to_have_value(re.compile("^your model"))
    open_tab(page, "Label next")
    photos = [Image.linear_gradient("L").rotate(90 * turn).convert("RGB") for turn in range(3)]
    for number, photo in enumerate(photos):
        photo.save(tmp_path / f"{number}.png")
    page.locator("#next-files input[type=file]").set_input_files([str(tmp_path / f"{n}.png") for n in range(3)])
    expect(page.locator("#next-files")).to_contain_text(re.compile(r"2\s*\.png"))
    page.locator("#next-rank").click()
    expect(page.locator("#next-photo img")).to_be_visible(timeout=TIMEOUT)
    page.locator("#next-photo").click()
    page.keyboard.press("2")
    expect(page.locator("#next-said")).to_contain_text("1 of 3 photos labelled")
    page.keyboard.press("u")
    expect(page.locator("#next-said")).to_contain_text("0 of 3 photos labelled")
    page.keyboard.press("0")
    expect(page.locator("#next-photo")).to_contain_text("Photo 2 of 3")
    page.keyboard.press("3")
    expect(page.locator("#next-said")).to_contain_text("1 of 3 photos labelled")
    page.locator("#next-join").click()
    expect(page.locator("#next-said")).to_contain_text("Added. To train on: 31 images in 3 classes")
    open_tab(page, "Fine-tune")
    expect(page.locator("#classes li").last).to_contain_text("10 images")


def test_the_quiz_is_answered(page: Page, folder: Path) -> None:
    open_tab(page, "Learn")
    quiz = make_quiz(read_run(folder / "outputs" / RUNS[-1]))
    for number, item in enumerate(quiz, start=1):
        if isinstance(item, Guess):
            page.locator(f"#guess-{number} input[type=number]").fill(f"{item.measured:.0f}")
            page.keyboard.press("Tab")
            page.locator(f"#show-{number}").click()
            expect(page.locator(f"#verdict-{number}")).to_contain_text(item.said, timeout=TIMEOUT)
        else:
            page.locator(f"#question-{number} label", has_text=item.choices[item.answer]).first.click()
            expect(page.locator(f"#verdict-{number}")).to_contain_text("Right.", timeout=TIMEOUT)
    expect(page.locator("#score")).to_contain_text(f"{len(quiz)} right at the first try, of {len(quiz)} answered")


def own_model(page: Page) -> str:
    """The name under Model, once it is one of the visitor's own."""
    expect(page.locator("#model input")).to_have_value(re.compile("^your model"), timeout=TIMEOUT)
    return page.locator("#model input").input_value()


@pytest.mark.parametrize("name", EACH)
def test_a_training_in_the_page_is_used_by_classify(name: str, page: Page, folder: Path) -> None:
    choose_model(page, name)
    start_training(page, folder, 2)
    expect(page.locator("#status [data-state=running]")).to_be_in_viewport(timeout=TIMEOUT)
    expect(page.locator("#start")).not_to_be_visible()
    expect(page.locator("#cancel")).to_be_in_viewport()
    expect(page.locator("#status [data-state=done]")).to_be_visible(timeout=TIMEOUT)
    assert own_model(page).endswith("last_block, 2 epochs")
    open_tab(page, "Training")  # at once, while the page still answers the change of the model
    base = read_run(folder / "outputs" / name).record
    expect(page.locator("#summary")).to_contain_text(f"base {plain_base_name(base)}")
    expect(page.locator("#summary")).to_contain_text("of 15 right", timeout=TIMEOUT)  # by folds of the training images
    expect(page.locator("#epochs")).to_contain_text("last_block")
    expect(page.locator("#epochs table")).to_be_visible()
    open_tab(page, "Fine-tune")
    with page.expect_download() as taken:
        page.locator("#get").click()
    assert taken.value.suggested_filename == "hfft-model-last_block-2-epochs.zip"
    open_tab(page, "Classify")
    upload(page, folder / "images" / "red" / "0.png")


def test_a_reload_keeps_the_training_and_then_the_model_with_its_mistakes(page: Page, folder: Path) -> None:
    start_training(page, folder, ENDLESS, "alike.zip")
    expect(page.locator("#status [data-state=running]")).to_be_visible(timeout=TIMEOUT)
    page.reload()
    open_tab(page, "Fine-tune")
    expect(page.locator("#status [data-state=running]")).to_be_visible(timeout=TIMEOUT)
    page.locator("#cancel").dispatch_event("click")  # Playwright's own click may wait for the reload, which is over
    expect(page.locator("#status [data-state=cancelled]")).to_be_visible(timeout=TIMEOUT)
    train(page, 1)  # on the same images
    expect(page.locator("#status [data-state=done]")).to_be_visible(timeout=TIMEOUT)
    name = own_model(page)
    page.reload()
    assert own_model(page) == name
    open_tab(page, "Fine-tune")
    expect(page.locator("#given textarea")).to_have_value(re.compile("images in 3 classes"), timeout=TIMEOUT)
    expect(page.locator("#get")).to_be_visible(timeout=TIMEOUT)
    open_tab(page, "Training")
    expect(page.locator("#mistakes img").first).to_be_visible()
    page.wait_for_function(f"{DRAWN}('#mistakes img')")
    page.locator("#mistakes button.thumbnail-item").first.click()
    expect(page.locator("#steps .hf-step")).to_have_count(5)
    page.wait_for_function(f"{DRAWN}('#journey .seen')")


def test_after_a_cut_no_other_model_answers(browser: Any, url: str, folder: Path) -> None:
    with Line(url) as line:
        page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        page.set_default_timeout(TIMEOUT)
        page.goto(line.url)
        start_training(page, folder, 1, "renamed.zip")
        expect(page.locator("#status [data-state=done]")).to_be_visible(timeout=TIMEOUT)
        name = own_model(page)
        line.cut()
        page.wait_for_timeout(5_000)  # the length of the cut, as it was reported
        line.mend()
        expect(page.locator("#model input")).to_have_value(name, timeout=TIMEOUT)
        open_tab(page, "Classify")
        for _ in range(8):  # the page may load itself again meanwhile, which loses an upload on its way
            open_tab(page, "Classify")
            page.locator("#image input[type=file]").set_input_files(str(folder / "images" / "red" / "0.png"))
            with contextlib.suppress(AssertionError):
                expect(told(page)).to_be_visible(timeout=TIMEOUT // 8)
                break
        expect(told(page)).to_contain_text(re.compile("my (red|green|blue)"))
        assert own_model(page) == name
        page.context.close()


class Line:
    """A line to a server that can be cut: every connection is aborted, and none is made until it is mended."""

    def __init__(self, url: str) -> None:
        self.target = ("127.0.0.1", int(url.rstrip("/").rpartition(":")[2]))
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        self.whole, self.ends = True, []  # type: tuple[bool, list[socket.socket]]

    def __enter__(self) -> Line:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.listening.close()
        self.cut()

    def cut(self) -> None:
        self.whole = False
        for end in self.ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self.ends.clear()

    def mend(self) -> None:
        self.whole = True

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self.listening.accept()
                if not self.whole:
                    here.close()
                    continue
                there = socket.create_connection(self.target)
                self.ends += [here, there]
                for one, other in ((here, there), (there, here)):
                    threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_WR)


def test_a_training_is_cancelled(page: Page, folder: Path) -> None:
    start_training(page, folder, ENDLESS)
    expect(page.locator("#status [data-state=running]")).to_be_visible(timeout=TIMEOUT)
    page.locator("#cancel").click()
    expect(page.locator("#status [data-state=cancelled]")).to_be_visible(timeout=TIMEOUT)
