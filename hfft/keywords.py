"""Python keywords are flags: the same words, checked and converted in the same way."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from hfft.errors import ArgumentError
from hfft.parsing import closest, flags_of, parse


def parse_keywords(options: Mapping[str, Any]) -> tuple[Any, ...]:
    """Make the five groups of a run's options from keywords; None stands for an option's default.

    Raises:
        ArgumentError: there is no such option, or its value is wrong.
    """
    from hfft import arguments

    groups = (
        arguments.ModelArguments,
        arguments.DataArguments,
        arguments.PolicyArguments,
        arguments.CacheArguments,
        arguments.FinetuneArguments,
    )
    known = [item.name for group in groups for item in fields(group) if item.init]
    for name in options:
        if name not in known:
            raise ArgumentError(f"hfft.finetune has no option {name!r}{closest(name, known)}")
    # The way of a YAML file: values are checked and converted as those of flags are.
    flags = flags_of({name: os.fspath(v) if isinstance(v, os.PathLike) else v for name, v in options.items()})
    return parse(groups, flags, "finetune", "")
