"""The main job as a function of keywords, for notebooks and scripts."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from hfft.errors import ArgumentError
from hfft.parsing import closest, flags_of, parse

if TYPE_CHECKING:
    from hfft.finetune import Run


def finetune(*, say: Callable[[str], None] = print, **options: Any) -> Run:
    """Fine-tune a pretrained image classifier with most of it frozen; ``hfft.finetune`` calls this.

    Args:
        say: prints a line for the user.
        options: the flags of ``hfft finetune`` under their own names, for example ``train_dir``, ``policy``,
            ``output_dir`` or any of transformers' TrainingArguments. Without any, the embedded model is
            fine-tuned on the embedded images. None stands for an option's default.

    Returns:
        The finished run: ``run.model``, ``run.processor``, ``run.plan``, and by split (``validation``,
        ``test``) ``run.predictions`` with logits of shape (images, labels) and metrics. Everything is in
        ``output_dir`` as well.

    Raises:
        ArgumentError: there is no such option, or its value is wrong.
        HfftError: data, model, plan or folders are not usable, and how to mend it.

    Example:
        >>> run = hfft.finetune(train_dir="photos/train", output_dir="outputs/photos")  # doctest: +SKIP
    """
    from hfft import arguments
    from hfft.finetune import Settings
    from hfft.finetune import finetune as run_job

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
    flags = flags_of({name: _plain(value) for name, value in options.items()})
    return run_job(Settings(*parse(groups, flags, "finetune", "")), say)


def _plain(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value
