"""The command line: argv -> one command -> one exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hfft._version import __version__
from hfft.cli.commands import COMMANDS
from hfft.cli.errors import describe_unexpected
from hfft.errors import ArgumentError, HfftError, PreemptedError, one_line
from hfft.machine import keep_freed_memory, take_all_cores
from hfft.parsing import closest


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Returns:
        0, 1 for what went wrong, 2 for wrong arguments, 130 after an interrupt, 143 after SIGTERM.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = _take_debug(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if arguments[0] == "--version":
        print(f"hfft {__version__}")
        return 0
    keep_freed_memory()
    if line := take_all_cores():
        print(line)
    try:
        return _run(*arguments)
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        line, code = _outcome(error)
        print(line, file=sys.stderr)
        return code


def _take_debug(arguments: list[str]) -> bool:
    """Take ``--debug`` out, but where one of the Trainer's values for it follows, which are refused."""
    place = arguments.index("--debug") if "--debug" in arguments else None
    if place is None or arguments[place + 1 : place + 2] in (["underflow_overflow"], ["tpu_metrics_debug"]):
        return False
    del arguments[place]
    return True


def _run(name: str, *rest: str) -> int:
    if name not in COMMANDS:
        raise ArgumentError(f"there is no command {name!r}{closest(name, list(COMMANDS))}; see hfft --help")
    return COMMANDS[name].load()(list(rest))


def _outcome(error: BaseException) -> tuple[str, int]:
    """Return the line that says what went wrong, and the exit code."""
    notes = "".join(f". {note}" for note in getattr(error, "__notes__", ()))
    if isinstance(error, KeyboardInterrupt):
        return f"hfft: interrupted; what was complete is kept{notes}", 130
    if isinstance(error, HfftError):
        code = 2 if isinstance(error, ArgumentError) else 143 if isinstance(error, PreemptedError) else 1
        return f"hfft: error: {one_line(error)}", code
    assert isinstance(error, Exception)
    return f"hfft: error: {describe_unexpected(error)}{notes}", 1


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
            "hfft COMMAND --help lists a command's flags; --debug shows tracebacks.",
        ]
    )
