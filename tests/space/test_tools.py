"""The Space's tools as an assistant uses them: a real MCP client over loopback."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from finished import make_images, make_model, run_finetune

pytest.importorskip("gradio", reason="the extra 'space' is not installed")
pytest.importorskip("mcp", reason="the extra 'mcp' is not installed")

from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.types import TextContent, Tool
from PIL import Image

from hfft.errors import HfftError
from hfft.inference.classifier import classify, load_classifier
from hfft.space import app
from hfft.space.app import Served, serve
from hfft.space.options import SpaceArguments

TOOLS = {"classify_image", "describe_run", "check_images", "start_training", "watch_training", "cancel_training"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tools")
    images = make_images(folder / "images")
    run_finetune(make_model(folder / "base"), images, folder / "outputs" / "run", learning_rate=0.05)
    return folder


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    options = SpaceArguments(outputs=str(folder / "outputs"), mcp=True, max_upload_mb=2, max_epochs=3)
    with serve(options, device="cpu") as served:
        yield served


Call = Callable[..., Any]


@pytest.fixture
def call(served: Served) -> Call:
    """Call a tool; the answer's JSON, or the error's text."""

    async def asked(name: str, arguments: dict[str, Any]) -> Any:
        async with streamable_http_client(served.tools) as (read, write, _), ClientSession(read, write) as session:
            await session.initialize()
            answer = await session.call_tool(name, arguments)
            (content,) = answer.content
            assert isinstance(content, TextContent)
            return content.text if answer.isError else json.loads(content.text)

    return lambda name, **arguments: asyncio.run(asked(name, arguments))


def data(path: Path, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def listed(served: Served) -> list[Tool]:
    async def asked() -> list[Tool]:
        async with streamable_http_client(served.tools) as (read, write, _), ClientSession(read, write) as session:
            await session.initialize()
            return (await session.list_tools()).tools

    return asyncio.run(asked())


def test_only_the_tools_are_offered_and_each_says_what_it_takes(served: Served) -> None:
    tools = listed(served)
    assert {tool.name for tool in tools} == TOOLS
    for tool in tools:
        assert tool.description
        assert "Returns: JSON" in tool.description
        for name, kind in tool.inputSchema["properties"].items():
            assert kind["type"] in ("string", "integer", "number"), (tool.name, name)
            assert kind["description"], (tool.name, name)


def test_the_page_for_programs_names_each_tool_with_what_it_takes(served: Served) -> None:
    page = (Path(__file__).parents[2] / "docs" / "agents.md").read_text(encoding="utf-8")
    rows = {row.split("`")[1]: row for row in page.splitlines() if row.startswith("| `")}
    for tool in listed(served):
        assert all(f"`{name}`" in rows[tool.name] for name in tool.inputSchema["properties"]), tool.name


def test_tools_are_offered_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GRADIO_MCP_SERVER", raising=False)
    assert not SpaceArguments().mcp
    monkeypatch.setenv("GRADIO_MCP_SERVER", "True")
    assert SpaceArguments().mcp
    monkeypatch.setattr(app, "find_spec", lambda name: None)
    refused = pytest.raises(HfftError, match=r'pip install "hfft\[mcp\]"')
    with refused, serve(SpaceArguments(outputs=str(tmp_path))):
        pass


def test_an_endpoint_of_the_page_cannot_be_called_as_a_tool(call: Call) -> None:
    assert "Unknown tool" in call("finetune")
    assert "Unknown tool" in call("read_zip")


def test_a_tool_answers_as_the_model_does(call: Call, served: Served, folder: Path) -> None:
    image = folder / "images" / "red" / "0.png"
    (expected,) = classify(load_classifier(folder / "outputs" / "run", device="cpu"), [image])
    with image.open("rb") as stream:
        (uploaded,) = httpx.post(f"{served.url}gradio_api/upload", files={"files": stream}).json()
    for address in (data(image), f"{served.url}gradio_api/file={uploaded}"):
        found = call("classify_image", image=address)
        assert (found["model"], found["label"]) == ("run", expected.label)
        assert found["probability"] == pytest.approx(expected.probability, abs=1e-6)
    assert not [path for path in (served.space.work / "uploads").rglob("file") if path.is_file()]
    run = call("describe_run")
    assert (run["models"], run["labels"]) == (["run"], ["blue", "green", "red"])
    assert str(folder) not in json.dumps(run)


@pytest.mark.parametrize(
    "address", ["/etc/passwd", "http://127.0.0.1/file=/etc/passwd", "https://example.org/a.png", ""]
)
def test_no_file_but_an_uploaded_one_is_opened(call: Call, address: str) -> None:
    assert "neither a data address nor a file that was uploaded" in call("classify_image", image=address)


def test_what_is_wrong_is_said(call: Call, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(2_100_000))
    assert "larger than 2 MB" in call("classify_image", image=data(tmp_path / "big"))
    assert "must hold base64" in call("classify_image", image="data:image/png,abc")
    assert "not here any more" in call("describe_run", model="nobody's")
    assert "over, or never was" in call("watch_training", visit="guessed")
    assert "Choose images first" in call("start_training")
    assert "epochs must be from 1 to 3" in call("start_training", images=zipped(tmp_path), epochs=4)


def zipped(folder: Path) -> str:
    """Return four images of each colour, a broken one, and one that is there twice, as the address of a zip."""
    images = make_images(folder / "photos", count=4)
    (images / "red" / "broken.png").write_bytes(b"no image")
    (images / "blue" / "red.png").write_bytes((images / "red" / "0.png").read_bytes())
    Image.new("RGB", (40, 40), "navy").save(images / "blue" / "plain.png")
    return data(Path(shutil.make_archive(str(folder / "zip"), "zip", images)), "application/zip")


def test_a_data_set_is_checked(call: Call, tmp_path: Path) -> None:
    checked = call("check_images", images=zipped(tmp_path))
    assert checked["images"] == {"train": {"blue": 6, "green": 4, "red": 3}}
    assert {left["file"] for left in checked["left_out"]} == {"broken.png", "0.png"}
    (flat,) = (finding for finding in checked["findings"] if finding["kind"] == "one_colour")
    assert flat["files"] == ["train: blue/plain.png"]


@pytest.mark.slow  # the worker's first training imports everything
def test_a_training_is_started_watched_and_used(call: Call, served: Served, folder: Path, tmp_path: Path) -> None:
    started = call("start_training", images=zipped(tmp_path), policy="head", epochs=1)
    assert "Left out: 2" in started["data"]
    visit = started["visit"]
    ended = call("watch_training", visit=visit, seconds=50)
    while ended["state"] in ("waiting", "running"):
        ended = call("watch_training", visit=visit, seconds=50)
    assert (ended["state"], ended["run"]["policy"], len(ended["epochs"])) == ("done", "head", 1)
    assert str(served.space.work) not in json.dumps(ended)
    image = data(folder / "images" / "red" / "0.png")
    assert call("classify_image", image=image, visit=visit)["model"] == ended["model"]
    assert "not here any more" in call("classify_image", image=image, model=ended["model"])
    assert call("cancel_training", visit=visit)["state"] == "done"
