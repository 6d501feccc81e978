"""A headless Chromium for tests of the Space, and how they find their way around its tabs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the extra 'space' is not installed")
pytest.importorskip("playwright", reason="playwright is not installed")

from playwright.sync_api import Page, expect, sync_playwright

_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser")  # the first takes two thirds of the time
_PATH = next((path for name in _NAMES if (path := shutil.which(name))), None)
_FLAGS = [
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
    "Fine-tune": "#cut .hf-cut-block",
    "Classify": "#image",
    "Pipeline": "#flow .hf-card",
    "Training": "#epochs table",
    "Prediction trace": "#steps .hf-step",
    "Compare": "#runs label",
    "Labels": "#labels-look",
    "Label next": "#next-rank",
    "Learn": "#lesson .hf-card",
}
"""By tab, what is there once it has been filled."""
TIMEOUT = 120_000
"""Milliseconds to wait for what the page shall show; only a fault takes so long, however busy the machine is."""

needed = pytest.mark.skipif(_PATH is None, reason="no Chromium here: apt-get install chromium-headless-shell")


@contextmanager
def chromium() -> Iterator[Any]:
    """Start a browser, and end it with this context."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_PATH, args=_FLAGS)
        yield browser
        browser.close()


def open_tab(page: Page, name: str) -> None:
    """Open a tab, and wait until it is filled."""
    page.get_by_role("tab", name=name, exact=True).click()
    expect(page.locator(TABS[name]).first).to_be_visible(timeout=TIMEOUT)


def settle(page: Page) -> None:
    """Wait until nothing on the page is pending or still fading in, however busy the machine is."""
    page.wait_for_function(
        """() => !document.querySelector(".pending, .generating")
            && document.getAnimations().every((each) => each.playState !== "running"
                || each.effect.getComputedTiming().endTime === Infinity)""",
        timeout=TIMEOUT,
    )
