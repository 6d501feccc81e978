"""What a phase does to the batches that its trainable part is fed, and whether it can."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from hfft.arguments import FinetuneArguments
from hfft.arguments.augmentation import FeatureStep, parse_frofa
from hfft.errors import ArgumentError
from hfft.plugin.contract import TokenLayout
from hfft.split.grid import Grid, grid_of
from hfft.split.halves import Prefix, Suffix
from hfft.tasks.contract import Task
from hfft.training.augmentation.flips import BOUND, flip, flip_difference
from hfft.training.augmentation.frofa import Draw, augment_features
from hfft.training.augmentation.mixing import Mixing
from hfft.training.augmentation.rows import PARTNERS, SEEDS, seeds_of


@dataclass(frozen=True)
class Wanted:
    """What is asked for.

    Args:
        frofa: changes of the values of each channel.
        mixing: of each image with another.
        flips: flip activations from left to right, one time in two.
    """

    frofa: tuple[FeatureStep, ...] = ()
    mixing: Mixing = field(default_factory=Mixing)
    flips: bool = False

    @classmethod
    def of(cls, training: FinetuneArguments) -> Wanted:
        """Read the flags."""
        return cls(parse_frofa(training.frofa), Mixing(training.mixup, training.cutmix), training.flip_maps)

    def __bool__(self) -> bool:
        return bool(self.frofa or self.mixing or self.flips)

    @property
    def flags(self) -> str:
        """Name what needs activations."""
        return "--flip_maps" if self.flips else "--frofa"


@dataclass(frozen=True)
class BoundaryAugmentation:
    """Augments the batches of one phase, at its boundary.

    Where activations are not cached, the frozen prefix computes them for each batch, so that both ways are the same to
    the bit; where the model cannot be cut, pixels are mixed.

    Args:
        wanted: what is asked for.
        task: what the labels mean.
        classes: how many labels there are.
        tokens: the anatomy's layout of tokens.
        seed: of the run.
        before: optimizer steps of the phases before.
        prefix: what computes activations of a batch of pixels; None where batches hold them, or nothing can.
    """

    wanted: Wanted
    task: Task
    classes: int
    tokens: TokenLayout | None
    seed: int
    before: int = 0
    prefix: Prefix | None = None

    def __call__(self, suffix: Suffix, batch: Mapping[str, Tensor], step: int) -> tuple[Suffix, dict[str, Tensor]]:
        """Augment a batch of `AugmentedRows`.

        Args:
            suffix: how the batch would reach the trainable part.
            batch: on the model's device.
            step: of the optimizer, in this phase.

        Returns:
            How the batch, augmented, reaches the trainable part, and the batch.
        """
        rest = dict(batch)
        labels, others, seeds = rest.pop("labels"), rest.pop(PARTNERS, None), rest.pop(SEEDS)
        values = {name: tensor.flatten(0, 1) for name, tensor in rest.items()}
        if self.prefix is not None:
            suffix = replace(suffix, split=self.prefix.split)
            values = {name: tensor.clone() for name, tensor in self.prefix.capture(values).items()}
        values = self._changed(values, seeds.flatten().tolist())
        if others is not None:
            values, labels = self._mixed(values, labels, others, seeds_of(self.seed, "mix", self.before + step)[0])
        formatted = {name: _formatted(tensor, suffix.memory_format) for name, tensor in values.items()}
        return suffix, {**formatted, "labels": labels}

    def _changed(self, values: dict[str, Tensor], seeds: list[int]) -> dict[str, Tensor]:
        """Flip and change each image by its own seed."""
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]

        def draw(count: int) -> Tensor:
            return torch.stack([torch.rand(count, generator=generator) for generator in generators])

        if self.wanted.flips:
            which = (draw(1)[:, 0] < 0.5).to(next(iter(values.values())).device)
            values = {name: flip(tensor, which, self.tokens) for name, tensor in values.items()}
        for name in sorted(values) if self.wanted.frofa else ():
            tensor = values[name]
            if tensor.is_floating_point() and tensor.ndim > 1:
                values[name] = self._features(tensor, draw)
        return values

    def _features(self, tensor: Tensor, draw: Draw) -> Tensor:
        grid = self.grid(tensor)
        if grid is None or not grid.channels_last:
            return augment_features(tensor, self.wanted.frofa, draw)
        return augment_features(tensor.movedim(-1, 1), self.wanted.frofa, draw).movedim(1, -1)

    def _mixed(
        self, values: dict[str, Tensor], labels: Tensor, others: Tensor, seed: int
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Mix each image with its partner, which is the next row."""
        pairs = {name: tensor.unflatten(0, (-1, 2)) for name, tensor in values.items()}
        grids = {name: self.grid(tensor) for name, tensor in values.items()}
        cut_on = next((grid for grid in grids.values() if grid is not None and grid.places > 1), None)
        mix = self.wanted.mixing.draw(seed, cut_on)
        mixed = {
            name: mix.values(pair[:, 0], pair[:, 1], cut_on if grids[name] == cut_on else None)
            for name, pair in pairs.items()
        }
        shares = [self.task.shares(each, self.classes) for each in (labels, others)]
        return mixed, mix.labels(*shares)

    def grid(self, tensor: Tensor) -> Grid | None:
        """Return how a tensor of a batch lies on the image."""
        return grid_of(tuple(tensor.shape[1:]), self.tokens)


