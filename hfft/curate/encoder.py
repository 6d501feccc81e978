"""A model that images are embedded with: a finished run, the base of one, or any pretrained model.

It is set up as the training that would read the same rows of the activation cache, so that what a run has computed
is read here, and what is computed here is read by the next run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from hfft.arguments import RUN_ARGUMENTS, CacheArguments, FeatureArguments, FinetuneArguments, ModelArguments
from hfft.cache.fill import OnFill, unheard
from hfft.cache.prepare import choose_memory_format
from hfft.data.preprocessing import Pixels
from hfft.errors import ModelError, one_line
from hfft.jobs.reproduce import record_flags
from hfft.models.checkpoint import load_folder
from hfft.models.download import fetch
from hfft.models.load import load_model
from hfft.output_folder import RECORD
from hfft.parsing import parse
from hfft.planning.anatomy_file import anatomy_from_dict, check_anatomy
from hfft.planning.plan import Phase, make_plan
from hfft.planning.registry import resolve_anatomy
from hfft.plugin.contract import Anatomy
from hfft.report.record import RunRecord, read_record_here
from hfft.training.setup import Settings

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedModel

_TWO = ("one", "two")  # a new head's classes, where nobody reads the head


@dataclass(frozen=True)
class Encoder:
    """A model with all that its features depend on.

    Args:
        name: for people.
        model: on its device, in eval mode.
        pixels: how an image becomes its inputs.
        anatomy: its parts.
        phase: what a training would train; all before it is read from the cache.
        cache: where activations lie, and what computes them.
        training: device and precision.
        labels: the classes of its head; none where the head is new.
        on_fill: hears how many images have passed the frozen part, of how many.
    """

    name: str
    model: PreTrainedModel
    pixels: Pixels
    anatomy: Anatomy
    phase: Phase
    cache: CacheArguments
    training: FinetuneArguments
    labels: tuple[str, ...] = ()
    on_fill: OnFill = unheard


def load_encoder(use: FeatureArguments, cache: CacheArguments | None = None) -> Encoder:
    """Load a finished run, which knows its classes, or a pretrained model, whose head nobody reads.

    Args:
        use: the model.
        cache: where activations lie; by default where those of the run lie, or the usual place.

    Raises:
        HfftError: there is no such model, it is not whole, or its parts are not known.
    """
    folder = None if use.model is None else fetch(use.model, use.revision, use.token, use.trust_remote_code)
    if folder is None or not (folder / RECORD).exists():
        arguments = ModelArguments(
            model_name_or_path=None if folder is None else str(folder), trust_remote_code=use.trust_remote_code
        )
        return _pretrained(Settings(arguments, cache=cache or CacheArguments(), training=_no_flags()), use.model)
    record = read_record_here(folder / RECORD)
    model, processor = load_folder(folder, use.token, use.trust_remote_code)
    labels = tuple(str(name) for _, name in sorted((model.config.id2label or {}).items()))
    settings = settings_of(record)
    settings = replace(settings, cache=cache or settings.cache)
    return _encoder(str(use.model), (model, processor), settings, record, labels)


def load_base(record: RunRecord, trust_remote_code: bool = False) -> Encoder:
    """Load the model that a run began with, which has not seen its labels.

    Args:
        record: of the run.
        trust_remote_code: whether code that the model brings along may run.

    Raises:
        HfftError: it is no longer where the record says, or its parts are not known.
    """
    settings = settings_of(record, trust_remote_code)
    try:
        return _pretrained(settings, None, record)
    except ModelError as error:
        raise ModelError(
            f"the base of the run cannot be loaded ({one_line(error)}); name a model with --model"
        ) from error


def settings_of(record: RunRecord, trust_remote_code: bool = False) -> Settings:
    """Return the options of a run, and whether code that its model brings along may run.

    Raises:
        ArgumentError: this version of hfft does not take them.
    """
    return Settings(*parse(RUN_ARGUMENTS, record_flags(record, trust_remote_code), "finetune", ""))


def run_record(place: str | None) -> RunRecord | None:
    """Return the record of the run that lies in a folder; None where there is none.

    Raises:
        HfftError: the record is damaged.
    """
    file = Path(place or "").expanduser() / RECORD
    return read_record_here(file) if place is not None and file.is_file() else None


def _no_flags() -> FinetuneArguments:
    training: FinetuneArguments = parse(RUN_ARGUMENTS, [], "finetune", "")[-1]
    return training


def _pretrained(settings: Settings, name: str | None, record: RunRecord | None = None) -> Encoder:
    model, processor, base = load_model(settings.model, _TWO)
    return _encoder(name or base.name, (model, processor), settings, record)


def _encoder(
    name: str,
    loaded: tuple[PreTrainedModel, BaseImageProcessor],
    settings: Settings,
    record: RunRecord | None,
    labels: tuple[str, ...] = (),
) -> Encoder:
    model, processor = loaded
    anatomy = _anatomy(model, settings, record)
    phase = make_plan(model, anatomy, settings.policy.policy, settings.training.num_train_epochs).phases[-1]
    model.eval()
    memory_format = choose_memory_format(settings.cache.memory_format)
    nn.Module.to(nn.Module.to(model, settings.training.device), memory_format=memory_format)
    pixels = Pixels(processor, exact=settings.cache.exact)
    return Encoder(name, model, pixels, anatomy, phase, settings.cache, settings.training, labels)


def _anatomy(model: PreTrainedModel, settings: Settings, record: RunRecord | None) -> Anatomy:
    if record is None or not record.anatomy:
        return resolve_anatomy(model, settings.model)
    anatomy = anatomy_from_dict(record.anatomy)
    check_anatomy(anatomy, model)
    return anatomy
