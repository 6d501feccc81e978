"""What a cell of a part's output sees of the picture: where its value comes from, by gradient.

The theoretical field of a deep block is most often the whole picture, and says little: attention and squeeze-and-
excitation look everywhere. What counts is where most of the influence lies, the effective receptive field (Luo, Li,
Urtasun and Zemel, "Understanding the effective receptive field in deep convolutional neural networks", NeurIPS 2016).
"""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from hfft.explain.forward_pass import tallies
from hfft.explain.gradcam import feature_maps
from hfft.explain.pipeline import anatomy_of, image_input, model_inputs
from hfft.inference.classifier import Classifier

SHARE = 0.9
"""Of the gradient of a cell that lies within what it is said to see."""


def receptive_fields(classifier: Classifier, image: Image.Image) -> dict[str, float]:
    """Return, by part, the side of the square around the middle cell that holds `SHARE` of its gradient.

    Args:
        classifier: the model.
        image: that the gradient is taken at, in any mode.

    Returns:
        Sides in shares of the picture's, up to 2, which holds all of it wherever the cell lies; parts whose output does
        not lie on the picture are left out, and so are all where the input is not a picture.

    Raises:
        HfftError: the model's anatomy is not known.
    """
    anatomy, inputs = anatomy_of(classifier), model_inputs(classifier, image)
    name = image_input(inputs)
    if name is None:
        return {}
    pixels = inputs[name].detach().clone().to(classifier.model.device).requires_grad_()
    others = {key: value.to(pixels.device) for key, value in inputs.items()}
    with torch.enable_grad(), tallies(classifier.model, anatomy, keep=lambda output: output) as parts:
        classifier.model(**{**others, name: pixels})
    maps = {
        part: feature_maps(tally.output, anatomy.tokens) for part, tally in parts.items() if tally.output is not None
    }
    return {
        part: _side(found, pixels)
        for part, found in maps.items()
        if found is not None and min(found.shape[1:]) >= 2 and found.requires_grad
    }


def _side(maps: Tensor, pixels: Tensor) -> float:
    """Return the side of the square that holds the gradient of the middle cell of maps (channels, rows, columns)."""
    rows, columns = maps.shape[1:]
    row, column = rows // 2, columns // 2
    (gradient,) = torch.autograd.grad(maps[:, row, column].abs().sum(), pixels, retain_graph=True)
    weights = gradient[0].abs().sum(0)
    height, width = weights.shape
    down = (torch.arange(height, device=weights.device) + 0.5) / height - (row + 0.5) / rows
    across = (torch.arange(width, device=weights.device) + 0.5) / width - (column + 0.5) / columns
    away, order = torch.maximum(down.abs()[:, None], across.abs()[None, :]).flatten().sort()
    within = weights.flatten()[order].cumsum(0)
    if not within[-1] > 0:
        return 0.0
    return 2 * float(away[torch.searchsorted(within, SHARE * within[-1]).clamp_max(len(away) - 1)])
