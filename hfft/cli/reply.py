"""What a command answers, and the one place that says it: as text to people, as one JSON object to programs."""

from __future__ import annotations

import codecs
import errno
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from hfft.errors import ArgumentError, HfftError, PreemptedError, TerminatedError, one_line
from hfft.report.typed_json import as_json

_CLOSED_PIPE = 141  # as a shell says that SIGPIPE ended a program


@dataclass
class Reply:
    """The answer of a command.

    Args:
        result: for programs: what JSON holds, dataclasses and paths; or a function that returns it.
        text: for people; or a function that prints it as it comes.
        code: the exit code; such a function may still change it.
    """

    result: Any = None
    text: str | Callable[[], None] = ""
    code: int = 0


@dataclass(frozen=True)
class Failure:
    """What went wrong, in parts.

    Args:
        code: which kind of error, a stable name.
        message: what is wrong.
        hint: what to do; empty where the error does not say.
        place: the flag, file or folder that the message names; None where it names none.
        line: all of it, for people.
        exit: the exit code.
    """

    code: str
    message: str
    hint: str
    place: str | None
    line: str
    exit: int


def print_text(command: str, run: Callable[[], Reply], debug: bool) -> int:
    """Run a command for people: its text on standard output, an error in a line on standard error."""
    try:
        reply = run()
        if callable(reply.text):
            reply.text()
        elif reply.text:
            print(reply.text)
        return reply.code
    except (Exception, KeyboardInterrupt) as error:
        gone = isinstance(error, BrokenPipeError) and _reader_is_gone()
        if gone and not getattr(error, "__notes__", ()):  # nothing was left anywhere that would have to be told
            return _CLOSED_PIPE
        if debug:
            raise
        failure = failure_of(error)
        print(failure.line, file=sys.stderr)
        return failure.exit


def _reader_is_gone() -> bool:
    """Whether whoever read standard output, `head` for instance, has enough; what comes after is dropped then."""
    try:
        print(flush=True)  # a pipe between processes may be what is broken, so that standard output is asked
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def print_json(command: str, run: Callable[[], Reply], debug: bool) -> int:
    """Run a command for programs: one JSON object is all that comes on standard output."""
    target = sys.stdout
    answer: dict[str, Any]
    with _said() as said:
        try:
            code, answer = _answer(command, run)
        except (Exception, KeyboardInterrupt) as error:
            if debug:
                raise
            failure = failure_of(error)
            shown = {name: value for name, value in asdict(failure).items() if name not in ("line", "exit")}
            code, answer = failure.exit, {"ok": False, "command": command, "error": shown}
    if os.environ.get("RANK", "0") != "0":  # of several processes at one training the first one answers
        return code
    escaped = codecs.lookup(target.encoding or "utf-8").name != "utf-8"  # JSON is read as UTF-8, whatever it comes in
    text = json.dumps(answer | {"messages": said.lines()}, ensure_ascii=escaped, indent=2, allow_nan=False)
    print(text.encode("utf-8", "replace").decode(), file=target, flush=True)
    return code


def _answer(command: str, run: Callable[[], Reply]) -> tuple[int, dict[str, Any]]:
    try:
        reply = run()
        result = reply.result() if callable(reply.result) else reply.result
        return reply.code, {"ok": True, "command": command, "result": as_json(result)}
    except SystemExit as left:  # a command's help, or a server that was told to end
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
        return code, {"ok": code == 0, "command": command, "result": None}


class _Lines(io.TextIOBase):
    """A text stream that keeps what is written to it, and passes it on."""

    def __init__(self, target: TextIO) -> None:
        self.target, self.kept = target, io.StringIO()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.kept.write(text)
        return self.target.write(text)

    def flush(self) -> None:
        self.target.flush()

    def lines(self) -> list[str]:
        """Return the lines that say something."""
        return [line for line in self.kept.getvalue().splitlines() if line.strip()]


@contextmanager
def _said() -> Iterator[_Lines]:
    """Within this context whatever is printed goes to standard error, also by other programs' code, and is kept."""
    lines = _Lines(sys.stderr)
    sys.stdout.flush()
    own = os.dup(1) if sys.stdout is sys.__stdout__ else None
    try:
        if own is not None:
            os.dup2(2, 1)
        with redirect_stdout(lines):
            yield lines
    finally:
        if own is not None:
            os.dup2(own, 1)
            os.close(own)


def failure_of(error: BaseException) -> Failure:
    """Take an error apart."""
    notes = "".join(f". {note}" for note in getattr(error, "__notes__", ()))
    if isinstance(error, TerminatedError):
        return _failure("preempted", f"{error}; what was complete is kept{notes}", 143, "hfft")
    if isinstance(error, KeyboardInterrupt):
        return _failure("interrupted", f"interrupted; what was complete is kept{notes}", 130, "hfft")
    if isinstance(error, HfftError):
        exit = 2 if isinstance(error, ArgumentError) else 143 if isinstance(error, PreemptedError) else 1
        return _failure(error.code, one_line(error), exit)
    assert isinstance(error, Exception)
    kind, text = describe_unexpected(error)
    return _failure(kind, f"{text}{notes}", 1)


def _failure(code: str, text: str, exit: int, prefix: str = "hfft: error") -> Failure:
    message, _, hint = text.rpartition("; ")
    if not message:
        message, hint = hint, ""
    return Failure(code, message, hint, _place(message), f"{prefix}: {text}", exit)


def _place(text: str) -> str | None:
    """Return the flag, else the file or folder, that a message names first."""
    if flag := re.search(r"(?<![\w-])--[A-Za-z]\w*", text):
        return flag[0]
    for word in text.split():
        name = word.strip("'\"(),:;")
        with suppress(OSError, ValueError):  # what is not the name of a file at all
            if len(name) > 1 and Path(name).exists():
                return name
    return None


def describe_unexpected(error: Exception) -> tuple[str, str]:
    """Return the kind of an error, and what is wrong and what to do about it."""
    text = one_line(error)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "disk_full", f"no room is left on the disk ({text}); free some, or choose another folder, and run again"
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "permission", f"permission denied ({text}); choose a folder that may be written"
    if "MemoryError" in kinds or "OutOfMemoryError" in kinds:
        advice = "try a smaller --per_device_train_batch_size or --image_size, or --cache disk"
        return "out_of_memory", f"out of memory ({text}); {advice}"
    if isinstance(error, OSError):
        return "system", text or type(error).__name__
    if os.environ.get("WORLD_SIZE", "1") != "1" and re.search("connection (closed|reset) by peer", text, re.IGNORECASE):
        return "other_process", "another process of this run has ended; its own message says why"
    advice = "unexpected error: run again with --debug and report what it shows"
    return "unexpected", f"{type(error).__name__}: {text}; {advice}"
