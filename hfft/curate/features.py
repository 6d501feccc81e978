"""Pooled features of any part of a model, computed from the rows of the activation cache wherever it holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from hfft.bars import bar
from hfft.cache.prepare import (
    Fills,
    ImagesAndPixels,
    Prepared,
    choose_memory_format,
    describe,
    precision_of,
    prepare_phases,
    probe_inputs,
)
from hfft.curate.encoder import Encoder
from hfft.data.images import ImageSet
from hfft.data.preprocessing import collate, received
from hfft.errors import ArgumentError, ModelError
from hfft.explain.forward_pass import tallies
from hfft.explain.gradcam import feature_maps
from hfft.machine import Items, worker_processes
from hfft.models.features import head_modules
from hfft.models.forward import logits_of
from hfft.parsing import closest
from hfft.planning.freezing import freeze
from hfft.plugin.contract import TokenLayout
from hfft.split.cut import Cut, cut_phase
from hfft.split.halves import Prefix, Suffix
from hfft.training.baselines import pooled

HEAD_INPUT = "head input"
"""What features are called that the head reads."""
_BATCH = 64


@dataclass(frozen=True)
class Features:
    """What a model makes of the images of a set.

    Args:
        views: pooled features of each part that was asked for, shape (images, features) each, float32.
        logits: shape (images, labels), float32; they mean something where the model's head is trained.
    """

    views: tuple[NDArray[np.float32], ...]
    logits: NDArray[np.float32]

    @property
    def values(self) -> NDArray[np.float32]:
        """The features of the first part."""
        return self.views[0]


def read_features(
    encoder: Encoder, sets: Mapping[str, ImageSet], parts: Sequence[str | None], say: Callable[[str], None]
) -> dict[str, Features]:
    """Compute the features of sets of images; rows that the activation cache lacks are put into it.

    Args:
        encoder: the model.
        sets: the images, by the name of their split.
        parts: ``stem``, ``block 1`` and so on or ``neck``; None for what the head reads.
        say: prints a line for the user.

    Raises:
        ArgumentError: the model has no such part.
        DataError: an image cannot be read, or there are none.
        ModelError: the part gives out no tensor with a row for each image.
    """
    parts = [None if part is None else check_part(encoder, part) for part in parts]
    splits = {name: ImagesAndPixels(images, encoder.pixels) for name, images in sets.items() if len(images)}
    cut = _cut(encoder, next(iter(splits.values())), parts)
    cuts = [(encoder.phase, cut, splits)]
    (prepared,) = prepare_phases(
        encoder.model, encoder.anatomy, cuts, encoder.cache, encoder.training, Fills(on_fill=encoder.on_fill)
    )
    say(describe(prepared))
    found = {name: _read(encoder, prepared, name, parts) for name in splits}
    first = next(iter(found.values()))
    nothing = Features(tuple(view[:0] for view in first.views), first.logits[:0])
    return {name: found.get(name, nothing) for name in sets}


def boundary_part(encoder: Encoder) -> str | None:
    """Return the block whose output the cache holds: that before the first block with something to train.

    None where nothing is frozen before it, or the first part with something to train is not a block.
    """
    labels = [label for label, names in encoder.anatomy.parts() if names]
    trained = {encoder.anatomy.part_of(name) for name in encoder.phase.trainable}
    before, first = next(pair for pair in pairwise([None, *labels]) if pair[1] in trained)
    blocks = all(label is not None and label.startswith("block ") for label in (before, first))
    return before if blocks else None


def check_part(encoder: Encoder, part: str) -> str:
    """Return the name of a part that can be read.

    Raises:
        ArgumentError: the model has no such part.
    """
    known = [label for label, names in encoder.anatomy.parts() if names and label != "head"]
    wanted = " ".join(part.lower().replace("_", " ").split())
    if wanted not in known:
        raise ArgumentError(
            f"--block {part!r} is not a part of the model{closest(wanted, known)}; it has {', '.join(known)}"
        )
    return wanted


def _cut(encoder: Encoder, images: ImagesAndPixels, parts: Sequence[str | None]) -> Cut:
    """Cut the model where a training would, or not at all where a part lies before that."""
    freeze(encoder.model, encoder.phase)
    device, precision = encoder.training.device, precision_of(encoder.training)
    memory_format = choose_memory_format(encoder.cache.memory_format)
    probe = probe_inputs(images, device, memory_format)
    # With the shortcut the last block and what follows it give out the class token alone.
    late = {f"block {len(encoder.anatomy.blocks)}", "neck"}
    shortcut = encoder.cache.class_token_shortcut and late.isdisjoint(str(part) for part in parts)
    cut = cut_phase(encoder.model, encoder.anatomy, encoder.phase, probe, shortcut, precision)
    if cut.split is None:
        return cut
    prefix = Prefix(cut.split, encoder.anatomy, cut.class_token, device, precision, memory_format)
    suffix = Suffix(encoder.anatomy, cut.split, cut.class_token, memory_format)
    seen, _ = _forward(encoder, suffix, prefix.capture(probe), parts)
    missing = [part for part, value in zip(parts, seen, strict=True) if value is None or not value.isfinite().all()]
    if missing:  # what is not kept is a placeholder of NaN
        return replace(cut, split=None, uncached_reason=f"{missing[0]} lies before what is cached")
    return cut


def _read(encoder: Encoder, prepared: Prepared, name: str, parts: Sequence[str | None]) -> Features:
    """Run all images of a split, as activations or as pixels, through the model."""
    dataset: Dataset[Any] = prepared.datasets[name]
    rows: list[list[NDArray[np.float32]]] = [[] for _ in parts]
    logits = []
    workers = worker_processes(cast(Items, dataset)) if prepared.uncached_reason else 0
    loader = DataLoader(dataset, batch_size=_BATCH, collate_fn=collate, num_workers=workers)
    for batch in map(received, bar(loader, desc=f"Features, {name} images", unit="batch")):
        seen, scores = _forward(encoder, prepared.suffix, batch, parts)
        for part, kept, values in zip(parts, rows, seen, strict=True):
            if values is None or len(values) != len(scores):
                raise ModelError(f"{part or HEAD_INPUT} of {encoder.name} is not a tensor with a row for each image")
            kept.append(values.float().cpu().numpy())
        logits.append(scores.float().cpu().numpy())
    return Features(tuple(np.concatenate(kept) for kept in rows), np.concatenate(logits))


def _forward(
    encoder: Encoder, suffix: Suffix, batch: dict[str, Tensor], parts: Sequence[str | None]
) -> tuple[list[Tensor | None], Tensor]:
    """Return the pooled features of each part (batch, features), None where it was not called, and the logits."""
    wanted = [part for part in parts if part is not None]
    with (
        tallies(encoder.model, encoder.anatomy, keep=_copy, parts=wanted) as found,
        _head_inputs(encoder) as given,
        suffix.answering(encoder.model, batch, precision_of(encoder.training)) as inputs,
    ):
        logits = logits_of(encoder.model(**inputs))
    read = pooled(given[0]) if given else None
    tokens = encoder.anatomy.tokens
    return [read if part is None else _pooled_part(found[part].output, tokens) for part in parts], logits


def _copy(tensor: Tensor) -> Tensor:
    """Keep a tensor as it is: the next module may work in place."""
    return tensor.detach().clone()


@contextmanager
def _head_inputs(encoder: Encoder) -> Iterator[list[Tensor]]:
    """Within this context a list grows by what the head is given."""
    seen: list[Tensor] = []

    def given(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        seen.extend([value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)][:1])

    heads = head_modules(encoder.model, encoder.anatomy)
    handles = [head.register_forward_pre_hook(given, with_kwargs=True) for head in heads]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _pooled_part(output: Tensor | None, tokens: TokenLayout | None) -> Tensor | None:
    """Average a part's output over the image, without the tokens that are not patches; None where there is none."""
    if output is None:
        return None
    maps = [feature_maps(row[None], tokens) for row in output]
    if any(each is None for each in maps):
        return pooled(output)
    return torch.stack([each.mean(dim=(1, 2)) for each in maps if each is not None])
