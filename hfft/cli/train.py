"""Commands that train or say what would be trained: finetune, plan, sweep."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hfft.cli.commands import summary_of
from hfft.parsing import asks_for_help, flags_of, parse, print_run_help, refuse_unknown_flags, split_sweep_flags

if TYPE_CHECKING:
    from hfft.training.setup import Settings


def finetune_command(argv: list[str]) -> int:
    """Fine-tune a pretrained image classifier with most of it frozen.

    --from_record hfft.json repeats the run that wrote the file; flags beside it win.
    """
    if asks_for_help(argv):
        print_run_help("finetune", summary_of("finetune"))
    refuse_unknown_flags(argv, "--from_record")
    from hfft.jobs.finetune import finetune
    from hfft.jobs.reproduce import compare, take_record

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
    from hfft.arguments import RUN_ARGUMENTS
    from hfft.training.setup import Settings

    return Settings(*parse(RUN_ARGUMENTS, argv, "finetune", summary_of("finetune")))


def advise_command(argv: list[str]) -> int:
    """Compare policies on the images themselves, and recommend one."""
    import json

    from hfft.arguments import AdviseArguments

    if asks_for_help(argv):
        print_run_help("advise", summary_of("advise"), AdviseArguments)
    from hfft.arguments import RUN_ARGUMENTS
    from hfft.jobs.advise import advise
    from hfft.training.setup import Settings

    data = {"nargs": "?", "metavar": "DATA", "help": "What --dataset_name takes: a folder, an archive or a Hub id."}
    *groups, options, name = parse((*RUN_ARGUMENTS, AdviseArguments), argv, "advise", summary_of("advise"), data)
    settings = Settings(*groups)
    if name is not None:
        settings.data = replace(settings.data, dataset_name=name)
    advice = advise(settings, options, (lambda line: None) if options.json else print)
    print(json.dumps(advice.data(), indent=2) if options.json else f"\n{advice}")
    return 0


def plan_command(argv: list[str]) -> int:
    """Show what a policy would train, without any data."""
    import json

    from hfft.arguments import ModelArguments, PlanArguments, PolicyArguments

    groups = (ModelArguments, PolicyArguments, PlanArguments)
    model, policy, plan = parse(groups, argv, "plan", summary_of("plan"))
    from hfft.jobs.plan import show_plan, show_suggestion

    if plan.suggest_anatomy:
        print(show_suggestion(model))
        return 0
    shown = show_plan(model, policy, plan)
    print(json.dumps(shown.data(), indent=2) if plan.json else shown)
    return 0


SWEEP_HELP = """usage: hfft sweep [CONFIG.yaml] [--sweep NAME=VALUE,VALUE ...] [--output_dir FOLDER] [FLAGS]

Takes every flag of hfft finetune.

Every combination of the values becomes a run in a folder of its own below --output_dir (outputs/sweep).
CONFIG.yaml holds options of hfft finetune, and under the key sweep a mapping of names to lists of values,
or a list with one mapping for each run. A sweep that was stopped goes on with the runs that are missing."""


def sweep_command(argv: list[str]) -> int:
    """Compare runs over a grid or list of options; all of them share one activation cache per boundary."""
    from pathlib import Path

    if argv and argv[0] in ("-h", "--help"):
        print(SWEEP_HELP)
        raise SystemExit(0)
    from hfft.jobs.sweep import parse_grid, read_runs, sweep

    runs, shared = read_runs(argv[0]) if argv and argv[0].endswith((".yaml", ".yml")) else ([{}], {})
    grid, folder, rest = split_sweep_flags(argv[1:] if shared or runs != [{}] else argv)
    runs = [run | options for run in runs for options in parse_grid(grid)]
    base = [*flags_of({name: value for name, value in shared.items() if name != "output_dir"}), *rest]
    target = Path(folder or shared.get("output_dir") or "outputs/sweep")
    return 1 if sweep(base, runs, target, finetune_settings, print) else 0
