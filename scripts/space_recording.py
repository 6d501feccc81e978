"""Record a visit to the Space as an animated WebP: ``python scripts/space_recording.py OUTPUTS_FOLDER TARGET.webp``.

Frames are screenshots of a headless Chromium, put together with Pillow. Waiting is left out: a training is shown in a
few frames, however long it takes.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path

from _browser import arrive, open_tab, upload, visit, write_example
from PIL import Image
from playwright.sync_api import Page

SIZE = (1000, 700)  # pixels of the page
MOST = 2_000_000  # bytes of the file
_SCALE = 0.72  # of the page's size
_READY = 20_000  # milliseconds in which the first worker is ready, as it is before most visits
_PACE, _HOLD = 160, 1_200  # milliseconds of a frame that moves, and of one that is to be read


class Film:
    """Frames of a page, each with the milliseconds that it stands.

    Args:
        page: that is filmed.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.frames: list[Image.Image] = []
        self.durations: list[int] = []

    def shot(self, milliseconds: int = _PACE) -> None:
        """Take a frame; one that is like the one before makes that stand longer."""
        picture = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        frame = picture.resize((round(SIZE[0] * _SCALE), round(SIZE[1] * _SCALE)), Image.Resampling.LANCZOS)
        if self.frames and frame.tobytes() == self.frames[-1].tobytes():
            self.durations[-1] += milliseconds
            return
        self.frames.append(frame)
        self.durations.append(milliseconds)

    def until(self, done: Callable[[], bool], most: int = 30) -> None:
        """Take frames of what goes on until it is done: all of them at first, ever fewer later."""
        pause = 200
        while not done():
            if len(self.frames) < most:
                self.shot()
            self.page.wait_for_timeout(pause)
            pause = min(round(pause * 1.3), 4_000)

    def save(self, path: Path) -> None:
        """Write the film in the best quality that fits into `MOST` bytes.

        Raises:
            SystemExit: no quality does.
        """
        for quality in (80, 65, 50, 35, 20):
            stream = io.BytesIO()
            self.frames[0].save(
                stream,
                "WEBP",
                save_all=True,
                append_images=self.frames[1:],
                duration=self.durations,
                loop=0,
                quality=quality,
                method=6,
            )
            if stream.tell() <= MOST:
                path.write_bytes(stream.getvalue())
                print(f"{path}: {len(self.frames)} frames, {sum(self.durations) / 1000:.0f} s, {stream.tell():,} bytes")
                return
        raise SystemExit(f"{len(self.frames)} frames do not fit into {MOST:,} bytes")


def main() -> int:
    """Record the visit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("outputs", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    with visit(options.outputs, *SIZE) as (page, url, place):
        image = write_example(place)
        arrive(page, f"{url}?__theme=light")
        film = Film(page)
        film.shot(_HOLD)
        page.wait_for_timeout(_READY)
        _drag_and_train(page, film)
        upload(page, image)
        for scene in (_epochs, _map, _journey):
            scene(page, film)
        film.save(options.target)
    return 0


def _drag_and_train(page: Page, film: Film) -> None:
    """Drag the handle through the model, let it go at the end, and watch what that trains."""
    page.evaluate("document.querySelector('#cut').scrollIntoView({block: 'start'}); scrollBy(0, -60)")
    box = page.locator("#cut .hf-cut-bar").bounding_box()
    assert box is not None
    across = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.93 * box["width"], across)
    page.mouse.down()
    for share in (0.85, 0.7, 0.5, 0.3, 0.15, 0.3, 0.55, 0.75, 0.9, 0.99):
        page.mouse.move(box["x"] + share * box["width"], across)
        film.shot(2 * _PACE)
    page.mouse.up()
    film.until(lambda: page.locator("#cut .hf-cut-dot").count() > 0)
    page.locator("#status [data-state=done]").wait_for()
    film.shot(2 * _HOLD)


def _epochs(page: Page, film: Film) -> None:
    """Move through the epochs, from before any training."""
    open_tab(page, "Training")
    slider = page.locator("#player input[type=range]")
    slider.wait_for()  # what is hidden takes no focus, and the keys would go to the tabs
    page.locator("#player").evaluate("(player) => {player.scrollIntoView({block: 'start'}); scrollBy(0, -10)}")
    slider.press("Home")
    page.wait_for_timeout(800)
    film.shot(_HOLD)
    for _ in range(int(slider.get_attribute("max") or 0)):
        slider.press("ArrowRight")
        for _ in range(4):
            page.wait_for_timeout(120)
            film.shot()
    film.shot(_HOLD)


def _map(page: Page, film: Film) -> None:
    """Go through some images in the map of features."""
    page.locator("#feature-map").evaluate("(map) => {map.scrollIntoView({block: 'start'}); scrollBy(0, -10)}")
    pick = page.locator("#feature-map .pick")
    film.shot(_HOLD)
    for _ in range(5):
        pick.press("ArrowRight")
        pick.press("ArrowRight")
        page.wait_for_timeout(700)
        film.shot(3 * _PACE)


def _journey(page: Page, film: Film) -> None:
    """Follow the picture through the model, and cover a part of it."""
    open_tab(page, "Prediction trace")
    page.locator("#journey").evaluate("(way) => {way.scrollIntoView({block: 'start'}); scrollBy(0, -10)}")
    stop = page.locator("#journey .stop")
    stop.press("Home")
    for _ in range(int(stop.get_attribute("max") or 0)):
        film.shot(3 * _PACE)
        stop.press("ArrowRight")
        page.wait_for_timeout(200)
    film.shot(_HOLD)
    page.locator("#journey .cover").check()
    square = page.locator("#journey .square")
    for key in ("ArrowLeft", "ArrowLeft", "ArrowUp", "ArrowUp", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowDown"):
        square.press(key)
        page.wait_for_timeout(900)
        film.shot(2 * _PACE)
    film.shot(_HOLD)


if __name__ == "__main__":
    raise SystemExit(main())
