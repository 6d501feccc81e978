"""Every tab of the Space, light and dark, on a laptop and on a phone, held against the rules of axe-core."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from chromium import TABS, TIMEOUT, chromium, needed, open_tab, settle
from finished import make_images, make_model, run_finetune
from playwright.sync_api import Page

from hfft.space.app import serve
from hfft.space.options import SpaceArguments

ASKED_FOR = ("target-size", "label-content-name-mismatch", "heading-order")
"""Rules that axe leaves out, or calls moderate, and that the page keeps all the same."""
GRADIOS_OWN = (
    '[aria-label="Empty value"]',  # what its Label shows until there is an answer, a div with a label
    "a.download-link",  # all of which its button covers, which is what is pressed
)

pytestmark = [needed, pytest.mark.processes]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("accessible")
    base = make_model(folder / "vit", kind="vit")
    run_finetune(base, make_images(folder / "images"), folder / "outputs" / "vit")
    with serve(SpaceArguments(outputs=str(folder / "outputs"))) as served:
        yield served.url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


def violations(page: Page) -> list[str]:
    """What axe-core calls critical or serious, a line for each."""
    from axe_playwright_python.sync_playwright import Axe

    options = {"resultTypes": ["violations"], "rules": {name: {"enabled": True} for name in ASKED_FOR}}
    found = Axe().run(page, context={"exclude": [[each] for each in GRADIOS_OWN]}, options=options).response
    return [
        f"{rule['impact']}: {rule['id']}: {node['html'][:100]}: {' '.join(node['failureSummary'].split())}"
        for rule in found["violations"]
        if rule["impact"] in ("critical", "serious") or rule["id"] in ASKED_FOR
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
    page.locator("#cut .hf-cut-block").first.wait_for()
    found = {}
    for name in TABS:
        open_tab(page, name)
        page.wait_for_timeout(300)  # milliseconds, in which what fades in has begun
        settle(page)
        found[name] = violations(page)
    page.close()
    assert found == {name: [] for name in TABS}


def test_axe_sees_what_is_wrong(browser: Any) -> None:
    page = browser.new_page()
    page.set_content('<html lang="en"><title>x</title><main><p style="color:#999;background:#aaa">faint</p></main>')
    assert [line.split(":")[1].strip() for line in violations(page)] == ["color-contrast"]
    page.close()
