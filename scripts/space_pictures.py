"""Take a picture of every tab of the Space, wide and narrow, light and dark.

``python scripts/space_pictures.py OUTPUTS_FOLDER TARGET_FOLDER`` serves the runs of the first folder and drives a
headless Chromium; the pictures are called ``<tab>-<width>-<theme>.png``. With ``--docs`` it takes those of docs/images
alone, under their names there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from _browser import (
    SETTLED,
    TABS,
    arrive,
    choose_model,
    compare,
    open_tab,
    train,
    train_to_the_right,
    upload,
    visit,
    write_example,
)
from PIL import Image
from playwright.sync_api import Page

WIDTHS = (1280, 390)  # pixels: a laptop and a phone
THEMES = ("light", "dark")
DOCS = {
    "Fine-tune": "space-finetune",
    "Classify": "space-classify",
    "Pipeline": "space-pipeline",
    "Training": "space-training",
    "Prediction trace": "space-trace",
    "Compare": "space-compare",
    "Learn": "space-learn",
}
PHONE = ("Fine-tune", "Classify", "Training", "Learn")
"""Tabs side by side in ``space-phone.png``, of which the first screens are shown."""
_AS_ASKED = (
    "[null, document.querySelector('#model input').value].includes(new URLSearchParams(location.search).get('model'))"
)
_DARK = "Prediction trace"
_TALLEST = 2_400  # pixels of a picture in the docs


def main() -> int:
    """Take the pictures and print where they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("outputs", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--docs", action="store_true", help="those of docs/images alone, under their names there")
    parser.add_argument("--untrained", action="store_true", help="leave out the two trainings, which take longest")
    options = parser.parse_args()
    options.target.mkdir(parents=True, exist_ok=True)
    with visit(options.outputs) as (page, url, place):
        image, address = write_example(place), f"{url}?"
        arrive(page, url)
        if not options.untrained:
            train(page)
            train_to_the_right(page, 2)
            choose_model(page, "last_block")  # which has a retrained part to show
            page.wait_for_url("**model=your*last_block*")
            address = page.url
        (_for_docs if options.docs else _all)(page, address, image, options.target)
    return 0


def _all(page: Page, url: str, image: Path, target: Path) -> None:
    """Take every tab in every size and theme, of one visit, so that its trainings are in all of them."""
    for width in WIDTHS:
        for theme in THEMES:
            _begin(page, f"{url}&__theme={theme}", image, width)
            for tab in TABS:
                _take(page, tab, target / f"{tab.lower().replace(' ', '-')}-{width}-{theme}.png")


def _for_docs(page: Page, url: str, image: Path, target: Path) -> None:
    """Take the pictures of docs/images."""
    for theme, tabs in (("light", [tab for tab in DOCS if tab != _DARK]), ("dark", [_DARK])):
        _begin(page, f"{url}&__theme={theme}", image, WIDTHS[0])
        for tab in tabs:
            _take(page, tab, target / f"{DOCS[tab]}.png", _TALLEST)
    _begin(page, f"{url}&__theme=light", image, WIDTHS[1])
    strip = Image.new("RGB", ((WIDTHS[1] + 12) * len(PHONE) - 12, 1_400), "#888888")
    path = target / "space-phone.png"
    for place, tab in enumerate(PHONE):
        _take(page, tab, path)
        with Image.open(path) as taken:
            strip.paste(taken.convert("RGB"), (place * (WIDTHS[1] + 12), 0))
    _save(strip, path)


def _begin(page: Page, url: str, image: Path, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    arrive(page, url)
    page.wait_for_function(_AS_ASKED)
    page.locator("#try-examples button").first.click()
    page.locator("#try-answers h3").first.wait_for()
    upload(page, image)


def _take(page: Page, tab: str, path: Path, tallest: int | None = None) -> None:
    """Take a picture of a tab; of a tall one the beginning, where that is wanted."""
    (compare if tab == "Compare" else lambda page: open_tab(page, tab))(page)
    page.wait_for_timeout(SETTLED)
    page.wait_for_function("!/(processing|queue:.*) \\|/.test(document.body.innerText)")  # other parts of a tab
    page.wait_for_timeout(SETTLED)
    page.screenshot(path=path, full_page=True)
    if tallest is not None:
        with Image.open(path) as taken:
            _save(taken.convert("RGB").crop((0, 0, taken.width, min(taken.height, tallest))), path)
    print(path, flush=True)


def _save(image: Image.Image, path: Path) -> None:
    """Write a picture in few colours, which a page has, and few bytes."""
    image.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    raise SystemExit(main())
