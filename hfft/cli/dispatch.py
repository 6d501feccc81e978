"""The command line: argv -> one command -> one exit code."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from hfft._version import __version__
from hfft.cli.commands import COMMANDS
from hfft.cli.reply import Reply, print_json, print_text
from hfft.errors import ArgumentError
from hfft.machine import (
    few_collections,
    keep_freed_memory,
    refuse_launcher,
    refuse_lone_process,
    take_all_cores,
    wait_briefly,
)
from hfft.parsing import closest

_BARS = {"TQDM_DISABLE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
"""What keeps other packages' progress bars off."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Returns:
        0, 1 for what went wrong, 2 for wrong arguments, 130 after an interrupt, 141 where the reader of its output left
        (`head` for instance), 143 after SIGTERM.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug, as_json = _take_debug(arguments), _take_json(arguments)
    if not sys.stderr.isatty():
        for name, value in _BARS.items():
            os.environ.setdefault(name, value)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Else a log file or a pipe shows nothing for minutes, and ends the command at a sign that it has no code for.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    say = print_json if as_json else print_text
    return say(next(iter(arguments), ""), lambda: _run(*arguments), debug)


def _take_debug(arguments: list[str]) -> bool:
    """Take ``--debug`` out, but where one of the Trainer's values for it follows, which are refused."""
    place = arguments.index("--debug") if "--debug" in arguments else None
    if place is None or arguments[place + 1 : place + 2] in (["underflow_overflow"], ["tpu_metrics_debug"]):
        return False
    del arguments[place]
    return True


def _take_json(arguments: list[str]) -> bool:
    """Take ``--json`` out, wherever it stands."""
    found = "--json" in arguments
    arguments[:] = [word for word in arguments if word != "--json"]
    return found


def _run(name: str = "--help", *rest: str) -> Reply:
    if name in ("-h", "--help"):
        return Reply({"commands": {each: command.summary for each, command in COMMANDS.items()}}, _overview())
    if name == "--version":
        return Reply({"version": __version__}, f"hfft {__version__}")
    refuse_lone_process()
    wait_briefly()
    keep_freed_memory()
    if line := take_all_cores():
        print(line)
    if name not in COMMANDS:
        raise ArgumentError(f"there is no command {name!r}{closest(name, list(COMMANDS))}; see hfft --help")
    if not COMMANDS[name].launched:
        refuse_launcher(f"hfft {name}")
    with few_collections():
        return COMMANDS[name].load()(list(rest))


def _overview() -> str:
    return "\n".join(
        [
            "usage: hfft COMMAND [FLAGS | CONFIG.yaml [FLAGS]]",
            "",
            "Fine-tune pretrained image classifiers with most of the model frozen.",
            "",
            "commands:",
            *(f"  {name:<10} {command.summary}" for name, command in COMMANDS.items()),
            "",
            "hfft COMMAND --help lists a command's flags; --json answers in JSON, for programs (docs/agents.md);",
            "--debug shows tracebacks.",
        ]
    )
