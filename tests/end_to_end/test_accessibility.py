"""Every tab of the Space, light and dark, on a laptop and on a phone, held against the rules of axe-core."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from finished import make_images, make_model, run_finetune

pytest.importorskip("gradio", reason="the extra 'space' is not installed")
pytest.importorskip("playwright", reason="playwright is not installed")

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, sync_playwright

from hfft.space.app import serve
from hfft.space.options import SpaceArguments

CHROMIUM = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
TABS = {
    "Classify": "#image",
    "Pipeline": "#flow .hf-card",
    "Training": "#epochs table",
    "Prediction trace": "#steps .hf-step",
    "Compare": "#runs label",
    "Fine-tune": "#start",
    "Learn": "#question-1 label",
}
GRADIOS_OWN = '[aria-label="Empty value"]'  # what its Label shows until there is an answer, a div with a label
TIMEOUT = 120_000  # milliseconds

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("accessible")
    base = make_model(folder / "vit", kind="vit")
    run_finetune(base, make_images(folder / "images"), folder / "outputs" / "vit")
    with serve(SpaceArguments(outputs=str(folder / "outputs"))) as served:
        yield served.url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def open_tab(page: Page, name: str) -> None:
    tab = page.get_by_role("tab", name=name, exact=True)
    if not tab.is_visible():  # on a phone it lies in a menu
        page.locator("button.overflow-menu, .overflow-menu button").first.click()
        page.locator(".overflow-dropdown button", has_text=name).first.click()
    else:
        tab.click()
    page.locator(TABS[name]).first.wait_for()


def violations(page: Page) -> list[str]:
    """What axe-core calls critical or serious, a line for each."""
    found = Axe().run(page, context={"exclude": [[GRADIOS_OWN]]}, options={"resultTypes": ["violations"]}).response
    return [
        f"{rule['impact']}: {rule['id']}: {node['html'][:100]}: {' '.join(node['failureSummary'].split())}"
        for rule in found["violations"]
        if rule["impact"] in ("critical", "serious")
        for node in rule["nodes"]
    ]


@pytest.mark.parametrize(
    ("theme", "width"),
    [
        ("light", 1280),
        ("dark", 390),
        pytest.param("light", 390, marks=pytest.mark.slow),
        pytest.param("dark", 1280, marks=pytest.mark.slow),
    ],
)
def test_no_tab_has_a_critical_or_serious_violation(browser: Any, url: str, theme: str, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(TIMEOUT)
    page.goto(f"{url}?__theme={theme}")
    page.locator("#image").wait_for()
    found = {}
    for name in TABS:
        open_tab(page, name)
        page.wait_for_timeout(300)  # milliseconds: colours fade in
        found[name] = violations(page)
    page.close()
    assert found == {name: [] for name in TABS}


def test_axe_sees_what_is_wrong(browser: Any) -> None:
    page = browser.new_page()
    page.set_content('<html lang="en"><title>x</title><main><p style="color:#999;background:#aaa">faint</p></main>')
    assert [line.split(":")[1].strip() for line in violations(page)] == ["color-contrast"]
    page.close()
