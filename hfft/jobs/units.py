"""A head that learns numbers learns them around 0 with deviation 1; here it gets their own units back."""

from __future__ import annotations

from collections.abc import Sequence

from hfft.data.preprocessing import collate
from hfft.models.head import class_axes, scale_head
from hfft.training.progress import Progress
from hfft.training.setup import Setup


def in_own_units(setup: Setup, progress: Progress) -> bool:
    """Scale a trained head, once, so that its outputs are the targets' own numbers.

    Args:
        setup: its model is changed in place.
        progress: notes that it was done.

    Returns:
        Whether the task asks for it.

    Raises:
        ModelError: the head cannot be scaled.
    """
    affine = setup.sets.task.affine
    if affine is None:
        return False
    if not progress.own_units:
        _scale(setup, *affine)
        progress.own_units = True
    return True


def in_standard_units(setup: Setup) -> None:
    """Scale a head that the base brought for the same targets, so that it begins where it was.

    Raises:
        ModelError: the head cannot be scaled.
    """
    affine, count = setup.sets.task.affine, len(setup.sets.labels)
    if affine is None or (setup.base.fresh and set(setup.base.fresh) & class_axes(setup.model, count).keys()):
        return
    _scale(setup, [1 / scale for scale in affine[0]], [-offset / scale for scale, offset in zip(*affine, strict=True)])


def _scale(setup: Setup, scale: Sequence[float], offset: Sequence[float]) -> None:
    pixels = setup.plain_pixels
    item = pixels(setup.sets.train.image(0, pixels.least))
    inputs = {name: tensor.to(setup.model.device) for name, tensor in collate([item, item]).items()}
    scale_head(setup.model, scale, offset, inputs)
