"""From argv, or a YAML file before it, to dataclasses."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from enum import Enum
from importlib import metadata, resources
from inspect import get_annotations
from types import NoneType
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

from hfft.errors import ArgumentError, one_line
from hfft.training_flags import help_of

_ALIASES = {
    "dataloader_num_workers": "num_workers workers",
    "dataset_name": "dataset",
    "early_stopping_patience": "patience",
    "image_size": "image img_size imgsz",
    "learning_rate": "lr",
    "model": "model_name_or_path",
    "model_name_or_path": "model model_name",
    "num_train_epochs": "epochs num_epochs",
    "optim": "optimizer",
    "output_dir": "output",
    "per_device_train_batch_size": "batch batch_size bs",
    "policy": "freeze",
    "resume_from_checkpoint": "resume",
    "train_dir": "data data_dir",
    "validation_dir": "val_dir",
    "weight_decay": "wd",
}
_ELSEWHERE = {alias: option for option, aliases in _ALIASES.items() for alias in aliases.split()}
"""What other tools call an option of transformers or hfft."""

_PLACES = ("dataset_name", "model", "model_name_or_path", "against", "base")
"""Options that say where something is, beside those that end in ``_dir``."""


class _Parser(argparse.ArgumentParser):
    """Raises instead of printing its usage and leaving."""

    def error(self, message: str) -> NoReturn:
        raise ArgumentError(message)


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Names the default of an option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None or action.nargs == 0 else super()._get_help_string(action)


def parse(
    classes: Sequence[type], argv: list[str], command: str, description: str, positional: dict[str, Any] | None = None
) -> tuple[Any, ...]:
    """Parse flags, or a YAML file and flags after it, into dataclasses.

    Args:
        classes: the dataclasses; each flag is one of their fields.
        argv: flags, perhaps with a ``.yaml`` file first, whose values flags override.
        command: for the usage line.
        description: what the command does.
        positional: what ``add_argument`` takes for one argument without a flag; its value comes last.

    Raises:
        ArgumentError: a flag or key is unknown, or a value is wrong.
    """
    parser = parser_of(classes, command, description, positional)
    if argv and argv[0].endswith((".yaml", ".yml")):
        argv = yaml_flags(argv[0]) + argv[1:]
    try:
        values, unknown = parser.parse_known_args(argv)
        if unknown:
            flags = [flag for action in parser._actions for flag in action.option_strings]
            raise ArgumentError(f"unknown argument {unknown[0]!r}{closest(unknown[0].partition('=')[0], flags)}")
        parsed = tuple(_filled(group, values) for group in classes)
    except (ValueError, TypeError, ImportError) as error:
        raise ArgumentError(one_line(error)) from error
    return (*parsed, values.positional) if positional else parsed


def parser_of(
    classes: Sequence[type], command: str, description: str, positional: dict[str, Any] | None = None
) -> argparse.ArgumentParser:
    """Make the parser of a command: HfArgumentParser where options inherit from transformers, else a light one."""
    options: dict[str, Any] = {
        "prog": f"hfft {command}",
        "description": description,
        "allow_abbrev": False,
        "formatter_class": _Help,
        "epilog": "--json answers with one JSON object, for programs; --debug shows tracebacks.",
    }
    if any(base.__module__.partition(".")[0] == "transformers" for group in classes for base in group.__mro__):
        from transformers import HfArgumentParser

        class Parser(_Parser, HfArgumentParser):
            """HfArgumentParser that raises."""

        run_parser = Parser(classes, usage=_run_usage(command, positional), **options)  # type: ignore[arg-type]
        own = {name for group in classes for name in get_annotations(group)}
        for action in run_parser._actions:
            if action.nargs == 0 and action.const is False:
                action.help = _opposite(action.dest)
            elif action.dest not in own:
                action.help = help_of(action.dest, action.help)
        if positional:
            run_parser.add_argument("positional", **positional)
        return run_parser
    parser = _Parser(**options)
    for group in classes:
        _add_group(parser, group)
    if positional:
        parser.add_argument("positional", **positional)
    return parser


def _run_usage(command: str, positional: dict[str, Any] | None) -> str:
    """Say how a command with every option of a run is called; to list them all takes three pages."""
    data = f"[{positional['metavar']}] " if positional else ""
    return f"hfft {command} {data}[FLAGS | CONFIG.yaml [FLAGS]]"


def print_run_help(command: str, description: str, *more: type, positional: dict[str, Any] | None = None) -> None:
    """Print the help of a command that takes every option of a run, and leave.

    What transformers' own options say is read from a file that `scripts/flags.py` writes, since loading them takes
    seconds. With a transformers of another version this returns, and the parser itself has to say it.

    Args:
        command: for the usage line.
        description: what the command does.
        more: dataclasses with the options that the command has beside those of a run.
        positional: options of argparse for the one argument without a flag, where the command takes one.
    """
    parser = _run_parser(command, description, more, positional)
    if parser is not None:
        parser.print_help()
        raise SystemExit(0)


def refuse_unknown_flags(argv: Sequence[str], *beside: str) -> None:
    """Refuse what no run takes before anything is loaded, as far as that can be told; the parser sees it all.

    Args:
        argv: of a command that takes every option of a run.
        beside: flags that the command has beside those of a run.

    Raises:
        ArgumentError: a flag is unknown, or the first word is neither a flag nor a YAML file.
    """
    if argv and not argv[0].startswith("-") and not argv[0].endswith((".yaml", ".yml")):
        raise ArgumentError(f"unknown argument {argv[0]!r}; images are given by --train_dir or --dataset_name")
    parser = _run_parser("", "")
    if parser is None:
        return
    known = [flag for action in parser._actions for flag in action.option_strings] + list(beside)
    for word in argv:
        name = word.partition("=")[0]
        if name.startswith("--") and name not in known:
            raise ArgumentError(f"unknown argument {word!r}{closest(name, known)}")


def _run_parser(
    command: str, description: str, more: Sequence[type] = (), positional: dict[str, Any] | None = None
) -> argparse.ArgumentParser | None:
    """Return the parser of a run's options with what is known of transformers' own; None for another version of it."""
    from hfft.arguments import OWN_GROUPS

    known = json.loads(resources.files("hfft.arguments").joinpath("training.json").read_text(encoding="utf-8"))
    if known["transformers"] != metadata.version("transformers"):
        return None
    parser = parser_of(OWN_GROUPS, command, description, positional)
    parser.usage = _run_usage(command, positional)
    flags = parser.add_argument_group(known["title"])
    for names, options in known["flags"]:
        flags.add_argument(*names, **options)
    for group in more:
        _add_group(parser, group)
    return parser


def asks_for_help(argv: Sequence[str]) -> bool:
    """Return whether a command's own help is asked for."""
    return "-h" in argv or "--help" in argv


