"""Gradients of batch norms arrive in the memory format of the model, and are the same numbers."""

import pytest
import torch
from torch import Tensor, nn

from hfft.training.gradient_format import channels_last_gradients


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU6(inplace=True)),
        *(nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.ReLU6(inplace=True)),
    )
    return nn.Sequential(*layers).double()


def gradients(model: nn.Sequential, memory_format: torch.memory_format) -> tuple[list[Tensor], list[bool]]:
    """Return the parameters' gradients of a batch, and whether those at batch norms came in channels_last alone."""
    arrived: list[bool] = []

    def note(module: nn.Module, inputs: object, output: Tensor) -> None:
        output.register_hook(lambda gradient: arrived.append(in_channels_last_alone(gradient)))

    model.to(memory_format=memory_format)
    handles = [module.register_forward_hook(note) for module in model if isinstance(module, nn.BatchNorm2d)]
    images = torch.rand(4, 3, 9, 9, generator=torch.Generator().manual_seed(1), dtype=torch.double).to(
        memory_format=memory_format
    )
    model(images).mean((2, 3)).square().sum().backward()
    for handle in handles:
        handle.remove()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None], arrived


def in_channels_last_alone(tensor: Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def test_they_arrive_in_channels_last_and_are_the_same_numbers() -> None:
    plain, before = gradients(network(), torch.channels_last)
    assert not all(before)  # what pooling hands back; where PyTorch has mended it, this module can go
    model = network()
    with channels_last_gradients(model):
        kept, after = gradients(model, torch.channels_last)
    assert after == [True, True]
    for one, other in zip(kept, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_nothing_changes_in_the_contiguous_format_or_afterwards() -> None:
    plain, _ = gradients(network(), torch.contiguous_format)
    model = network()
    with channels_last_gradients(model):
        kept, after = gradients(model, torch.contiguous_format)
    assert not any(after)
    assert all(torch.equal(one, other) for one, other in zip(kept, plain, strict=True))
    model = network()
    with channels_last_gradients(model):
        pass
    assert not any(module._forward_hooks for module in model)


@pytest.mark.parametrize("frozen", [0, 1])
def test_frozen_norms_are_left_alone(frozen: int) -> None:
    model = network()
    norms = [module for module in model if isinstance(module, nn.BatchNorm2d)]
    norms[frozen].requires_grad_(False)
    with channels_last_gradients(model):
        assert [bool(norm._forward_hooks) for norm in norms] == [frozen != 0, frozen != 1]
