"""Serve the Space: ``hfft space``, ``python space_app.py``, or a Space on the Hub."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from hfft.errors import HfftError, OutputError
from hfft.space.options import SpaceArguments

if TYPE_CHECKING:
    from hfft.space.service import Space


@dataclass(frozen=True)
class Served:
    """A Space that is being served.

    Args:
        url: where.
        space: what is behind the page.
        blocks: the page.
    """

    url: str
    space: Space
    blocks: Any

    @property
    def tools(self) -> str:
        """Where an assistant finds the tools, if they are offered."""
        return f"{self.url.rstrip('/')}/gradio_api/mcp/"


@contextmanager
def serve(options: SpaceArguments, device: str | None = None) -> Iterator[Served]:
    """Serve within this context; at its end everything that visitors left is removed.

    Args:
        options: what, where, and the limits.
        device: where models run, as torch names it; by default a GPU where there is one.

    Raises:
        HfftError: gradio is not installed, the port is taken, or the work folder cannot be used.
    """
    work = _work_folder(options)
    # Widgets ask for this variable while the page is built; uploads go nowhere else.
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(work / "uploads")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    space = None
    try:
        space, blocks, url = _launch(options, work, device)
        space.open()
        yield Served(url, space, blocks)
    finally:
        if space is not None:
            space.close()
            blocks.close(verbose=False)
        if before is None:
            del os.environ["GRADIO_TEMP_DIR"]
        else:
            os.environ["GRADIO_TEMP_DIR"] = before
        shutil.rmtree(work, ignore_errors=True)


def run_space(options: SpaceArguments) -> int:
    """Serve until interrupted or told to end; return the exit code."""
    print("Loading; the address follows.", flush=True)
    with _ended_in_order(), serve(options) as served:
        print(f"hfft space: {served.url}", flush=True)
        if options.mcp:
            print(f"tools (MCP): {served.tools}", flush=True)
        served.blocks.block_thread()
    return 0


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Within this context SIGTERM and SIGHUP end the program as an interrupt does: with all that is to be removed."""

    def end(number: int, frame: FrameType | None) -> None:
        for name in before:
            signal.signal(name, signal.SIG_IGN)  # a second one must not cut the cleaning short
        raise SystemExit(128 + number)

    before = {
        name: handler
        for name in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))  # Windows has no terminal to hang up
        if (handler := signal.getsignal(name)) is not signal.SIG_IGN  # as nohup leaves it
    }
    for name in before:
        signal.signal(name, end)
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _launch(options: SpaceArguments, work: Path, device: str | None) -> tuple[Space, Any, str]:
    try:
        import gradio  # noqa: F401  (asked for by name, so that its absence has its own message)
    except ImportError as error:
        raise HfftError('the Space needs gradio: pip install "hfft[space]"') from error
    if options.mcp and find_spec("mcp") is None:
        raise HfftError('--mcp needs the package mcp: pip install "hfft[mcp]"')
    from hfft.space.service import Space
    from hfft.space.tabs.page import KEYS, build, theme
    from hfft.space.tools import only_tools
    from hfft.space.views import html

    space = Space(options, work, device)
    blocks = build(space)
    try:
        # Gradio has more to say, quiet or not, and with signs that standard output may not be able to show.
        with redirect_stdout(sys.stderr):
            _, url, _ = blocks.launch(
                server_name=options.host,
                server_port=options.port,
                share=options.share,
                prevent_thread_lock=True,
                quiet=True,
                theme=theme(),
                css=html.CSS,
                css_paths=[Path(html.__file__).with_name(f"{name}.css") for name in ("boxes", "play")],
                js=KEYS,
                max_file_size=options.max_upload_mb * 1_000_000,
                allowed_paths=[str(work)],  # what visitors made lies there in folders that nobody can guess
                show_error=True,
                ssr_mode=False,
                footer_links=["api"],
                mcp_server=options.mcp,
            )
    except OSError as error:
        raise OutputError(
            f"cannot listen on {options.host}, port {options.port}: {error}; choose another --port"
        ) from error
    if options.mcp:
        only_tools(blocks)
    return space, blocks, url


def _work_folder(options: SpaceArguments) -> Path:
    """Make a folder of the page's own, which is deleted at the end, whatever else is in the one that was given."""
    folder = Path(options.work_dir or tempfile.gettempdir()).expanduser().resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="hfft-space-", dir=folder))
    except OSError as error:
        raise OutputError(f"cannot write to --work_dir {folder}: {error.strerror}; choose another") from error
