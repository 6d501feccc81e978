"""Do five tasks in the Space as a new user would, and write how long each took as a table.

``python scripts/space_tasks.py OUTPUTS_FOLDER`` serves the runs of the folder, and drives a headless Chromium by what
is written on the page. The clock of a task begins at a page that was just opened, and stops when its answer is there.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from _browser import arrive, choose_model, compare, open_tab, train, train_to_the_right, upload, visit, write_example
from playwright.sync_api import Page

from hfft.demo import embedded_images

CLASSES, EACH = ("bear", "bird", "giraffe"), 12
MODEL = "document.querySelector('#model input').value"
MOST = 120  # seconds that a task may take

Task = Callable[[Page, Path], str]
"""Does it, given the page and a folder for files to send, and says what came out."""


def main() -> int:
    """Do the tasks; return 1 where one took too long."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("outputs", type=Path)
    options = parser.parse_args()
    print("| task | steps | seconds | what came out |\n| --- | --- | --- | --- |")
    slowest = 0.0
    with visit(options.outputs) as (page, url, place):
        for name, steps, task in TASKS:
            arrive(page, url)
            began = time.monotonic()
            found = task(page, place)
            seconds = time.monotonic() - began
            slowest = max(slowest, seconds)
            print(f"| {name} | {steps} | {seconds:.1f} | {found} |", flush=True)
    return int(slowest > MOST)


def classify(page: Page, place: Path) -> str:
    """Send a picture, and read its most probable class."""
    upload(page, write_example(place))
    return " ".join(page.locator("#label").inner_text().split()[:4])


def train_three_classes(page: Page, place: Path) -> str:
    """Send a zip of three classes, train, and wait for the model."""
    write_classes(place / "photos")
    page.locator("#source").get_by_label("Zip of class folders").check()
    page.locator("#zip input[type=file]").wait_for(state="attached")
    page.wait_for_timeout(500)  # the field has just been put on the page
    page.locator("#zip input[type=file]").set_input_files(
        str(shutil.make_archive(str(place / "photos"), "zip", place / "photos"))
    )
    page.wait_for_function("document.querySelector('#given textarea').value.includes('3 classes')")
    train(page)
    return page.locator("#cut .hf-cut-said").inner_text()


def find_what_went_wrong(page: Page, place: Path) -> str:
    """Press the most confident mistake of the model that is served, and read what spoke for the wrong class."""
    # Of the visitor's own model, which the page opens on, the few validation images may all be right, as the page says.
    page.locator("#status [data-state=done]").wait_for()  # the last that comes when a visitor comes again
    choose_model(page, None)
    page.wait_for_function(f"!{MODEL}.startsWith('your model')")
    open_tab(page, "Training")
    mistake = page.locator("#mistakes button.thumbnail-item").first
    caption = mistake.inner_text()
    mistake.click()
    page.locator("#steps .hf-step").nth(4).wait_for()
    first = page.locator("#steps .hf-two tbody tr").first.inner_text().split("\n")
    return f"{caption.strip()}; most for it: {' '.join(' '.join(first).split())}"


def compare_two_cuts(page: Page, place: Path) -> str:
    """Train at two places on the small set, and compare."""
    page.wait_for_timeout(1000)  # milliseconds, in which the images of the visit come back
    page.locator("#source").get_by_label("A small set").check()
    page.get_by_text("No cut has been tried on these images yet.").wait_for()
    train(page, 1)
    train_to_the_right(page, 2)
    compare(page)
    row = page.locator("#comparison table").nth(1).locator("tbody tr").first
    return " ".join(row.inner_text().split())


def why_layers_are_frozen(page: Page, place: Path) -> str:
    """Read the lesson, and answer the quiz's first question."""
    open_tab(page, "Learn")
    page.locator("#question-1").get_by_label("300 images can spoil general features").check()
    page.locator("#verdict-1 p").wait_for()
    return page.locator("#verdict-1").inner_text()


TASKS: tuple[tuple[str, str, Task], ...] = (
    ("classify a photo", "Classify; drop it in", classify),
    ("train three classes", "Zip of class folders; drop it in; Train", train_three_classes),
    ("find what went wrong in a mistake", "Model; Training; press the mistake; read step 4", find_what_went_wrong),
    ("compare two cuts", "Train; arrow key and Enter; Compare; Compare", compare_two_cuts),
    ("answer why layers are frozen", "Learn; read; question 1", why_layers_are_frozen),
)


def write_classes(folder: Path) -> None:
    """Write three class folders of drawings."""
    images, count = embedded_images()["train"], Counter[str]()
    names = images.features["label"].names
    for row in images:
        label = names[row["label"]]
        if label in CLASSES and count[label] < EACH:
            count[label] += 1
            path = folder / label / f"{count[label]}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(row["image"]["bytes"])


if __name__ == "__main__":
    raise SystemExit(main())