def _filled(group: type, values: argparse.Namespace) -> Any:
    given = {item.name: getattr(values, item.name) for item in fields(group) if item.init}
    for name, value in given.items():
        if value == "" and (name.endswith("_dir") or name in _PLACES):  # to Path, where the command runs
            raise ArgumentError(f"--{name} is empty; name a place, or leave it out")
    return group(**given)


def _add_group(parser: argparse.ArgumentParser, group: type) -> None:
    """Add a flag for each field of a dataclass, as HfArgumentParser does."""
    title = getattr(group, "_argument_group_name", None)
    flags = parser.add_argument_group(title) if title else parser
    hints = get_type_hints(group)
    for item in fields(group):
        names = [f"--{item.name}"] + [f"--{item.name.replace('_', '-')}"] * ("_" in item.name)
        default = {"required": True} if item.default is MISSING else {"default": item.default}
        if item.default_factory is not MISSING:
            default = {"default": item.default_factory()}
        hint = hints[item.name]
        choices = (hint,) if get_origin(hint) is list else get_args(hint) or (hint,)
        kind = next(one for one in choices if one is not NoneType)
        if get_origin(kind) is list:
            flags.add_argument(*names, type=get_args(kind)[0], nargs="+", **default, **item.metadata)
            continue
        if kind is not bool:
            flags.add_argument(*names, type=kind, **default, **item.metadata)
            continue
        flags.add_argument(*names, type=_truth, nargs="?", const=True, **default, **item.metadata)
        if item.default is True:
            negated = [name.replace("--", f"--no{mark}", 1) for name, mark in zip(names, "_-", strict=False)]
            told = {**item.metadata, "help": _opposite(item.name)}
            flags.add_argument(*negated, action="store_false", dest=item.name, default=False, **told)


def _opposite(name: str) -> str:
    return f"The opposite of --{name}."


