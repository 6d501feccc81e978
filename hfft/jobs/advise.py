"""`hfft advise`: which policy these images ask for, before anything is trained for good."""

from __future__ import annotations

import copy
import shlex
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from hfft.arguments import RUN_ARGUMENTS, AdviseArguments
from hfft.bars import silenced, unsaid
from hfft.data.images import concatenated
from hfft.errors import ArgumentError
from hfft.jobs.advice.backbones import BackboneAdvice, compare_backbones
from hfft.jobs.advice.compare import Advice, compare
from hfft.jobs.finetune import check_processes, set_up
from hfft.jobs.inputs import what_was_read
from hfft.jobs.reproduce import given_options
from hfft.jobs.results import arguments_of
from hfft.machine import keep_freed_memory
from hfft.parsing import Place, flags_of, parse_keywords, split_values
from hfft.surroundings import undisturbed
from hfft.training.setup import Settings, Setup


def advise(settings: Settings, options: AdviseArguments, say: Callable[[str], None] = print) -> Advice | BackboneAdvice:
    """Cross-validate policies on the training images, and recommend one; nothing is written but the cache.

    Args:
        settings: every option of a run; the policy does not count.
        options: what is compared.
        say: prints a line for the user.

    Raises:
        HfftError: data, model or policies are not usable, and how to mend it.
    """
    with silenced(settings.training.disable_tqdm):
        return (_advise_models if options.models else _advise_policies)(settings, options, say)


def _advise_policies(settings: Settings, options: AdviseArguments, say: Callable[[str], None]) -> Advice:
    """Compare policies on one model."""
    names = (name.strip() for several in options.policies for name in split_values(several))
    policies = tuple(dict.fromkeys(filter(None, names)))
    if not policies:
        raise ArgumentError("--policies names none; give for example head,last_block")
    if any(each.partition(":")[0] == "lora" for each in policies):
        raise ArgumentError("--policies compares on one model, which lora changes; compare it with hfft sweep")
    check_processes(settings.training)
    keep_freed_memory()
    with tempfile.TemporaryDirectory(prefix="hfft-advise-") as folder:
        training = copy.copy(settings.training)
        training.output_dir, training.report_to = folder, []
        first = replace(settings, policy=replace(settings.policy, policy=policies[0]), training=training)
        setup = with_all_images(set_up(first, test=False))
        for line in (*what_was_read(setup.sets), *setup.base.notes):
            say(line)
        advice = compare(setup, policies, options.folds, say)
    return replace(advice, command=_command(settings, advice.policy))


def _advise_models(settings: Settings, options: AdviseArguments, say: Callable[[str], None]) -> BackboneAdvice:
    """Compare backbones; what one of them cannot do is said before any of the images passes."""
    check_processes(settings.training)
    keep_freed_memory()
    with tempfile.TemporaryDirectory(prefix="hfft-advise-") as folder:
        training = copy.copy(settings.training)
        training.output_dir, training.report_to = folder, []

        def setups() -> Iterator[tuple[str, Setup]]:
            for name in options.models:
                model = replace(settings.model, model_name_or_path=name)
                policy = replace(settings.policy, policy="head")
                chosen = replace(settings, model=model, policy=policy, training=training)
                setup = with_all_images(set_up(chosen, test=False))
                images = what_was_read(setup.sets) if name == options.models[0] else ()
                for line in (*images, *setup.base.notes):
                    say(line)
                yield name, setup

        return compare_backbones(setups(), options.folds, say)


@undisturbed()
def advise_with(
    data: Place | None = None, /, *, say: Callable[[str], None] | None = print, **options: Any
) -> Advice | BackboneAdvice:
    """Compare policies on the images themselves, and recommend one; this is ``hfft.advise``.

    Args:
        data: the images, as ``dataset_name`` takes them; left out, the options name them.
        say: prints a line for the user; None for silence.
        options: the flags of ``hfft advise`` under their own names, for example ``train_dir``, ``policies`` (a
            list, or a text with commas), ``folds``, or any option of `hfft.finetune`.

    Returns:
        What was compared (``advice.candidates``, each with ``score`` and ``interval``), the recommended
        ``advice.policy``, its ``advice.reason``, and ``advice.curve``; ``print`` draws it as a table.

    Raises:
        ArgumentError: there is no such option, or its value is wrong.
        HfftError: data or model are not usable, and how to mend it.

    Example:
        >>> advice = hfft.advise(train_dir="photos/train", policies="head,last_block", folds=2, say=lambda line: None)
        >>> [candidate.policy for candidate in advice.candidates], advice.policy in ("head", "last_block")
        (['linear probe', 'head', 'last_block'], True)
    """
    *groups, advised = parse_keywords((*RUN_ARGUMENTS, AdviseArguments), options, "hfft.advise", dataset_name=data)
    return advise(Settings(*groups), advised, say or unsaid)


def with_all_images(setup: Setup) -> Setup:
    """Return a setup whose training images include those that were set aside for validation."""
    if not setup.sets.held_back:
        return setup
    together = concatenated([setup.sets.train, setup.sets.validation])
    return replace(setup, sets=replace(setup.sets, train=together))


def _command(settings: Settings, policy: str) -> str:
    """Return the command line that trains a policy with the options that were given."""
    flags = flags_of(given_options(arguments_of(settings)) | {"policy": policy})
    return shlex.join(["hfft", "finetune", *flags])
