"""Progress bars: all look alike, all are silenced at once, and none is drawn where nobody looks."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

_SILENT: ContextVar[bool | None] = ContextVar("silent", default=None)
_PATIENCE = 2.0  # seconds without a bar


@contextmanager
def silenced(silent: bool | None) -> Iterator[None]:
    """Within this context there are bars or there are none.

    Bars lie deep within a job, and none of the steps between would do anything with the choice but pass it on. The
    outermost context decides: a job that runs others keeps them quiet where it says so itself.

    Args:
        silent: whether there are none; None where nothing was said of it, and there are.
    """
    token = _SILENT.set(bool(silent)) if _SILENT.get() is None else None
    try:
        yield
    finally:
        if token is not None:
            _SILENT.reset(token)


def unsaid(line: str) -> None:
    """Say nothing: for whoever asks for a function that prints a line."""


def bar(items: Iterable[Any] | None = None, hidden: bool = False, **options: Any) -> tqdm[Any]:
    """Return a progress bar on standard error; nothing is drawn within `silenced`, or where that is not a terminal.

    It is drawn once a wait has lasted for two seconds, also while the first of the items is still under way.

    Args:
        items: that are gone through; None to count by hand.
        hidden: draw nothing.
        options: as tqdm takes them.
    """
    from tqdm.auto import tqdm

    shown: tqdm[Any] = tqdm(items, delay=_PATIENCE, disable=True if hidden or _SILENT.get() else None, **options)
    if not shown.disable:
        timer = threading.Timer(_PATIENCE, _draw_first, [shown])
        timer.daemon = True
        timer.start()
    return shown


@contextmanager
def loading(argv: Sequence[str] = ()) -> Iterator[None]:
    """Within this context, in which libraries are imported, whoever waits is told so; the line goes with it.

    Args:
        argv: flags that cannot be parsed yet; ``--disable_tqdm`` among them silences this as well.
    """
    hidden = any(word.startswith(("--disable_tqdm", "--disable-tqdm")) for word in argv)
    hidden |= os.environ.get("RANK", "0") != "0"  # of several processes the first one says it
    with bar(hidden=hidden, desc="Loading PyTorch and transformers", bar_format="{desc}", leave=False):
        yield


def _draw_first(shown: tqdm[Any]) -> None:
    """Draw a bar that nothing has moved: tqdm itself would wait for the end of its first item."""
    with shown.get_lock():  # type: ignore[no-untyped-call]  # of tqdm
        if not shown.disable and shown.last_print_t == shown.start_t:  # neither closed nor drawn
            shown.last_print_t = shown.start_t + _PATIENCE  # as if drawn by itself, so that closing knows of it
            shown.refresh()
