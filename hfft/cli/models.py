"""Commands on a finished model: evaluate, merge, export, push."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hfft.arguments import CheckpointArguments, EvaluateArguments, ExportArguments, MergeArguments, PushArguments
from hfft.bars import loading
from hfft.cli.commands import summary_of
from hfft.cli.reply import Reply
from hfft.errors import ArgumentError
from hfft.parsing import parse


def evaluate_command(argv: list[str]) -> Reply:
    """Evaluate a finished model on labelled images: accuracy, F1, calibration, per class."""
    groups = (CheckpointArguments, EvaluateArguments)
    model = {"nargs": "?", "metavar": "RUN", "help": "A run's output folder or a Hub id, in place of --model."}
    use, options, run = parse(groups, argv, "evaluate", summary_of("evaluate"), model)
    if run is not None:
        if use.model is not None:
            raise ArgumentError(f"give the model once: as RUN ({run!r} here), or by --model")
        use = replace(use, model=run)
    with loading():
        from hfft.inference.evaluate import describe_evaluation, evaluate

    if options.folds is None:
        found = evaluate(use, options)
    else:
        from hfft.jobs.evaluate import evaluate_folds

        found = evaluate_folds(use, options, print)
    files = f"Figures, predictions and evaluation.json are in {options.output_dir}."
    return Reply({"output_dir": options.output_dir, "evaluation": found}, f"{describe_evaluation(found)}\n\n{files}")


def merge_command(argv: list[str]) -> Reply:
    """Merge a delta or adapters with their base model into a whole checkpoint, which stock transformers loads."""
    place = {"metavar": "DELTA_FOLDER", "help": "A folder with a delta or adapters, or a Hub id."}
    options, delta = parse((MergeArguments,), argv, "merge", summary_of("merge"), place)
    with loading():
        from hfft.models.checkpoint import merge

    folder = merge(delta, options.output_dir, options.base, options.token, options.trust_remote_code)
    return Reply({"output_dir": folder}, f"Wrote {folder}.")


def export_command(argv: list[str]) -> Reply:
    """Export a finished model to other formats, each checked against PyTorch on real images."""
    model = {"metavar": "OUTPUT", "help": "A run's output folder, or a Hub id."}
    options, output = parse((ExportArguments,), argv, "export", summary_of("export"), model)
    from hfft.inference.export.choice import check_formats

    check_formats(options.to)  # what follows imports their packages
    with loading():
        from hfft.inference.export.job import export

    return Reply({"exports": export(output, options, print)})


def push_command(argv: list[str]) -> Reply:
    """Push a finished run to the Hub in one commit; repeating it uploads only what is missing."""
    output = {"metavar": "OUTPUT", "help": "A run's output folder."}
    options, folder = parse((PushArguments,), argv, "push", summary_of("push"), output)
    with loading():
        from hfft.hub.push import Target, collect, needed_beside, open_repo, push

    target = Target(options.repo_id, options.private, options.delta_only, options.token)
    collect(Path(folder), target)  # whatever is missing shows before the Hub is asked for anything
    target = open_repo(target)
    pushed = push(folder, target)
    result = {"model": pushed.url}
    print(pushed.describe())
    if line := needed_beside(Path(folder), target):
        print(line)
    if options.space:
        from hfft.hub.space_repo import push_space

        space = Target(options.space_id or target.repo_id, options.private, token=options.token)
        result["space"] = push_space(space, target.repo_id)
        print(f"The Space is {result['space']}.")
    return Reply(result)
