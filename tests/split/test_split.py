"""A model cut at a boundary: what is kept, exactness, refusals, and nothing left behind."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hfft.models.forward import patched_forward
from hfft.planning.freezing import freeze
from hfft.planning.plan import Phase, make_plan
from hfft.plugin.contract import Anatomy
from hfft.split.proof import split_model
from hfft.split.split import SplitError


class Skip(nn.Module):
    """Blocks of which the last also reads the stem's output and a constant, and code between modules works in place."""

    def __init__(self, leak: bool = False, noise: bool = False) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.tensor([2.0]))
        self.table = Table()
        self.first = nn.Linear(4, 4)
        self.last = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)
        self.leak, self.noise = leak, noise

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        stem = self.stem(pixel_values)
        if self.leak:
            stem = stem + self.head.bias.sum()
        table = self.table()
        hidden = self.first(stem * self.scale)
        hidden += 1
        if self.noise and self.training:
            hidden = hidden + torch.rand_like(hidden)
        hidden = self.last(hidden) + stem + table
        return {"logits": self.head(hidden)}


class Table(nn.Module):
    """Gives the same for every image, as a table of position biases does."""

    def __init__(self) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.randn(1, 4))

    def forward(self) -> Tensor:
        return self.values * 3


ANATOMY = Anatomy(stem=("stem", "scale", "table"), blocks=(("first",), ("last",)), neck=(), head=("head",))


def build(policy: str = "last_block", leak: bool = False, noise: bool = False) -> tuple[Skip, Phase]:
    torch.manual_seed(0)
    model = Skip(leak, noise)
    phase = make_plan(model, ANATOMY, policy, 1).phases[0]
    freeze(model, phase)
    return model, phase


def test_keeps_what_the_suffix_reads_and_no_more() -> None:
    model, phase = build()
    split = split_model(model, phase, {"pixel_values": torch.randn(3, 4)})
    assert split.boundary == "last"
    assert split.prefix == ("stem", "table", "first")
    assert [(leaf.key, leaf.shape, leaf.bytes_per_image) for leaf in split.leaves] == [
        ("stem", (4,), 16),
        ("first", (4,), 16),
    ]


@pytest.mark.parametrize("policy", ["head", "last_block", "last_n:2"])
def test_replay_equals_the_full_forward_for_other_batches(policy: str) -> None:
    model, phase = build(policy)
    split = split_model(model, phase, {"pixel_values": torch.randn(3, 4)})
    images = torch.randn(7, 4)
    expected = model(pixel_values=images)["logits"]
    values = split.capture({"pixel_values": images})
    with split.replay({key: value.clone() for key, value in values.items()}) as inputs:
        assert inputs["pixel_values"].shape == images.shape
        assert torch.equal(model(**inputs)["logits"], expected)


def test_gradients_are_those_of_the_full_forward() -> None:
    model, phase = build()
    split = split_model(model, phase, {"pixel_values": torch.randn(3, 4)})
    images = torch.randn(5, 4)
    model(pixel_values=images)["logits"].square().sum().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    with torch.no_grad():
        values = split.capture({"pixel_values": images})
    with split.replay(values) as inputs:
        model(**inputs)["logits"].square().sum().backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys() == phase.trainable
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_capture_does_not_compute_the_suffix() -> None:
    model, phase = build()
    split = split_model(model, phase, {"pixel_values": torch.randn(3, 4)})
    calls: list[str] = []
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    split.capture({"pixel_values": torch.randn(2, 4)})
    assert calls == ["stem", "table", "first"]


@pytest.mark.parametrize(
    ("policy", "leak", "noise", "reason"),
    [
        ("full", False, False, "no frozen prefix"),
        ("last_block", True, False, "depends on trainable parameters"),
        ("head", False, True, "not deterministic"),
    ],
)
def test_refuses_what_is_not_exact(policy: str, leak: bool, noise: bool, reason: str) -> None:
    model, phase = build(policy, leak, noise)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(SplitError, match=reason):
        split_model(model, phase, {"pixel_values": torch.randn(3, 4)})
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_nothing_stays_patched_after_an_exception() -> None:
    model, phase = build()
    split = split_model(model, phase, {"pixel_values": torch.randn(3, 4)})
    values = split.capture({"pixel_values": torch.randn(2, 4)})
    with pytest.raises(RuntimeError, match="boom"), split.replay(values):
        raise RuntimeError("boom")
    with pytest.raises(RuntimeError):
        split.capture({"pixel_values": torch.randn(2, 5)})
    for module in model.modules():
        assert "forward" not in module.__dict__
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_patched_forward_gives_back_a_patch_that_was_there() -> None:
    module = nn.Linear(2, 2)
    object.__setattr__(module, "forward", lambda x: x)
    with patched_forward(module, lambda x: x + 1):
        assert module(1) == 2
    assert module(1) == 1


class Around(nn.Module):
    """Holds a parameter beside its modules, and keeps the rows of all images in one dimension."""

    def __init__(self, early: bool = False, mixed: bool = False) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.stem = nn.Linear(4, 4)
        self.block = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)
        self.early, self.mixed = early, mixed

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        if self.early:
            pixel_values = pixel_values * self.scale
        rows = pixel_values.transpose(0, 1) if self.mixed else pixel_values
        hidden = self.block(self.stem(rows.flatten(0, 1))) * self.scale
        hidden = hidden.view(*rows.shape)
        return {"logits": self.head(hidden.mean(0 if self.mixed else 1))}


def build_around(early: bool = False, mixed: bool = False) -> tuple[Around, Phase]:
    torch.manual_seed(0)
    model = Around(early, mixed)
    anatomy = Anatomy(stem=("stem",), blocks=(("block", "scale"),), neck=(), head=("head",))
    phase = make_plan(model, anatomy, "last_block", 1).phases[0]
    freeze(model, phase)
    return model, phase


def test_tells_apart_the_rows_of_images_that_share_a_dimension() -> None:
    model, phase = build_around()
    split = split_model(model, phase, {"pixel_values": torch.randn(2, 3, 4)})
    assert (split.boundary, split.prefix) == ("block", ("stem",))
    assert [leaf.shape for leaf in split.leaves] == [(3, 4)]
    images = torch.randn(5, 3, 4)
    captured = split.capture({"pixel_values": images})["stem"]
    with split.replay({"stem": captured[[4, 1]]}) as inputs:
        assert torch.equal(model(**inputs)["logits"], model(images[[4, 1]])["logits"])


@pytest.mark.parametrize(
    ("early", "mixed", "reason"),
    [(True, False, "depends on trainable parameters"), (False, True, "mixes the rows of its images")],
)
def test_refuses_a_parameter_read_early_and_rows_in_another_order(early: bool, mixed: bool, reason: str) -> None:
    model, phase = build_around(early, mixed)
    with pytest.raises(SplitError, match=reason):
        split_model(model, phase, {"pixel_values": torch.randn(2, 3, 4)})
