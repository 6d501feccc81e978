"""The light parser reads as HfArgumentParser does, and a run's help is that of its parser."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import HfArgumentParser
from transformers.trainer_utils import IntervalStrategy
from versions import needs

import hfft
from hfft import arguments
from hfft.arguments import OWN_GROUPS, RUN_ARGUMENTS, DataArguments, FillArguments, FinetuneArguments
from hfft.cli import main
from hfft.errors import ArgumentError, HfftError
from hfft.parsing import parse, parse_keywords, parser_of, print_run_help
from hfft.space.options import SpaceArguments

GROUPS = [value for name, value in vars(arguments).items() if name.endswith("Arguments") and value != FinetuneArguments]


def described(parser: argparse.ArgumentParser) -> list[tuple[object, ...]]:
    names = ("option_strings", "dest", "nargs", "const", "default", "choices", "required", "metavar")
    helps = ["" if action.nargs == 0 else action.help for action in parser._actions]  # of flags that negate it differs
    return [(*(getattr(each, name) for name in names), told) for each, told in zip(parser._actions, helps, strict=True)]


@pytest.mark.parametrize("group", [*GROUPS, SpaceArguments])
def test_the_light_parser_has_the_flags_of_the_heavy_one(group: type) -> None:
    light, heavy = parser_of((group,), "x", ""), HfArgumentParser(group)  # type: ignore[arg-type]
    assert not isinstance(light, HfArgumentParser)
    assert described(light) == described(heavy)
    for ours, theirs in zip(light._actions, heavy._actions, strict=True):
        assert ours.type is theirs.type or (ours.const, theirs.const) == (True, True)


@pytest.mark.parametrize("word", ["yes", "TRUE", "t", "y", "1", "No", "false", "f", "n", "0"])
def test_truth_is_read_as_transformers_reads_it(word: str) -> None:
    (ours,) = parse((arguments.CheckArguments,), ["--strict", word], "x", "")
    (theirs,) = HfArgumentParser(arguments.CheckArguments).parse_args_into_dataclasses(["--strict", word])  # type: ignore[arg-type]
    assert ours == theirs


def test_flags_that_negate_and_flags_without_a_value() -> None:
    (cache,) = parse((arguments.CacheArguments,), ["--no_class_token_shortcut", "--exact"], "x", "")
    assert (cache.class_token_shortcut, cache.exact) == (False, True)
    (cache,) = parse((arguments.CacheArguments,), ["--no-class-token-shortcut", "--cache-max-gb", "1.5"], "x", "")
    assert (cache.class_token_shortcut, cache.exact, cache.cache_max_gb) == (False, False, 1.5)


def test_lists_of_values() -> None:
    (export,) = parse((arguments.ExportArguments,), ["--to", "web", "onnx", "web", "--check-images", "3"], "x", "")
    assert (export.to, export.check_images) == (["web", "onnx"], 3)
    assert parse((arguments.ExportArguments,), [], "x", "")[0].to == ["onnx"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--strict", "perhaps"], "argument --strict: 'perhaps' is neither true nor false"),
        (["--strct"], "unknown argument '--strct'; did you mean --strict?"),
    ],
)
def test_errors(argv: list[str], message: str) -> None:
    with pytest.raises(ArgumentError) as raised:
        parse((arguments.CheckArguments,), argv, "x", "")
    assert str(raised.value) == message


def test_a_slip_is_named_before_what_it_leaves_missing() -> None:
    with pytest.raises(ArgumentError, match="unknown argument '--traindir'; did you mean --train_dir"):
        parse((arguments.ExtendArguments,), ["--traindir", "more"], "extend", "")


@needs("transformers", "5.24")
def test_the_help_of_a_run_is_that_of_its_parser(capsys: pytest.CaptureFixture[str]) -> None:
    place = {"nargs": "?", "metavar": "DATA", "help": "The images."}
    with pytest.raises(SystemExit) as left:
        print_run_help("cache fill", "What it does.", FillArguments, positional=place)
    assert left.value.code == 0
    parser = parser_of((*RUN_ARGUMENTS, FillArguments), "cache fill", "What it does.", place)
    assert capsys.readouterr().out == parser.format_help()
    assert RUN_ARGUMENTS[:-1] == OWN_GROUPS


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        *(
            ("--epochs", "--num_train_epochs"),
            ("--lr", "--learning_rate"),
            ("--batch-size", "--per_device_train_batch_size"),
        ),
        *(("--model", "--model_name_or_path"), ("--data=photos", "--train_dir"), ("--polcy", "--policy")),
    ],
)
def test_an_option_by_another_tools_name_is_hinted_at(
    given: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["finetune", given, "1"]) == 2
    assert f"did you mean {meant}?" in capsys.readouterr().err


def test_options_stand_under_what_they_are_about(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["finetune", "--help"])
    said = capsys.readouterr().out
    heads = [line for line in said.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert heads[:5] == ["options:", "model:", "images and labels:", "what is trained:", "activation cache:"]
    assert said.index("images and labels:") < said.index("--train_dir") < said.index("what is trained:")
    assert "The opposite of --class_token_shortcut." in said


def test_another_transformers_says_its_own_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "4.0")
    print_run_help("finetune", "")
    assert not capsys.readouterr().out


def test_one_value_is_not_a_list() -> None:
    with pytest.raises(ArgumentError, match=r"hfft\.finetune: policy is one value, not a list"):
        hfft.finetune(policy=["head", "last_block"])
    with pytest.raises(ArgumentError, match="train_dir is one value, not a tuple"):
        hfft.finetune(train_dir=("a", "b"))


def test_a_tuple_is_a_list() -> None:
    """Where an option takes several values; a set has no order, which columns and policies have."""
    (given,) = parse_keywords((DataArguments,), {"label_columns": ("height", "width")}, "hfft.finetune")
    assert given.label_columns == ["height", "width"]
    with pytest.raises(ArgumentError, match=r"hfft\.finetune: label_columns is a list, not a set"):
        hfft.finetune(label_columns={"height", "width"})


@pytest.mark.parametrize("value", [np.array(1e-3), torch.tensor(1e-3, dtype=torch.float64), [1e-3], np.array([1e-3])])
def test_what_a_script_computed_is_a_number(value: object) -> None:
    (given,) = parse_keywords((FinetuneArguments,), {"learning_rate": value}, "hfft.finetune")
    assert given.learning_rate == 1e-3


def test_what_transformers_takes_is_taken() -> None:
    options = {
        "eval_strategy": IntervalStrategy.STEPS,
        "report_to": ["none"],
        "lr_scheduler_kwargs": {"num_cycles": np.int64(2)},
    }
    (given,) = parse_keywords((FinetuneArguments,), options, "hfft.finetune")
    assert (given.eval_strategy, given.report_to) == (IntervalStrategy.STEPS, [])
    assert given.lr_scheduler_kwargs == {"num_cycles": 2}


@pytest.mark.parametrize("value", [torch.nn.Linear(2, 2), object(), (name for name in "ab"), {"train": object()}])
def test_what_no_file_could_say_is_refused_by_its_kind(value: object) -> None:
    with pytest.raises(ArgumentError) as raised:
        hfft.finetune(model_name_or_path=value)
    assert str(raised.value) == f"hfft.finetune: model_name_or_path is one value, not a {type(value).__name__}"


@pytest.mark.parametrize(
    ("name", "option"), [("finetune", "train_dir"), ("finetune", "output_dir"), ("evaluate", "validation_dir")]
)
def test_an_empty_name_is_not_the_folder_of_the_command(
    name: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    function: Callable[..., Any] = getattr(hfft, name)
    with pytest.raises(ArgumentError, match=f"--{option} is empty"):
        function(**{option: ""})
    with pytest.raises(ArgumentError, match=rf"hfft\.{name} was given an empty name"):
        function("")


TAKEN = {"finetune": "dataset_name", "advise": "dataset_name", "evaluate": "model", "plan": "model_name_or_path"}
"""What the first argument of a public function stands for."""


@pytest.mark.parametrize("name", [*TAKEN, "labels", "depth", "embed"])
def test_a_place_may_come_without_its_keyword(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a run makes its folder first
    function: Callable[..., Any] = getattr(hfft, name)
    options = {"output": str(tmp_path / "x.parquet")} if name == "embed" else {}
    with pytest.raises(HfftError, match="nowhere"):
        function(tmp_path / "nowhere.zip", **options)
    with pytest.raises(ArgumentError, match=rf"hfft\.{name} takes a folder, a file or a Hub id .*, not a list"):
        function(["photos"], **options)
    again = {TAKEN.get(name, "dataset_name"): "photos"}
    with pytest.raises(ArgumentError, match=r"is given twice, 'more' and 'photos'|give the images once"):
        function("more", **again, **options)


@pytest.mark.parametrize("name", ["learning_rate", "weight_decay", "mixup"])
def test_what_is_not_a_number_is_refused_at_the_door(name: str) -> None:
    with pytest.raises(ArgumentError, match=f"--{name} must be a number, not nan"):
        parse_keywords((FinetuneArguments,), {name: float("nan")}, "hfft.finetune")


def test_a_value_that_begins_with_a_dash_is_no_flag() -> None:
    (data,) = parse_keywords(
        (DataArguments,), {"train_dir": "-photos", "task": "multi_label", "label_separator": "-"}, "f"
    )
    assert (data.label_separator, data.train_dir) == ("-", "-photos")
