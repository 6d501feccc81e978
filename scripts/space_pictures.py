"""Take a picture of every tab of the Space, wide and narrow, light and dark: ``python scripts/space_pictures.py``.

Serves the runs of a folder and drives a headless Chromium through Playwright. ``OUTPUTS_FOLDER TARGET_FOLDER`` are
the arguments; the pictures are called ``<tab>-<width>-<theme>.png``.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from hfft.inference.runs import embedded_examples
from hfft.space.app import serve
from hfft.space.options import SpaceArguments

TABS = {
    "Fine-tune": "#cut .hf-cut-block",
    "Classify": "#overlay img",
    "Pipeline": "#architecture svg.architecture",
    "Training": "#player .plots svg",
    "Prediction trace": "#steps .hf-step",
    "Compare": "#runs label",
    "Labels": "#labels-look",
    "Label next": "#next-rank",
    "Learn": "#lesson .hf-card",
}
"""By tab, what is there once it has been filled."""
WIDTHS = (1280, 390)  # pixels: a laptop and a phone
THEMES = ("light", "dark")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
TRAINED = 600_000  # milliseconds to wait for a training on the small set
SETTLED = 1000  # milliseconds for pictures and plots to be drawn


def main() -> int:
    """Take the pictures and print where they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("outputs", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--image", type=Path, help="to classify; by default one of the embedded ones")
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        parser.error("there is no Chromium here: apt-get install chromium")
    options.target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place, serve(SpaceArguments(outputs=str(options.outputs))) as served:
        image = options.image or _write_example(Path(place))
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
            page = browser.new_context().new_page()  # one visit, so that its trainings are in all pictures
            for width in WIDTHS:
                page.set_viewport_size({"width": width, "height": 900})
                for theme in THEMES:
                    page.goto(f"{served.url}?__theme={theme}")
                    _take(page, image, options.target, f"{width}-{theme}")
            browser.close()
    return 0


def _write_example(folder: Path) -> Path:
    label, image = embedded_examples()[2]
    image.save(folder / f"{label}.png")
    return folder / f"{label}.png"


def _take(page: Page, image: Path, target: Path, name: str) -> None:
    """Walk the tabs in one size and theme."""
    page.locator(TABS["Fine-tune"]).first.wait_for()
    page.get_by_role("tab", name="Classify", exact=True).click()
    page.locator("#image input[type=file]").set_input_files(str(image))
    page.locator("#overlay img").first.wait_for()
    for tab in TABS:
        _open(page, tab)
        path = target / f"{tab.lower().replace(' ', '-')}-{name}.png"
        page.screenshot(path=path, full_page=True)
        print(path, flush=True)


def _open(page: Page, tab: str) -> None:
    page.get_by_role("tab", name=tab, exact=True).first.click()
    page.locator(TABS[tab]).first.wait_for()
    page.wait_for_timeout(SETTLED)
    if tab == "Fine-tune":
        _try_two_cuts(page)
    if tab == "Compare":
        page.get_by_role("button", name="Compare", exact=True).click()
        page.locator("#comparison table").first.wait_for()
        page.wait_for_timeout(SETTLED)


def _try_two_cuts(page: Page) -> None:
    """Train where the handle is, and at the next place, on the small set; the visit remembers both."""
    if page.locator("#cut .hf-cut-dot").count() < 2:
        page.locator("#start").click()
        page.wait_for_function("document.querySelectorAll('#cut .hf-cut-dot').length === 1", timeout=TRAINED)
        page.locator("#cut [role=slider]").press("ArrowRight")
        page.locator("#cut [role=slider]").press("Enter")
        page.wait_for_function("document.querySelectorAll('#cut .hf-cut-dot').length === 2", timeout=TRAINED)
    page.locator("#try-examples button").first.click()
    page.locator("#try-answers h3").first.wait_for()
    page.wait_for_timeout(SETTLED)


if __name__ == "__main__":
    raise SystemExit(main())
