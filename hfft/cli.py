"""The command line: argv -> arguments -> one call."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hfft.errors import ArgumentError, HfftError, PreemptedError
from hfft.parsing import closest, flags_of, parse, split_sweep_flags

if TYPE_CHECKING:
    from hfft.job import Settings

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
        from hfft.unforeseen import describe_unforeseen

        print(f"hfft: error: {describe_unforeseen(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if debug:
            raise
        print("hfft: interrupted; what was complete is kept", file=sys.stderr)
        return 130


def error_line(error: HfftError) -> str:
    """Return an error's own line, also where a data loader's worker wrapped its traceback around it."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    last = lines[-1] if lines else type(error).__name__
    wrapped = lines and lines[0].startswith("Caught ")
    return last.partition(": ")[2] if wrapped else " ".join(lines)


def finetune_command(argv: list[str]) -> int:
    """Fine-tune a pretrained image classifier with most of it frozen.

    --from_record hfft.json repeats the run that wrote the file; flags beside it win.
    """
    from hfft.job import finetune
    from hfft.reproduce import compare, take_record

    flags, record = take_record(argv)
    run = finetune(finetune_settings(flags))
    if record is not None:
        print(*compare(record, run.folder), sep="\n")
    return 0


def finetune_settings(argv: list[str]) -> Settings:
    """Parse the flags of a run.

    Raises:
        ArgumentError: a flag is unknown, or a value is wrong.
    """
    from hfft import arguments
    from hfft.job import Settings

    groups = (
        arguments.ModelArguments,
        arguments.DataArguments,
        arguments.PolicyArguments,
        arguments.CacheArguments,
        arguments.FinetuneArguments,
    )
    return Settings(*parse(groups, argv, "finetune", finetune_command.__doc__ or ""))


def plan_command(argv: list[str]) -> int:
    """Show what a policy would train, without any data."""
    import json

    from hfft import arguments
    from hfft.planning import show_plan, show_suggestion

    groups = (arguments.ModelArguments, arguments.PolicyArguments, arguments.PlanArguments)
    model, policy, plan = parse(groups, argv, "plan", plan_command.__doc__ or "")
    if plan.suggest_anatomy:
        print(show_suggestion(model))
        return 0
    text, data = show_plan(model, policy, plan)
    print(json.dumps(data, indent=2) if plan.json else text)
    return 0


def predict_command(argv: list[str]) -> int:
    """Label images with a finished model: a table, CSV or JSON lines on standard output."""
    from hfft import use_arguments
    from hfft.predict_output import print_predictions

    images = {"nargs": "+", "metavar": "IMAGE_OR_FOLDER", "help": "Images, or folders with images in them and below."}
    groups = (use_arguments.UseArguments, use_arguments.PredictArguments)
    return print_predictions(*parse(groups, argv, "predict", predict_command.__doc__ or "", images))


def evaluate_command(argv: list[str]) -> int:
    """Judge a finished model on labelled images: accuracy, F1, calibration, per class."""
    from hfft import use_arguments
    from hfft.evaluate import describe_evaluation, evaluate

    groups = (use_arguments.UseArguments, use_arguments.EvaluateArguments)
    use, options = parse(groups, argv, "evaluate", evaluate_command.__doc__ or "")
    print(describe_evaluation(evaluate(use, options)))
    print(f"\nFigures, predictions and evaluation.json are in {options.output_dir}.")
    return 0


def merge_command(argv: list[str]) -> int:
    """Make a whole checkpoint, which stock transformers loads, of a delta and its base model."""
    from hfft import use_arguments
    from hfft.checkpoint import merge

    folder = {"metavar": "DELTA_FOLDER", "help": "A folder with a delta, or a Hub id."}
    groups = (use_arguments.MergeArguments,)
    options, delta = parse(groups, argv, "merge", merge_command.__doc__ or "", folder)
    print(f"Wrote {merge(delta, options.output_dir, options.base, options.token, options.trust_remote_code)}.")
    return 0


def export_command(argv: list[str]) -> int:
    """Export a finished model to ONNX, checked against PyTorch on real images."""
    from hfft import use_arguments
    from hfft.export import describe_export, export

    model = {"metavar": "OUTPUT", "help": "A run's output folder, or a Hub id."}
    options, output = parse((use_arguments.ExportArguments,), argv, "export", export_command.__doc__ or "", model)
    print(describe_export(*export(output, options)))
    return 0