def _truth(text: str) -> bool:
    word = text.lower()
    if word in ("yes", "true", "t", "y", "1"):
        return True
    if word in ("no", "false", "f", "n", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def yaml_flags(path: str) -> list[str]:
    """Turn a YAML mapping of options into flags.

    Raises:
        ArgumentError: the file is missing or is not a mapping of options to values.
    """
    import yaml

    try:
        with open(path, encoding="utf-8") as stream:
            values = yaml.safe_load(stream) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ArgumentError(f"cannot read {path}: {one_line(error)}") from error
    if not isinstance(values, dict):
        raise ArgumentError(f"{path} must map options to values, but it holds a {type(values).__name__}")
    return flags_of(values)


def flags_of(values: dict[str, Any]) -> list[str]:
    """Turn options and values, as YAML holds them, into flags; None leaves an option out."""
    flags: list[str] = []
    for key, value in values.items():
        if value is None:
            continue
        items = value if isinstance(value, list | tuple) else [json.dumps(value) if isinstance(value, dict) else value]
        texts = [str(item) for item in items]
        dashed = len(texts) == 1 and texts[0].startswith("-")  # which would be read as a flag
        flags += [f"--{key}={texts[0]}"] if dashed else [f"--{key}", *texts]
    return flags


def split_sweep_flags(argv: list[str]) -> tuple[list[str], str | None, bool, list[str]]:
    """Take ``--sweep`` (any number of times), ``--output_dir`` and ``--soup`` out of a sweep's flags.

    Returns:
        The values of ``--sweep``, the output folder if given, whether a soup is wanted, and all other flags.

    Raises:
        ArgumentError: one of them has no value.
    """
    parser = _Parser(prog="hfft sweep", allow_abbrev=False, add_help=False)
    parser.add_argument("--sweep", nargs="+", action="extend", default=[])
    parser.add_argument("--output_dir", "--output-dir")
    parser.add_argument("--soup", action="store_true")
    known, rest = parser.parse_known_args(argv)
    return known.sweep, known.output_dir, known.soup, rest


def split_values(values: str) -> list[str]:
    """Return values with commas between them; what a policy sets after its colon, ``lora:last_n=4,r=8``, is one."""
    return re.split(r",(?!\w+=)", values)


def closest(word: str, known: list[str]) -> str:
    """Return a hint at the known word that `word` may have been meant for, or nothing."""
    dashes, name = ("--" if word.startswith("--") else ""), word.lstrip("-").replace("-", "_")
    meant = f"{dashes}{_ELSEWHERE.get(name, name)}"
    close = [meant] if meant in known else difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


Place = str | os.PathLike[str]
"""A folder or file, or the id of something on the Hub."""


def place_of(place: Place | None, function: str) -> str | None:
    """Return what a public function was given without a keyword.

    Args:
        place: the data, run or model; None for none.
        function: what an error calls the function.

    Raises:
        ArgumentError: it is something else.
    """
    if place is None:
        return None
    if isinstance(place, str | os.PathLike) and os.fspath(place):
        return os.fspath(place)
    if place == "":
        raise ArgumentError(f"{function} was given an empty name; name a place, or leave it out")
    raise ArgumentError(
        f"{function} takes a folder, a file or a Hub id without a keyword, not a {type(place).__name__}; give all else "
        "by keywords"
    )


def parse_keywords(
    classes: Sequence[type], options: Mapping[str, Any], function: str, **places: Place | None
) -> tuple[Any, ...]:
    """Make dataclasses of keywords; None stands for an option's default.

    Args:
        classes: the dataclasses; each keyword is one of their fields.
        options: by name, values of any type that a YAML file may hold, and paths.
        function: what an error calls the function that was given the keywords.
        places: what it was given without a keyword, by the option that it stands for.

    Raises:
        ArgumentError: there is no such option, it was given twice, or its value is wrong.
    """
    for name, place in places.items():
        if (found := place_of(place, function)) is None:
            continue
        if options.get(name) is not None:
            raise ArgumentError(f"{function}: {name} is given twice, {found!r} and {options[name]!r}; leave one out")
        options = {**options, name: found}
    known = {item.name: str(item.type) for group in classes for item in fields(group) if item.init}
    values = {}
    for name, value in options.items():
        if name not in known:
            raise ArgumentError(f"{function} has no option {name!r}{closest(name, list(known))}")
        several = re.search("list|dict|Any", known[name])
        try:
            values[name] = _plain(value)
        except TypeError:
            kind = "a list" if several else "one value"
            raise ArgumentError(f"{function}: {name} is {kind}, not a {type(value).__name__}") from None
        if isinstance(values[name], list) and len(values[name]) != 1 and not several:  # one in a list is one value
            raise ArgumentError(f"{function}: {name} is one value, not a {type(value).__name__}")
    # The way of a YAML file: values are checked and converted as those of flags are.
    return parse(classes, flags_of(values), function, "")


def _plain(value: Any) -> Any:
    """Return a value as a YAML file holds it: a path, an enum's member or what NumPy or PyTorch computed as well.

    Raises:
        TypeError: a YAML file holds no such thing, as a model, a data set or a set, which has no order.
    """
    if isinstance(value, Enum):
        value = value.value
    elif isinstance(value, os.PathLike):
        value = os.fspath(value)
    elif callable(to_list := getattr(value, "tolist", None)):
        value = to_list()
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(type(value).__name__)
