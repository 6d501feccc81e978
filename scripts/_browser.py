"""A served Space and a headless Chromium before it, for the scripts that look at the page as a visitor does."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from hfft.demo import ANIMALS
from hfft.inference.runs import embedded_examples
from hfft.space.app import serve
from hfft.space.options import SpaceArguments

TABS = {
    "Fine-tune": "#cut .hf-cut-block",
    "Classify": "#image",
    "Pipeline": "#architecture svg.architecture",
    "Training": "#feature-map .dot",
    "Prediction trace": "#journey .seen",
    "Compare": "#runs label",
    "Labels": "#labels-look",
    "Label next": "#next-rank",
    "Learn": "#lesson .hf-card",
}
"""By tab, what is there once it has been filled."""
PATIENCE = 600_000
"""Milliseconds to wait for what shall come, a training most of all."""
SETTLED = 1_000  # milliseconds for pictures and plots to be drawn
_FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


@contextmanager
def visit(outputs: Path, width: int = 1280, height: int = 900) -> Iterator[tuple[Page, str, Path]]:
    """Serve the runs of a folder; yield a page that was not opened yet, the address, and a folder for files to send.

    Raises:
        SystemExit: there is no Chromium.
    """
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("there is no Chromium here: apt-get install chromium")
    with (
        tempfile.TemporaryDirectory() as place,
        serve(SpaceArguments(outputs=str(outputs))) as served,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, args=_FLAGS)
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(PATIENCE)
        yield page, served.url, Path(place)
        browser.close()


def write_example(folder: Path, label: str = "horse") -> Path:
    """Write the first embedded test image of an animal into a folder; by default of one that the small set has."""
    dict(embedded_examples(len(ANIMALS)))[label].save(folder / f"{label}.png")
    return folder / f"{label}.png"


def arrive(page: Page, url: str) -> None:
    """Open the page, and wait until its first screen is there."""
    page.goto(url)
    page.locator(TABS["Fine-tune"]).first.wait_for()


def open_tab(page: Page, tab: str) -> None:
    """Open a tab, and wait until it is filled."""
    page.get_by_role("tab", name=tab, exact=True).first.click()
    page.locator(TABS[tab]).first.wait_for()


def choose_model(page: Page, own: str | None) -> None:
    """Choose a model that the visitor trained, by a text in its name; None for the first of those that are served."""
    page.locator("#model input").click()
    options = page.get_by_role("option")
    (options.filter(has_not_text="your model") if own is None else options.filter(has_text=own)).first.click()
    page.locator("#summary .hf-chips").wait_for()


def upload(page: Page, image: Path) -> None:
    """Give a picture to the tab Classify, and wait for its answer."""
    open_tab(page, "Classify")
    page.locator("#image input[type=file]").set_input_files(str(image))
    page.locator("#overlay img").first.wait_for()


def train(page: Page, dots: int = 1) -> None:
    """Press Train, and wait until the cut box shows so many trainings."""
    page.locator("#start").click()
    wait_for_dots(page, dots)


def train_to_the_right(page: Page, dots: int) -> None:
    """Move the handle one place to the right, and train there."""
    page.locator("#cut [role=slider]").press("ArrowRight")
    page.locator("#cut [role=slider]").press("Enter")
    wait_for_dots(page, dots)


def wait_for_dots(page: Page, dots: int) -> None:
    """Wait until the cut box shows so many trainings, and the page says that the last is done."""
    page.wait_for_function(f"document.querySelectorAll('#cut .hf-cut-dot').length === {dots}")
    page.locator("#status [data-state=done]").wait_for()


def compare(page: Page) -> None:
    """Compare the two runs that are chosen when the tab is opened, if there are so many."""
    open_tab(page, "Compare")
    if page.locator("#runs input").count() < 2:
        return
    page.locator("#runs input:checked").nth(1).wait_for()
    page.get_by_role("button", name="Compare", exact=True).click()
    page.locator("#comparison table").first.wait_for()
