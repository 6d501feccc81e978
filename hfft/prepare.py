"""Make a phase ready to train: decide what can be cached, fill it, and give the data sets to train on."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from pathlib import Path

import timm
import torch
import torchvision
import transformers
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from hfft import class_token
from hfft.activations import CachedDataset, FillReport, Prefix, fill, to_device
from hfft.arguments import CacheArguments, FinetuneArguments
from hfft.cache import (
    ActivationCache,
    CacheKey,
    Placement,
    choose_placement,
    default_cache_dir,
    gigabytes,
    make_rows,
)
from hfft.errors import ModelError, OutputError
from hfft.freezing import digest, frozen_tensors
from hfft.images import ImageSet
from hfft.pixels import PixelDataset, Pixels, collate
from hfft.plugin import Anatomy
from hfft.policies import Phase
from hfft.split import SplitError, split_model
from hfft.trainer import Suffix

PROBE_IMAGES = 4


@dataclass(frozen=True)
class ImagesAndPixels:
    """A set of images with its preprocessing and the count of augmented views."""

    images: ImageSet
    pixels: Pixels
    views: int = 1


@dataclass
class Prepared:
    """A phase ready to train.

    Args:
        suffix: how a batch reaches the trainable part.
        datasets: by split, what batches come from: activations or pixels.
        placement: where activations live; None where they are not cached.
        bytes: of activations, over all cached splits.
        reports: by split, what filling did.
        uncached_because: why activations are not cached; empty where they are.
        shortcut_refused_because: why the class-token shortcut does not apply; empty where it does.
    """

    suffix: Suffix
    datasets: dict[str, Dataset[dict[str, Tensor]]]
    placement: Placement | None = None
    bytes: int = 0
    reports: dict[str, FillReport] = field(default_factory=dict)
    uncached_because: str = ""
    shortcut_refused_because: str = ""


def prepare_phase(
    model: PreTrainedModel,
    anatomy: Anatomy,
    phase: Phase,
    splits: dict[str, ImagesAndPixels],
    cache: CacheArguments,
    training: FinetuneArguments,
) -> Prepared:
    """Decide between cached and uncached training for a frozen model, and fill the cache.

    Args:
        model: frozen as `phase` says, on the device it trains on.
        anatomy: its parts.
        phase: what is trained.
        splits: ``train`` and ``validation``.
        cache: the user's wishes.
        training: device, precision and processes.

    Raises:
        DataError: an image cannot be read.
        ModelError: the model does not take these images.
        OutputError: the place asked for has no room.
    """
    memory_format = choose_memory_format(cache.memory_format)
    nn.Module.to(model, memory_format=memory_format)
    probe = probe_inputs(splits["train"], training.device, memory_format)
    check_forward(model, probe)
    refused = class_token.refusal(model, anatomy, probe) if cache.class_token_shortcut else "switched off"
    plain = Suffix(anatomy, None, not refused, memory_format)
    prepared = Prepared(
        plain,
        {name: PixelDataset(part.images, part.pixels, part.views) for name, part in splits.items()},
        shortcut_refused_because=refused,
    )
    if cache.cache == "off":
        prepared.uncached_because = "switched off"
    elif training.torch_compile:
        prepared.uncached_because = "torch_compile needs whole forwards"
    else:
        _cache_activations(prepared, model, phase, splits, (cache, training), probe)
    return prepared


def choose_memory_format(wish: str) -> torch.memory_format:
    """Return the memory format of convolutions.

    channels_last is the faster one for whole networks and for the retrained stage alike, on CPUs and on
    GPUs with tensor cores (``scripts/bench_cache.py --memory_format`` measures it).
    """
    return torch.contiguous_format if wish == "contiguous" else torch.channels_last


def probe_inputs(part: ImagesAndPixels, device: torch.device, memory_format: torch.memory_format) -> dict[str, Tensor]:
    """Return the first images of a set as a batch of model inputs."""
    rows = range(min(PROBE_IMAGES, len(part.images)))
    items = [part.pixels(part.images.image(row), row=row, view=0) for row in rows]
    if len(items) == 1:
        items *= 2
    return {name: to_device(tensor, device, memory_format) for name, tensor in collate(items).items()}


def check_forward(model: PreTrainedModel, inputs: dict[str, Tensor]) -> None:
    """Run one forward.

    Raises:
        ModelError: the model does not take these inputs, for example at this image size.
    """
    try:
        with torch.no_grad():
            model(**inputs)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in inputs.items())
        reason = " ".join(str(error).split())
        raise ModelError(
            f"{type(model).__name__} does not take {shapes}: {reason}. "
            "Leave out --image_size, or choose one that it takes"
        ) from error


def _cache_activations(
    prepared: Prepared,
    model: PreTrainedModel,
    phase: Phase,
    splits: dict[str, ImagesAndPixels],
    wishes: tuple[CacheArguments, FinetuneArguments],
    probe: dict[str, Tensor],
) -> None:
    cache, training = wishes
    autocast = torch.bfloat16 if training.bf16 else torch.float16 if training.fp16 else None
    try:
        with torch.autocast(training.device.type, autocast, enabled=autocast is not None):
            split = split_model(model, phase, probe)
    except SplitError as reason:
        prepared.uncached_because = str(reason)
        return
    prefix = Prefix(split, training.device, autocast, prepared.suffix.memory_format)
    directory = Path(cache.cache_dir) if cache.cache_dir else default_cache_dir()
    entries = _entries(prefix, model, phase, splits, cache)
    for entry in entries.values():
        entry.placement = Placement(directory, in_memory=False)
    needed = sum(entry.bytes - entry.bytes_on_disk() for entry in entries.values())
    limit = None if cache.cache_max_gb is None else int(cache.cache_max_gb * 1e9)
    total = sum(entry.bytes for entry in entries.values())
    placement = choose_placement(cache.cache, (total, needed), directory, limit, training.world_size)
    if isinstance(placement, str):
        prepared.uncached_because = placement
        return
    for name, entry in entries.items():
        entry.placement = placement
        prepared.reports[name] = _fill(entry, prefix, splits[name], training)
        prepared.datasets[name] = CachedDataset(entry, splits[name].images, splits[name].views)
    prepared.suffix = Suffix(prepared.suffix.anatomy, split, prepared.suffix.class_token, prefix.memory_format)
    prepared.placement = placement
    prepared.bytes = total


def _entries(
    prefix: Prefix, model: PreTrainedModel, phase: Phase, splits: dict[str, ImagesAndPixels], cache: CacheArguments
) -> dict[str, ActivationCache]:
    rows = make_rows(prefix.split.leaves, cache.cache_dtype, prefix.memory_format == torch.channels_last)
    weights = digest(frozen_tensors(model, phase))
    entries = {}
    for name, part in splits.items():
        key = CacheKey(
            prefix=weights,
            boundary=prefix.split.boundary,
            pixels=part.pixels.fingerprint(),
            data=part.images.fingerprint(),
            views=part.views,
            dtype=cache.cache_dtype,
            precision=str(prefix.autocast),
            memory_format=str(prefix.memory_format),
            software=software(prefix.device),
        )
        entries[name] = ActivationCache(key, rows, len(part.images) * part.views, Placement(None, in_memory=True))
    return entries


def software(device: torch.device) -> str:
    """Name what computes activations, down to what may change their last bit."""
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, timm {timm.__version__}"
    return f"{versions}, torchvision {torchvision.__version__}, {device.type} {chip}"


def _fill(entry: ActivationCache, prefix: Prefix, part: ImagesAndPixels, training: FinetuneArguments) -> FillReport:
    """Fill one entry, all processes together.

    Where machines do not share the folder, the shards of the others are still missing after the first
    round; then the processes of each machine fill them for themselves.
    """
    report = fill(entry, prefix, part.images, part.pixels, (training.process_index, training.world_size))
    if training.world_size > 1:
        torch.distributed.barrier()
        if not _load_all(entry):
            local = (training.local_process_index, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
            again = fill(entry, prefix, part.images, part.pixels, local)
            report.computed += again.computed
            report.prefix_seconds += again.prefix_seconds
            report.wait_seconds += again.wait_seconds
        torch.distributed.barrier()
    if not _load_all(entry):
        raise OutputError(
            f"shards of the activation cache at {entry.folder} went missing while it was filled; run again"
        )
    return report


def _load_all(entry: ActivationCache) -> bool:
    loaded = [entry.load(shard, verify=False) for shard in range(entry.shard_count())]
    return all(loaded)


def describe(prepared: Prepared) -> str:
    """Say in one or two lines what is cached and why not."""
    if prepared.uncached_because:
        lines = [f"Activation cache: off, {prepared.uncached_because}."]
    else:
        computed = sum(report.computed for report in prepared.reports.values())
        rows = sum(report.rows for report in prepared.reports.values())
        assert prepared.placement is not None
        memory, disk = prepared.placement.in_memory, prepared.placement.directory is not None
        place = "in memory and on disk" if memory and disk else "in memory" if memory else "on disk"
        lines = [
            f"Activation cache: {gigabytes(prepared.bytes)} {place}; "
            f"{rows - computed} of {rows} rows were there already."
        ]
        damaged = [file for report in prepared.reports.values() for file in report.damaged]
        lines += [f"Damaged shard computed again: {file}" for file in damaged]
    return "\n".join(lines)
