"""Make a phase ready to train: decide what can be cached, fill it, and give the data sets to train on."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field, replace
from pathlib import Path

import timm
import torch
import torchvision
import transformers
from torch import Tensor
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
from hfft.exactness import SplitError
from hfft.freezing import digest, frozen_tensors
from hfft.images import ImageSet
from hfft.pixels import PixelDataset, Pixels, collate
from hfft.plugin import Anatomy
from hfft.policies import Phase
from hfft.recording import Recording, record
from hfft.split import Split, split_model
from hfft.trainer import Suffix

PROBE_IMAGES = 2


@dataclass(frozen=True)
class ImagesAndPixels:
    """A set of images with its preprocessing and the count of augmented views."""

    images: ImageSet
    pixels: Pixels
    views: int = 1


@dataclass(frozen=True)
class Cut:
    """Where a phase's frozen prefix ends, and how its last block is computed.

    Args:
        split: the model with its boundary; None where it cannot be cut.
        uncached_because: why not; empty where it can.
        class_token: compute the class token alone in the last block.
        shortcut_refused_because: why not; empty where it is.
        recording: of a plain forward, for the shapes of all outputs.
    """

    split: Split | None
    uncached_because: str
    class_token: bool
    shortcut_refused_because: str
    recording: Recording


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
    """

    suffix: Suffix
    datasets: dict[str, Dataset[dict[str, Tensor]]]
    placement: Placement | None = None
    bytes: int = 0
    reports: dict[str, FillReport] = field(default_factory=dict)
    uncached_because: str = ""


def cut_phase(
    model: PreTrainedModel,
    anatomy: Anatomy,
    phase: Phase,
    inputs: dict[str, Tensor],
    shortcut: bool = True,
    autocast: torch.dtype | None = None,
) -> Cut:
    """Find out how a phase can be computed, on a few real images.

    Args:
        model: frozen as `phase` says.
        anatomy: its parts.
        phase: what is trained.
        inputs: at least two images, on the model's device.
        shortcut: whether the class-token shortcut is wanted.
        autocast: number format of mixed precision, or None.

    Raises:
        ModelError: the model does not take these inputs.
    """
    device = next(iter(inputs.values())).device
    model.eval()
    with torch.autocast(device.type, autocast, enabled=autocast is not None):
        plain = record_or_refuse(model, inputs)
        refused, used = class_token.try_shortcut(model, anatomy, inputs, plain) if shortcut else ("switched off", plain)
        try:
            with class_token.class_token_only(model, anatomy, not refused):
                return Cut(split_model(model, phase, inputs, used), "", not refused, refused, plain)
        except SplitError as reason:
            return Cut(None, str(reason), not refused, refused, plain)


def prepare_phase(
    model: PreTrainedModel,
    plan: tuple[Anatomy, Phase],
    cut: Cut,
    splits: dict[str, ImagesAndPixels],
    cache: CacheArguments,
    training: FinetuneArguments,
) -> Prepared:
    """Decide between cached and uncached training for a frozen model, and fill the cache.

    Args:
        model: frozen as the phase says, on the device and in the memory format that it trains in.
        plan: the model's parts and the phase.
        cut: what `cut_phase` found.
        splits: ``train`` and ``validation``.
        cache: the user's wishes.
        training: device, precision and processes.

    Raises:
        DataError: an image cannot be read.
        OutputError: the place asked for has no room.
    """
    anatomy, phase = plan
    prepared = Prepared(
        Suffix(anatomy, None, cut.class_token, choose_memory_format(cache.memory_format)),
        {name: PixelDataset(part.images, part.pixels, part.views) for name, part in splits.items()},
        uncached_because=cut.uncached_because,
    )
    if cache.cache == "off":
        prepared.uncached_because = "switched off"
    elif training.torch_compile:
        prepared.uncached_because = "torch_compile needs whole forwards"
    elif cut.split is not None:
        prefix = Prefix(
            cut.split, anatomy, cut.class_token, training.device, precision_of(training), prepared.suffix.memory_format
        )
        entries = _entries(prefix, digest(frozen_tensors(model, phase)), splits, cache.cache_dtype)
        _cache_activations(prepared, prefix, entries, splits, (cache, training))
    return prepared


def precision_of(training: FinetuneArguments) -> torch.dtype | None:
    """Return the number format of mixed precision, or None for the model's own."""
    return torch.bfloat16 if training.bf16 else torch.float16 if training.fp16 else None


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


def record_or_refuse(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Recording:
    """Record one forward.

    Raises:
        ModelError: the model does not take these inputs, for example at this image size.
    """
    try:
        return record(model, inputs)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in inputs.items())
        reason = " ".join(str(error).split())
        raise ModelError(
            f"{type(model).__name__} does not take {shapes}: {reason}. "
            "Leave out --image_size, or choose one that it takes"
        ) from error


def _cache_activations(
    prepared: Prepared,
    prefix: Prefix,
    entries: dict[str, ActivationCache],
    splits: dict[str, ImagesAndPixels],
    wishes: tuple[CacheArguments, FinetuneArguments],
) -> None:
    cache, training = wishes
    directory = Path(cache.cache_dir) if cache.cache_dir else default_cache_dir()
    for entry in entries.values():
        entry.placement = Placement(directory, in_memory=False)
    total = sum(entry.bytes for entry in entries.values())
    missing = total - sum(entry.bytes_on_disk() for entry in entries.values())
    limit = None if cache.cache_max_gb is None else int(cache.cache_max_gb * 1e9)
    placement = choose_placement(cache.cache, (total, missing), directory, limit, training.world_size)
    if isinstance(placement, str):
        prepared.uncached_because = placement
        return
    for name, entry in entries.items():
        entry.placement = placement
        prepared.reports[name] = _fill(entry, prefix, splits[name], training)
        prepared.datasets[name] = CachedDataset(entry, splits[name].images, splits[name].views)
    prepared.suffix = replace(prepared.suffix, split=prefix.split)
    prepared.placement = placement
    prepared.bytes = total


def _entries(
    prefix: Prefix, weights: str, splits: dict[str, ImagesAndPixels], cache_dtype: str
) -> dict[str, ActivationCache]:
    rows = make_rows(prefix.split.leaves, cache_dtype, prefix.memory_format == torch.channels_last)
    entries = {}
    for name, part in splits.items():
        key = CacheKey(
            prefix=weights,
            boundary=prefix.split.boundary,
            pixels=part.pixels.fingerprint(),
            data=part.images.fingerprint(),
            views=part.views,
            dtype=cache_dtype,
            precision=f"{prefix.autocast}{', class token alone' if prefix.class_token else ''}",
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
        report.computed = _total(report.computed)
    if not _load_all(entry):
        raise OutputError(
            f"shards of the activation cache at {entry.folder} went missing while it was filled; run again"
        )
    return report


def _total(count: int) -> int:
    """Add up a count over all processes."""
    counts = [0] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(counts, count)
    return sum(counts)


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
