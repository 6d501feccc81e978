"""The exported page in headless Chromium: PyTorch's answers, without a network, on any screen."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import chromium
import pytest
from chromium import TIMEOUT
from playwright.sync_api import Browser, Page, expect

from hfft.arguments import ExportArguments
from hfft.demo import embedded_images
from hfft.errors import HfftError
from hfft.inference.classifier import classify, load_classifier
from hfft.inference.export.job import Exported, export
from hfft.inference.export.npm import npm_files
from hfft.inference.export.web import RUNTIME, RUNTIME_FILES

CACHE = os.environ.get("HFFT_CACHE") or str(Path.home() / ".cache" / "hfft")
"""The user's own, so that the runtime is fetched once and not for each test."""
CLASSIFY = (
    "async (url) => { const {canvas, ...answer} = await hfft.classify(await (await fetch(url)).blob()); return answer }"
)

NPM, NODE = (shutil.which(name) or name for name in ("npm", "node"))

pytestmark = [chromium.needed]


def exported_page(run: Path, target: Path, **options: Any) -> Exported:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HFFT_CACHE", CACHE)
        try:
            npm_files(*RUNTIME, RUNTIME_FILES)
        except HfftError as error:
            if not any(words in str(error) for words in ("not installed", "check the network")):
                raise
            pytest.skip(str(error))
        return export(run, ExportArguments(to=["web"], output_dir=str(target), **options))[0]


@pytest.fixture(scope="module")
def web(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported_page(trained, tmp_path_factory.mktemp("web"))


@contextmanager
def served(folder: Path, seconds: int = 0) -> Iterator[str]:
    """Serve a folder, whose files a browser may keep for so long."""

    class Handler(SimpleHTTPRequestHandler):
        def end_headers(self) -> None:
            self.send_header("Cache-Control", f"max-age={seconds}")
            super().end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium.chromium() as found:
        yield found


def opened(browser: Browser, address: str, **options: Any) -> Page:
    page = browser.new_page(**options)
    page.goto(address)
    expect(page.locator("#status")).to_contain_text("Ready", timeout=TIMEOUT)
    return page


def test_the_page_answers_as_pytorch_does(web: Exported, trained: Path, images: Path, browser: Browser) -> None:
    classifier = load_classifier(trained, device="cpu")
    files = sorted(images.rglob("*.png"))[::4]
    with served(web.folder) as address:
        page = opened(browser, address)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        for prediction in classify(classifier, files):
            page.set_input_files("#file", prediction.file)
            expect(page.locator("#bars li")).to_have_count(3, timeout=TIMEOUT)
            expect(page.locator("#status")).to_contain_text("Answered", timeout=TIMEOUT)
            assert page.evaluate("document.body.dataset.answered") == prediction.label
            shown = page.locator("#verdict").inner_text()
            assert shown == ("None of these" if prediction.unknown else prediction.label)
            assert page.locator("#bars li").first.inner_text().split() == [
                prediction.label,
                f"{100 * prediction.probability:.1f}",
                "%",
            ]
        assert all(url.startswith((address, "data:", "blob:")) for url in asked)
        page.close()


def test_a_photo_of_something_else_is_none_of_these(web: Exported, tmp_path: Path, browser: Browser) -> None:
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (300, 200), "white")
    ImageDraw.Draw(picture).ellipse((60, 10, 240, 190), fill="black")
    picture.save(tmp_path / "other.jpg")
    with served(web.folder) as address:
        page = opened(browser, address)
        page.set_input_files("#file", tmp_path / "other.jpg")
        expect(page.locator("#verdict")).to_have_text("None of these", timeout=TIMEOUT)
        expect(page.locator("#unknown")).to_contain_text("unlike what the model was trained on")
        (tmp_path / "no.jpg").write_text("no picture")
        page.set_input_files("#file", tmp_path / "no.jpg")
        expect(page.locator("#status")).to_contain_text("cannot be read", timeout=TIMEOUT)
        Image.new("RGB", (420, 20)).save(tmp_path / "long.png")  # which hfft predict refuses as well
        page.set_input_files("#file", tmp_path / "long.png")
        expect(page.locator("#status")).to_contain_text("too long (420 x 20 pixels)", timeout=TIMEOUT)
        page.close()


def test_without_a_network(web: Exported, images: Path, browser: Browser) -> None:
    context = browser.new_context()
    with served(web.folder) as address:
        page = context.new_page()
        page.goto(address)
        expect(page.locator("#status")).to_contain_text("Ready", timeout=TIMEOUT)
        expect(page.locator("body")).to_have_attribute("data-kept", "yes", timeout=TIMEOUT)
    page.reload()  # the server is gone
    expect(page.locator("#status")).to_contain_text("Ready", timeout=TIMEOUT)
    page.set_input_files("#file", next(images.rglob("*.png")))
    expect(page.locator("#bars li")).to_have_count(3, timeout=TIMEOUT)
    context.close()


