"""A Phase applied to a model: requires_grad, eval mode that holds, and the proof that nothing moved."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from hfft.planning.plan import Phase


def freeze(model: nn.Module, phase: Phase) -> None:
    """Make exactly the phase's parameters trainable and hold its frozen modules in eval mode.

    The hold outlives every later ``model.train()``: ``requires_grad=False`` alone would leave batch-norm
    statistics moving and dropout dropping. `unfreeze` undoes it.

    A model that is in the mode already is not walked through again, as a Trainer asks for at every step.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in phase.trainable)
    modules = [(module, name not in phase.eval_modules) for name, module in model.named_modules()]
    class_train = type(model).train

    def train(mode: bool = True) -> nn.Module:
        if any(module.training is not (mode and learning) for module, learning in modules):
            class_train(model, mode)
            for module, learning in modules:
                if not learning:
                    module.training = False
        return model

    # An instance attribute, since nn.Module.__setattr__ must not see a bound method of a submodule here.
    object.__setattr__(model, "train", train)
    model.train(model.training)


def unfreeze(model: nn.Module) -> None:
    """Undo `freeze`: every parameter trainable, every module free to follow ``model.train()``."""
    model.__dict__.pop("train", None)
    model.requires_grad_(True)


def frozen_tensors(model: nn.Module, phase: Phase) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every parameter that is not trainable and every buffer of a module held in eval mode."""
    for name, parameter in model.named_parameters():
        if name not in phase.trainable:
            yield name, parameter
    for name, buffer in model.named_buffers():
        if name.rpartition(".")[0] in phase.eval_modules:
            yield name, buffer
