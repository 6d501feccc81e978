"""Values that no option can mean are refused where they are read, by the option's name."""

from __future__ import annotations

import math

import pytest

from hfft.arguments import (
    CacheArguments,
    CacheToolArguments,
    ExtendArguments,
    FinetuneArguments,
    ModelArguments,
    PlanArguments,
    PolicyArguments,
)
from hfft.errors import ArgumentError
from hfft.parsing import parse_keywords


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        *(
            (PolicyArguments, name, value)
            for name in ("head_lr_scale", "layer_decay")
            for value in (math.nan, math.inf)
        ),
        *((CacheArguments, name, math.nan) for name in ("cache_max_gb", "engine_tolerance")),
        *((PlanArguments, name, value) for name in ("num_train_epochs", "learning_rate") for value in (-1, math.nan)),
        *((CacheToolArguments, "keep_gb", value) for value in (-1, math.nan, math.inf)),
        *((ExtendArguments, name, math.nan) for name in ("num_train_epochs", "learning_rate")),
        *((ModelArguments, "image_size", value) for value in (0, -3)),
        *((FinetuneArguments, "lr_scheduler_kwargs", value) for value in ("[1]", "3", '"min_lr"')),
    ],
)
def test_what_an_option_cannot_mean(group: type, name: str, value: object) -> None:
    beside = {"train_dir": "photos"} if group is ExtendArguments else {}
    with pytest.raises(ArgumentError, match=f"--{name} must "):
        parse_keywords((group,), {name: value, **beside}, "f")
