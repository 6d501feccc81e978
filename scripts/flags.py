"""Write docs/flags.md and the help of a run's options from the code, or check that both are current.

The help is `hfft/arguments/training.json`: what `hfft finetune --help` prints without loading transformers.

python scripts/flags.py
python scripts/flags.py --check
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any

import transformers

from hfft.arguments import FinetuneArguments
from hfft.parsing import parser_of
from hfft.training_flags import FLAGS, LIMITS, NEEDED

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "flags.md"
HELP = ROOT / "hfft" / "arguments" / "training.json"
INTRODUCTION = """\
# Flags of TrainingArguments

This page is written by `python scripts/flags.py`; do not edit it.

`hfft finetune` takes transformers' TrainingArguments under their own names; `hfft finetune --help` has their defaults,
and hfft's own flags beside them.

- **works**: hfft has a part in it, and tests of its own hold it.
- **inherited**: the Trainer does it; a test runs each once (those of GPUs, of several processes and of services are
  passed on as they are).
- **refused**: one line says why, before any image is read; the exit code is 2.

A test holds the names against the installed transformers, so that a new release shows what it brings.
"""
SCRIPT = """\


## The command line of run_image_classification.py

The command line of transformers' own example runs as it stands: `--do_train --do_eval --ignore_mismatched_sizes
--remove_unused_columns False --load_best_model_at_end True ...` beside the flags for model and images. It leaves
`config.json`, `model.safetensors`, `preprocessor_config.json`, `train_results.json`, `eval_results.json`,
`all_results.json`, `trainer_state.json` and `README.md`. What differs:

- `--cache_dir` is hfft's activation cache; downloads of the Hub are where `HF_HOME` says.
- `--config_name` must be the model, and there is no `--model_type`: hfft fine-tunes, it trains nothing from scratch.
- `eval_results.json` and `test_results.json` hold the finished model's metrics, with its temperature or thresholds.
- `training_args.bin`, a pickle, is not written; `hfft.json` holds every option.
- The best weights are kept in memory; checkpoints are for going on, and are deleted by nothing but
  `--save_total_limit`.
- The defaults of batch size, learning rate and schedule are hfft's own.

## Trackers

`--report_to tensorboard`, `mlflow`, `wandb` or `trackio` gets one run for a training of any number of phases: epochs
and steps count on, and `phase` beside each entry counts the phases from 1. The metrics of the test images are the last
entry. A tracker whose package is missing is refused before images are read. Without a network: `WANDB_MODE=offline`,
`MLFLOW_TRACKING_URI=sqlite:///mlflow.db`.
"""


def main(arguments: list[str] | None = None) -> int:
    """Write both files, or with ``--check`` show how they differ; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a file is not current")
    wanted = {PAGE: "\n".join([INTRODUCTION, *_table(), *_limits()]) + SCRIPT, HELP: _help()}
    if not parser.parse_args(arguments).check:
        for path, text in wanted.items():
            path.write_text(text, encoding="utf-8")
        return 0
    return max(int(_differs(path, text)) for path, text in wanted.items())


def _differs(path: Path, text: str) -> bool:
    found = path.read_text(encoding="utf-8") if path.exists() else ""
    difference = difflib.unified_diff(found.splitlines(), text.splitlines(), str(path), "from the code", lineterm="")
    print("\n".join(difference), end="")
    return found != text


def _help() -> str:
    """Return what argparse shows of each option that `FinetuneArguments` has, as its parser knows it."""
    actions = [action for action in parser_of((FinetuneArguments,), "", "")._actions if action.dest != "help"]
    rows = ",\n".join(json.dumps(_shown(action), ensure_ascii=False) for action in actions)
    title = FinetuneArguments._argument_group_name
    return f'{{"transformers": "{transformers.__version__}", "title": "{title}", "flags": [\n{rows}\n]}}\n'


def _shown(action: argparse.Action) -> tuple[list[str], dict[str, Any]]:
    plain = type(action.default) in (bool, int, float, NoneType)  # auto epochs are a number that says its name
    options = {"help": action.help, "default": action.default if plain else str(action.default)}
    if action.nargs == 0:
        options["action"] = "store_false"
        options["dest"] = action.dest
    elif action.nargs is not None:
        options["nargs"] = action.nargs
    if action.choices is not None:
        options["choices"] = list(action.choices)
    return list(action.option_strings), options


def _table() -> Iterator[str]:
    yield "| Flag | Verdict | Note |"
    yield "|---|---|---|"
    for name, flag in sorted(FLAGS.items()):
        yield f"| `--{name}` | {flag.verdict} | {flag.note} |"


def _limits() -> Iterator[str]:
    yield "\n## Values that are refused\n"
    for limit in LIMITS:
        yield f"- `--{limit.flag}` {limit.reason}."
    for schedule, names in NEEDED.items():
        needed = " or ".join(f"`{name}`" for name in names)
        yield f"- `--lr_scheduler_type {schedule}` without {needed} in `--lr_scheduler_kwargs`."


if __name__ == "__main__":
    sys.exit(main())
