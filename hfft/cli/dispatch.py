"""The command line: argv -> one command -> one exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from hfft.cli.cache import cache_command
from hfft.cli.check import check_command
from hfft.cli.errors import error_line
from hfft.cli.models import evaluate_command, export_command, merge_command, push_command
from hfft.cli.plugins import plugins_command
from hfft.cli.predict import predict_command
from hfft.cli.space import space_command
from hfft.cli.train import finetune_command, plan_command, sweep_command
from hfft.errors import ArgumentError, HfftError, PreemptedError
from hfft.parsing import closest

Command = Callable[[list[str]], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 for what went wrong, 2 for wrong arguments."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if arguments[0] == "--version":
        from hfft import __version__

        print(f"hfft {__version__}")
        return 0
    name, *rest = arguments
    try:
        if name not in COMMANDS:
            raise ArgumentError(f"there is no command {name!r}{closest(name, list(COMMANDS))}; see hfft --help")
        return COMMANDS[name](rest)
    except HfftError as error:
        if debug:
            raise
        print(f"hfft: error: {error_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, ArgumentError) else 143 if isinstance(error, PreemptedError) else 1
    except Exception as error:
        if debug:
            raise
        from hfft.cli.errors import describe_unforeseen

        print(f"hfft: error: {describe_unforeseen(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if debug:
            raise
        print("hfft: interrupted; what was complete is kept", file=sys.stderr)
        return 130


COMMANDS: dict[str, Command] = {
    "check": check_command,
    "finetune": finetune_command,
    "plan": plan_command,
    "sweep": sweep_command,
    "cache": cache_command,
    "plugins": plugins_command,
    "predict": predict_command,
    "evaluate": evaluate_command,
    "merge": merge_command,
    "export": export_command,
    "push": push_command,
    "space": space_command,
}


def _overview() -> str:
    lines = [f"  {name:<10} {(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: hfft COMMAND [FLAGS | CONFIG.yaml [FLAGS]]",
            "",
            "Fine-tune pretrained image classifiers with most of the model frozen.",
            "",
            "commands:",
            *lines,
            "",
            "hfft COMMAND --help lists a command's flags; --debug shows tracebacks.",
        ]
    )