def check_command(argv: list[str]) -> int:
    """Look for unreadable, equal, mislabelled and unusual images before they are trained on."""
    from hfft import arguments
    from hfft.check_output import run_check

    place = {"nargs": "?", "metavar": "DATA", "help": "Folder, file or Hub id. Left out: what the flags say."}
    groups = (arguments.DataArguments, arguments.CheckArguments)
    return run_check(*parse(groups, argv, "check", check_command.__doc__ or "", place))


SWEEP_HELP = """usage: hfft sweep [CONFIG.yaml] [--sweep NAME=VALUE,VALUE ...] [--output_dir FOLDER] [FLAGS]

Takes every flag of hfft finetune.

Every combination of the values becomes a run in a folder of its own below --output_dir (outputs/sweep).
CONFIG.yaml holds options of hfft finetune, and under the key sweep a mapping of names to lists of values,
or a list with one mapping for each run. A sweep that was stopped goes on with the runs that are missing."""


def sweep_command(argv: list[str]) -> int:
    """Compare runs over a grid or list of options; all of them share one activation cache per boundary."""
    from pathlib import Path

    from hfft.sweep import parse_grid, read_runs, sweep

    if argv and argv[0] in ("-h", "--help"):
        print(SWEEP_HELP)
        raise SystemExit(0)
    runs, shared = read_runs(argv[0]) if argv and argv[0].endswith((".yaml", ".yml")) else ([{}], {})
    grid, folder, rest = split_sweep_flags(argv[1:] if shared or runs != [{}] else argv)
    runs = [run | options for run in runs for options in parse_grid(grid)]
    base = [*flags_of({name: value for name, value in shared.items() if name != "output_dir"}), *rest]
    target = Path(folder or shared.get("output_dir") or "outputs/sweep")
    return 1 if sweep(base, runs, target, finetune_settings, print) else 0


def cache_command(argv: list[str]) -> int:
    """List the activation caches on disk, or prune them: hfft cache list|prune."""
    from hfft.arguments import CacheToolArguments
    from hfft.cache_tool import cache_tool

    action = {"choices": ["list", "prune"], "help": "list shows sizes; prune removes the least recently used."}
    options, what = parse((CacheToolArguments,), argv, "cache", cache_command.__doc__ or "", action)
    print(cache_tool(what, options))
    return 0


def plugins_command(argv: list[str]) -> int:
    """List the installed plugins, or check one on a model: hfft plugins check NAME --model M."""
    from hfft.plugins_tool import check_plugin, plugin_table

    if argv and argv[0] == "check":
        from hfft.arguments import PluginCheckArguments

        name = {"metavar": "NAME", "help": "Name of an installed plugin."}
        options, plugin = parse((PluginCheckArguments,), argv[1:], "plugins check", plugins_command.__doc__ or "", name)
        text, ok = check_plugin(plugin, options.model)
        print(text)
        return 0 if ok else 1
    parse((), argv, "plugins", plugins_command.__doc__ or "")
    print(plugin_table())
    return 0


def push_command(argv: list[str]) -> int:
    """Push a finished run to the Hub in one commit; repeating it uploads only what is missing."""
    from pathlib import Path

    from hfft import use_arguments
    from hfft.hub import Target, collect, open_repo, push

    output = {"metavar": "OUTPUT", "help": "A run's output folder."}
    options, folder = parse((use_arguments.PushArguments,), argv, "push", push_command.__doc__ or "", output)
    target = Target(options.repo_id, options.private, options.delta_only, options.token)
    collect(Path(folder), target)  # whatever is missing shows before the Hub is asked for anything
    target = open_repo(target)
    print(f"Pushed to {push(folder, target)}.")
    if options.space:
        from hfft.space_push import push_space

        space = Target(options.space_id or target.repo_id, options.private, token=options.token)
        print(f"The Space is {push_space(space, target.repo_id)}.")
    return 0


def space_command(argv: list[str]) -> int:
    """Open the Space: classify, look inside a run, fine-tune in the browser."""
    from hfft.space import run_space
    from hfft.space_arguments import SpaceArguments

    (options,) = parse((SpaceArguments,), argv, "space", space_command.__doc__ or "")
    return run_space(options)


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
