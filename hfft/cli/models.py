"""Commands on a finished model: evaluate, merge, export, push."""

from __future__ import annotations

from pathlib import Path

from hfft.arguments import CheckpointArguments, EvaluateArguments, ExportArguments, MergeArguments, PushArguments
from hfft.cli.commands import summary_of
from hfft.parsing import parse


def evaluate_command(argv: list[str]) -> int:
    """Evaluate a finished model on labelled images: accuracy, F1, calibration, per class."""
    groups = (CheckpointArguments, EvaluateArguments)
    use, options = parse(groups, argv, "evaluate", summary_of("evaluate"))
    from hfft.inference.evaluate import describe_evaluation, evaluate

    if options.folds is None:
        evaluation = evaluate(use, options)
    else:
        from hfft.jobs.evaluate import evaluate_folds

        evaluation = evaluate_folds(use, options, print)
    print(describe_evaluation(evaluation))
    print(f"\nFigures, predictions and evaluation.json are in {options.output_dir}.")
    return 0


def merge_command(argv: list[str]) -> int:
    """Make a whole checkpoint, which stock transformers loads, of a delta and its base model."""
    folder = {"metavar": "DELTA_FOLDER", "help": "A folder with a delta, or a Hub id."}
    groups = (MergeArguments,)
    options, delta = parse(groups, argv, "merge", summary_of("merge"), folder)
    from hfft.models.checkpoint import merge

    print(f"Wrote {merge(delta, options.output_dir, options.base, options.token, options.trust_remote_code)}.")
    return 0


def export_command(argv: list[str]) -> int:
    """Export a finished model to ONNX, checked against PyTorch on real images."""
    model = {"metavar": "OUTPUT", "help": "A run's output folder, or a Hub id."}
    options, output = parse((ExportArguments,), argv, "export", summary_of("export"), model)
    from hfft.inference.onnx import describe_export, export

    print(describe_export(*export(output, options)))
    return 0


def push_command(argv: list[str]) -> int:
    """Push a finished run to the Hub in one commit; repeating it uploads only what is missing."""
    output = {"metavar": "OUTPUT", "help": "A run's output folder."}
    options, folder = parse((PushArguments,), argv, "push", summary_of("push"), output)
    from hfft.hub.push import Target, collect, open_repo, push

    target = Target(options.repo_id, options.private, options.delta_only, options.token)
    collect(Path(folder), target)  # whatever is missing shows before the Hub is asked for anything
    target = open_repo(target)
    print(f"Pushed to {push(folder, target)}.")
    if options.space:
        from hfft.hub.space_repo import push_space

        space = Target(options.space_id or target.repo_id, options.private, token=options.token)
        print(f"The Space is {push_space(space, target.repo_id)}.")
    return 0