def check_boundary(
    wanted: Wanted, cut: Prefix | str, inputs: dict[str, Tensor], name: str, tokens: TokenLayout | None
) -> str:
    """Make sure that a phase can be augmented as asked for.

    Args:
        wanted: what is asked for.
        cut: the frozen part of the phase, or why there is none.
        inputs: a few training images.
        name: of the phase.
        tokens: the anatomy's layout of tokens.

    Returns:
        A line for the user; empty where there is nothing to say.

    Raises:
        ArgumentError: it cannot.
    """
    prefix = cut if isinstance(cut, Prefix) else None
    if prefix is None and (wanted.flips or wanted.frofa):
        raise ArgumentError(
            f"{wanted.flags} changes what the frozen part gives, and phase {name} cannot be cut into a frozen and a "
            f"trained part ({cut}); leave it out, or choose another --policy"
        )
    shapes = [leaf.shape for leaf in prefix.split.leaves] if prefix else [t.shape[1:] for t in inputs.values()]
    grids = {
        (grid.rows, grid.columns) for shape in shapes if (grid := grid_of(tuple(shape), tokens)) and grid.places > 1
    }
    flag = "--cutmix" if wanted.mixing.cutmix else "--flip_maps" if wanted.flips else ""
    if flag and len(grids) != 1:
        fed = " and ".join(" x ".join(map(str, shape)) for shape in shapes)
        place = prefix.split.boundary if prefix else "the model"
        raise ArgumentError(
            f"{flag} needs activations that lie on the image as one grid; in phase {name}, {place} is fed {fed}: leave "
            "it out, or choose a --policy that trains a block"
        )
    return _check_flips(prefix, inputs, name, tokens) if wanted.flips and prefix else ""


def _check_flips(prefix: Prefix, inputs: dict[str, Tensor], name: str, tokens: TokenLayout | None) -> str:
    if not any(tensor.ndim == 4 and tensor.shape[1] in (1, 3) for tensor in inputs.values()):
        raise ArgumentError(
            "--flip_maps: the model reads no pixels that could be flipped to compare with; leave it out"
        )
    count = next(iter(inputs.values())).shape[0]
    found = flip_difference(prefix, inputs, tokens)
    said = (
        f"flipped activations at {prefix.split.boundary} differ from those of {count} flipped training images by "
        f"{found:.2f}"
    )
    if found > BOUND:
        raise ArgumentError(
            f"--flip_maps: {said} of their norm, more than {BOUND:g} (phase {name}); --augment flip flips the images"
        )
    return f"Flips of maps: {said} of their norm (at most {BOUND:g} is accepted)."


def _formatted(tensor: Tensor, memory_format: torch.memory_format) -> Tensor:
    return tensor.contiguous(memory_format=memory_format) if tensor.ndim == 4 else tensor.contiguous()
