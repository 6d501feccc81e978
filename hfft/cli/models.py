"""Commands on a finished model: evaluate, merge, export, push."""

from __future__ import annotations

from dataclasses import dataclass, field

from hfft.arguments import option
from hfft.cli.commands import summary_of
from hfft.parsing import parse


@dataclass
class MergeArguments:
    """Where the whole checkpoint goes, and where its base is."""

    output_dir: str = option("outputs/merged", "Folder for the whole checkpoint; it may be the delta's own.")
    base: str | None = option(None, "Folder or Hub id of the base model, if not where the delta says.")
    token: str | None = option(None, "Access token for the Hub; by default the one that `hf auth login` stored.")
    trust_remote_code: bool = option(False, "Run code that the base model's repository brings along.")


@dataclass
class PushArguments:
    """Where to push."""

    repo_id: str = field(metadata={"help": "Repository on the Hub, owner/name; the owner may be left out."})
    delta_only: bool = option(False, "Leave out the whole checkpoint; hfft applies the delta to the base model.")
    private: bool = option(False, "Make the repository private; refuse one that is public.")
    space: bool = option(False, "Create or update a Gradio Space for the model as well.")
    space_id: str | None = option(None, "The Space's id, owner/name; by default that of the model.")
    token: str | None = option(None, "Access token for the Hub; by default the one that `hf auth login` stored.")


def evaluate_command(argv: list[str]) -> int:
    """Judge a finished model on labelled images: accuracy, F1, calibration, per class."""
    from hfft.arguments import CheckpointArguments
    from hfft.inference.evaluate import EvaluateArguments, describe_evaluation, evaluate

    groups = (CheckpointArguments, EvaluateArguments)
    use, options = parse(groups, argv, "evaluate", summary_of("evaluate"))
    print(describe_evaluation(evaluate(use, options)))
    print(f"\nFigures, predictions and evaluation.json are in {options.output_dir}.")
    return 0


def merge_command(argv: list[str]) -> int:
    """Make a whole checkpoint, which stock transformers loads, of a delta and its base model."""
    from hfft.models.checkpoint import merge

    folder = {"metavar": "DELTA_FOLDER", "help": "A folder with a delta, or a Hub id."}
    groups = (MergeArguments,)
    options, delta = parse(groups, argv, "merge", summary_of("merge"), folder)
    print(f"Wrote {merge(delta, options.output_dir, options.base, options.token, options.trust_remote_code)}.")
    return 0


def export_command(argv: list[str]) -> int:
    """Export a finished model to ONNX, checked against PyTorch on real images."""
    from hfft.inference.onnx import ExportArguments, describe_export, export

    model = {"metavar": "OUTPUT", "help": "A run's output folder, or a Hub id."}
    options, output = parse((ExportArguments,), argv, "export", summary_of("export"), model)
    print(describe_export(*export(output, options)))
    return 0


def push_command(argv: list[str]) -> int:
    """Push a finished run to the Hub in one commit; repeating it uploads only what is missing."""
    from pathlib import Path

    from hfft.hub.push import Target, collect, open_repo, push

    output = {"metavar": "OUTPUT", "help": "A run's output folder."}
    options, folder = parse((PushArguments,), argv, "push", summary_of("push"), output)
    target = Target(options.repo_id, options.private, options.delta_only, options.token)
    collect(Path(folder), target)  # whatever is missing shows before the Hub is asked for anything
    target = open_repo(target)
    print(f"Pushed to {push(folder, target)}.")
    if options.space:
        from hfft.hub.space_repo import push_space

        space = Target(options.space_id or target.repo_id, options.private, token=options.token)
        print(f"The Space is {push_space(space, target.repo_id)}.")
    return 0
