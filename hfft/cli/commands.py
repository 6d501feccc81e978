"""The commands: where each is, and what it does in one line. Nothing is imported before one of them is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfft.cli.reply import Reply


@dataclass(frozen=True)
class Command:
    """One command of the command line.

    Args:
        place: ``module:function`` of a function from the rest of argv to a `Reply`.
        summary: what it does, for the overview and for the command's own help.
        launched: whether it may be started by a launcher, or says itself what to do instead.
    """

    place: str
    summary: str
    launched: bool = False

    def load(self) -> Callable[[list[str]], Reply]:
        """Import the command's function."""
        module, _, name = self.place.partition(":")
        function: Callable[[list[str]], Reply] = getattr(import_module(module), name)
        return function


COMMANDS = {
    "check": Command(
        "hfft.cli.check:check_command",
        "Look for unreadable, equal, mislabelled and unusual images before they are trained on.",
    ),
    "labels": Command(
        "hfft.cli.curate:labels_command",
        "Find labels that are probably wrong, and duplicate, odd or blurred images; write a new list as you decide.",
    ),
    "finetune": Command(
        "hfft.cli.train:finetune_command",
        "Fine-tune a pretrained image classifier with most of it frozen.",
        launched=True,
    ),
    "extend": Command(
        "hfft.cli.train:extend_command",
        "Add images, or a new class, to a finished run: only the new ones pass the frozen part.",
    ),
    "advise": Command(
        "hfft.cli.train:advise_command",
        "Compare policies on the images themselves, with cross-validation on cached activations, and recommend one.",
    ),
    "plan": Command("hfft.cli.train:plan_command", "Show what a policy would train, without any data."),
    "sweep": Command(
        "hfft.cli.train:sweep_command",
        "Compare runs over a grid or list of options; all of them share one activation cache per boundary.",
    ),
    "cache": Command(
        "hfft.cli.cache:cache_command",
        "List the activation caches on disk, prune them, or fill one without training: hfft cache list|prune|fill.",
        launched=True,
    ),
    "plugins": Command(
        "hfft.cli.plugins:plugins_command",
        "List the installed plugins, or check one on a model: hfft plugins check NAME --model M.",
    ),
    "predict": Command(
        "hfft.cli.predict:predict_command",
        "Label images with a finished model: a table, CSV or JSON lines on standard output.",
    ),
    "evaluate": Command(
        "hfft.cli.models:evaluate_command",
        "Evaluate a finished model on labelled images: accuracy, F1, calibration, per class.",
    ),
    "next": Command(
        "hfft.cli.curate:next_command", "Choose the unlabelled images whose labels would teach a finished run most."
    ),
    "embed": Command(
        "hfft.cli.curate:embed_command",
        "Write pooled features of any block to Parquet or safetensors, for other tools.",
    ),
    "depth": Command(
        "hfft.cli.curate:depth_command",
        "Measure a linear probe on each block's output, which shows where pretrained features stop helping.",
    ),
    "merge": Command(
        "hfft.cli.models:merge_command",
        "Merge a delta or adapters with their base model into a whole checkpoint, which stock transformers loads.",
    ),
    "export": Command(
        "hfft.cli.models:export_command",
        "Export a finished model (ONNX, OpenVINO, int8, a web page), each checked against PyTorch on real images.",
    ),
    "push": Command(
        "hfft.cli.models:push_command",
        "Push a finished run to the Hub in one commit; repeating it uploads only what is missing.",
    ),
    "space": Command(
        "hfft.cli.space:space_command", "Open the Space: classify, look inside a run, fine-tune in the browser."
    ),
}


def summary_of(name: str) -> str:
    """Return what a command does in one line."""
    return COMMANDS[name].summary