def test_a_new_export_is_kept_whole(web: Exported, tmp_path: Path, browser: Browser) -> None:
    """Hosts let browsers keep files for minutes; those of an earlier export must not be taken for the new one's."""
    folder = shutil.copytree(web.folder, tmp_path / "web")
    context = browser.new_context()
    with served(folder, seconds=600) as address:
        page = context.new_page()
        page.goto(address)
        expect(page.locator("body")).to_have_attribute("data-kept", "yes", timeout=TIMEOUT)
        for name, line in {"style.css": "/* new */", "sw.js": "// new"}.items():
            text = (folder / name).read_text().replace("`${MARK} ", "`${MARK} new ", 1)
            (folder / name).write_text(f"{text}\n{line}\n")
        page.reload()
        deadline = time.monotonic() + TIMEOUT / 1000
        while any(" new " not in name for name in page.evaluate("caches.keys()")) and time.monotonic() < deadline:
            page.wait_for_timeout(100)
        style = page.evaluate("caches.match('style.css').then((kept) => kept.text())")
        assert style.endswith("/* new */\n")
    context.close()


def test_phone_and_dark_and_camera(web: Exported, browser: Browser) -> None:
    with served(web.folder) as address:
        page = opened(browser, address, viewport={"width": 320, "height": 640}, color_scheme="dark")
        assert page.evaluate("document.documentElement.scrollWidth") <= 320
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 20, 24)"
        page.emulate_media(color_scheme="light")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        page.click("#camera")
        expect(page.locator("#camera")).to_have_text("Take the photo", timeout=TIMEOUT)
        page.click("#camera")
        expect(page.locator("#bars li")).to_have_count(3, timeout=TIMEOUT)
        expect(page.locator("#video")).to_be_hidden()
        page.close()


def test_what_a_host_finds(web: Exported) -> None:
    manifest = json.loads((web.folder / "manifest.webmanifest").read_text())
    assert (manifest["name"], manifest["display"]) == ("images by base", "standalone")
    config = json.loads((web.folder / "config.json").read_text())
    assert config["id2label"] == {"0": "blue", "1": "green", "2": "red"}
    assert (web.folder / "onnx" / "model.onnx").exists()
    text = "".join(
        file.read_text() for file in web.folder.glob("*") if file.suffix in (".html", ".js", ".css", ".json")
    )
    assert "://" not in text.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.slow
def test_the_embedded_test_images(tmp_path: Path, browser: Browser) -> None:
    """500 of 500 get PyTorch's label in the browser, with its probability and its verdict."""
    from hfft.cli import main

    run = tmp_path / "run"
    assert main(["finetune", "--output_dir", str(run), "--num_train_epochs", "2", "--report_to", "none"]) == 0
    page_folder = exported_page(run, tmp_path / "out", check_images=500).folder
    classifier = load_classifier(run, device="cpu")
    (page_folder / "photos").mkdir()
    for number, row in enumerate(embedded_images()["test"]):
        (page_folder / "photos" / f"{number:03d}.png").write_bytes(row["image"]["bytes"])
    files = sorted((page_folder / "photos").iterdir())
    with served(page_folder) as address:
        page = opened(browser, address)
        same, verdicts, furthest = 0, 0, 0.0
        for prediction in classify(classifier, files):
            found = page.evaluate(CLASSIFY, f"photos/{Path(prediction.file).name}")
            same += found["label"] == prediction.label
            verdicts += found["unknown"] == prediction.unknown
            furthest = max(furthest, abs(found["top"][0]["probability"] - prediction.probability))
        page.close()
    assert (same, verdicts, len(files)) == (500, 500, 500)
    assert furthest < 1e-3


@pytest.mark.slow
def test_transformers_js(web: Exported, images: Path, trained: Path, tmp_path: Path) -> None:
    """The layout loads in transformers.js in Node and names the same labels."""
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
    try:
        install = [NPM, "install", *options, "@huggingface/transformers@4.3.1"]
        subprocess.run(install, cwd=tmp_path, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"transformers.js cannot be installed: {error}")
    files = sorted(images.rglob("*.png"))
    program = """
import { env, pipeline } from "@huggingface/transformers";
const [models, ...files] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = models;
const classify = await pipeline("image-classification", "web");
const labels = [];
for (const file of files) labels.push((await classify(file))[0].label);
console.log(JSON.stringify(labels));
"""
    (tmp_path / "try.mjs").write_text(program)
    command = [NODE, "try.mjs", str(web.folder.parent), *map(str, files)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    expected = [each.label for each in classify(load_classifier(trained, device="cpu"), files)]
    assert json.loads(done.stdout.splitlines()[-1]) == expected
