"""Commands that train or say what would be trained: finetune, extend, advise, plan, sweep."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hfft.bars import loading
from hfft.cli.commands import summary_of
from hfft.cli.reply import Reply
from hfft.errors import ArgumentError
from hfft.output_folder import RECORD
from hfft.parsing import asks_for_help, flags_of, parse, print_run_help, refuse_unknown_flags, split_sweep_flags

if TYPE_CHECKING:
    from pathlib import Path

    from hfft.training.setup import Settings


FINETUNE_HELP = (
    f"{summary_of('finetune')} --from_record hfft.json repeats the run that wrote it; other flags override its own."
)


def finetune_command(argv: list[str]) -> Reply:
    """Fine-tune a pretrained image classifier with most of it frozen, or repeat a recorded run."""
    if asks_for_help(argv):
        print_run_help("finetune", FINETUNE_HELP)
    refuse_unknown_flags(argv, "--from_record")
    with loading(argv):
        from hfft.jobs.finetune import finetune
        from hfft.jobs.reproduce import compare, take_record

    flags, record = take_record(argv)
    run = finetune(finetune_settings(flags))
    differences = list(compare(record, run.folder)) if record is not None else None
    if differences:
        print(*differences, sep="\n")
    return Reply(lambda: run_result(run.folder) | ({} if differences is None else {"differences": differences}))


def run_result(folder: Path) -> dict[str, Any]:
    """Return what programs are told of a finished run; ``hfft.json`` in its folder says the rest."""
    from hfft.report.record import read_record

    record = folder / RECORD
    return {"output_dir": folder, "record": record, **read_record(record).summary()}


def extend_command(argv: list[str]) -> Reply:
    """Add images, or a new class, to a finished run."""
    from hfft.arguments import ExtendArguments

    place = {"metavar": "RUN", "help": "The run's output folder."}
    options, name = parse((ExtendArguments,), argv, "extend", summary_of("extend"), place)
    with loading():
        from hfft.jobs.extension.extend import extend

    run = extend(name, options)
    return Reply(lambda: run_result(run.folder) | {"extended": run.extended})


def finetune_settings(argv: list[str]) -> Settings:
    """Parse the flags of a run.

    Raises:
        ArgumentError: a flag is unknown, or a value is wrong.
    """
    from hfft.arguments import RUN_ARGUMENTS
    from hfft.training.setup import Settings

    return Settings(*parse(RUN_ARGUMENTS, argv, "finetune", FINETUNE_HELP))


def advise_command(argv: list[str]) -> Reply:
    """Compare policies on the images themselves, and recommend one."""
    from hfft.arguments import AdviseArguments

    data = {"nargs": "?", "metavar": "DATA", "help": "What --dataset_name takes: a folder, an archive or a Hub id."}
    if asks_for_help(argv):
        print_run_help("advise", summary_of("advise"), AdviseArguments, positional=data)
    with loading(argv):
        from hfft.arguments import RUN_ARGUMENTS
        from hfft.jobs.advise import advise
        from hfft.training.setup import Settings

    *groups, options, name = parse((*RUN_ARGUMENTS, AdviseArguments), argv, "advise", summary_of("advise"), data)
    settings = Settings(*groups)
    given = settings.data.dataset_name or settings.data.train_dir
    last = options.policies[-1]
    if not (name or given) and len(options.policies) > 1 and ("/" in last or os.path.exists(last)):
        name = options.policies.pop()  # DATA behind --policies, which takes all words up to the next flag
    if name is not None:
        if given:
            raise ArgumentError(
                f"give the images once: as DATA ({name!r} here), or by --train_dir or --dataset_name; several values "
                "of a flag have commas between them"
            )
        settings.data = replace(settings.data, dataset_name=name)
    advice = advise(settings, options, print)
    return Reply(advice.data, f"\n{advice}")


def plan_command(argv: list[str]) -> Reply:
    """Show what a policy would train, without any data."""
    from hfft.arguments import ModelArguments, PlanArguments, PolicyArguments

    groups = (ModelArguments, PolicyArguments, PlanArguments)
    model, policy, plan = parse(groups, argv, "plan", summary_of("plan"))
    with loading():
        from hfft.jobs.plan import show_plan, show_suggestion

    if plan.suggest_anatomy:
        suggestion = show_suggestion(model)
        return Reply({"anatomy": suggestion}, suggestion)
    shown = show_plan(model, policy, plan)
    return Reply(shown.data, str(shown))


SWEEP_HELP = """usage: hfft sweep [CONFIG.yaml] [--sweep NAME=VALUE,VALUE ...] [--output_dir FOLDER] [--soup] [FLAGS]

Takes every flag of hfft finetune.

Every combination of the values becomes a run in a folder of its own below --output_dir (outputs/sweep).
CONFIG.yaml holds options of hfft finetune, and under the key sweep a mapping of names to lists of values,
or a list with one mapping for each run. A sweep that was stopped goes on with the runs that are missing.
--soup adds a run whose weights are the mean of those of several epochs and runs, chosen on the validation images."""


def sweep_command(argv: list[str]) -> Reply:
    """Compare runs over a grid or list of options; all of them share one activation cache per boundary."""
    from pathlib import Path

    if asks_for_help(argv):
        print(SWEEP_HELP)
        raise SystemExit(0)
    refuse_unknown_flags(argv, "--sweep", "--soup")
    with loading(argv):
        from hfft.jobs.sweep import parse_grid, read_runs, sweep

    named = bool(argv) and argv[0].endswith((".yaml", ".yml"))
    runs, shared = read_runs(argv[0]) if named else ([{}], {})
    grid, folder, soup, rest = split_sweep_flags(argv[named:])
    runs = [run | options for run in runs for options in parse_grid(grid)]
    base = [*flags_of({name: value for name, value in shared.items() if name != "output_dir"}), *rest]
    target = Path(folder or shared.get("output_dir") or "outputs/sweep")
    failed = sweep(base, runs, target, finetune_settings, print, soup)
    result = {"output_dir": target, "table": target / "sweep.csv", "runs": len(runs), "failed": failed}
    result |= {"soup": target / "soup"} if soup else {}
    return Reply(result, code=int(failed > 0))
