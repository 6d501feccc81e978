"""A pretrained head whose shape fits: its rows follow the classes' names, or it is drawn anew."""

from __future__ import annotations

import copy
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hfft.errors import ModelError
from hfft.models.forward import logits_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def fit_head(model: PreTrainedModel, known: Sequence[str], labels: Sequence[str], fresh: set[str]) -> tuple[str, ...]:
    """Make a head of the right shape one for `labels`.

    Args:
        model: loaded for `labels`; changed in place.
        known: the classes of the checkpoint's head, in its order.
        labels: the classes it is to have.
        fresh: parameters that were drawn anew already; grows by those that are drawn here.

    Returns:
        What was done, for people; nothing where the head fits as it is, or was drawn anew for its shape.
    """
    names = [unicodedata.normalize("NFC", name) for name in known]
    if len(names) != len(labels) or names == list(labels):
        return ()
    kept = {name: axis for name, axis in class_axes(model, len(labels)).items() if name not in fresh}
    if not kept:
        return ()
    if sorted(names) == sorted(labels):
        order = torch.tensor([names.index(label) for label in labels])
        with torch.no_grad():
            for name, axis in kept.items():
                parameter = model.get_parameter(name)
                parameter.copy_(parameter.index_select(axis, order))
        return ("The base's head knows the same classes in another order; its rows follow the names.",)
    for owner in dict.fromkeys(name.rpartition(".")[0] for name in kept):
        _draw_anew(model, owner)
    fresh.update(kept)
    few = ", ".join(known[:3]) + ", ..." * (len(known) > 3)
    return (f"The head is drawn anew: that of the base is for other classes ({few}).",)


def scale_head(
    model: PreTrainedModel, scale: Sequence[float], offset: Sequence[float], inputs: Mapping[str, Tensor]
) -> None:
    """Make a head give its outputs times `scale` plus `offset`, each of shape (outputs,).

    Args:
        model: changed in place.
        scale: of each output.
        offset: of each output.
        inputs: of the model, which its outputs before and after are compared on.

    Raises:
        ModelError: its head is not linear, so that no change of its weights does it.
    """
    factors = torch.tensor(scale, dtype=torch.float64)
    shifts = torch.tensor(offset, dtype=torch.float64)
    training = model.training
    model.eval()
    with torch.no_grad():
        wanted = logits_of(model(**inputs)).cpu().double() * factors + shifts
        for name, axis in class_axes(model, len(scale)).items():
            parameter = model.get_parameter(name)
            shape = [-1 if place == axis else 1 for place in range(parameter.ndim)]
            wide = parameter.cpu().double() * factors.view(shape)
            parameter.copy_(wide + shifts if parameter.ndim == 1 else wide)
        found = logits_of(model(**inputs)).cpu().double()
    model.train(training)
    if not torch.allclose(found, wanted, rtol=1e-3, atol=1e-3 * float(factors.abs().max())):
        raise ModelError(
            f"the head of {type(model).__name__} is not a linear layer with a bias, so its outputs cannot be scaled to "
            "the targets' numbers; choose another model for --task regression"
        )


def class_axes(model: PreTrainedModel, count: int) -> dict[str, int]:
    """Parameters with one row for each class, and which of their axes that is.

    A model of one more class than `count`, this one's, is made on the meta device, which takes no memory, and the
    shapes are compared.
    """
    config = copy.deepcopy(model.config)
    config.num_labels = count + 1
    with torch.device("meta"):
        wider = dict(type(model)(config).named_parameters())
    found = {}
    plain = ((name, parameter) for name, parameter in model.named_parameters() if name in wider)
    for name, parameter in plain:  # adapters, and what they stand beside, have no row for each class
        pairs = zip(parameter.shape, wider[name].shape, strict=True)
        axis = next((axis for axis, (here, there) in enumerate(pairs) if here != there), None)
        if axis is not None:
            found[name] = axis
    return found


def _draw_anew(model: PreTrainedModel, name: str) -> None:
    """Initialise a module as its model does where a checkpoint lacks it."""
    module = model.get_submodule(name)
    for parameter in module.parameters(recurse=False):
        vars(parameter)["_is_hf_initialized"] = False
    if callable(reset := getattr(module, "reset_parameters", None)):
        reset()  # what a model does not initialise itself keeps torch's own
    model._init_weights(module)
