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


class Gate(nn.Module):
    """Features, and for each image whether it is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        return self.convolution(pixel_values), pixel_values.mean((1, 2, 3)) > 0.5


class Rare(nn.Module):
    """Reads its skip only where an image is bright, or only where none is."""

    def __init__(self, dark: bool = False) -> None:
        super().__init__()
        self.skip = nn.Conv2d(3, 4, 3)
        self.gate = Gate()
        self.head = nn.Linear(4, 3)
        self.dark = dark

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        skip = self.skip(pixel_values)
        hidden, bright = self.gate(pixel_values)
        hidden = hidden.mean((2, 3))
        if not bright.any() if self.dark else bright.any():
            hidden = hidden + skip.mean((2, 3))
        return {"logits": self.head(hidden)}


class Mean(nn.Module):
    """Gives the batch's mean, of no image, beside its features, or takes it off each of them."""

    def __init__(self, apart: bool, read: bool) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.apart, self.read = apart, read

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.convolution(pixel_values)
        mean = hidden.mean((0, 2, 3))
        return (hidden if self.apart or not self.read else hidden - mean[:, None, None]), mean


class Batch(nn.Module):
    def __init__(self, apart: bool, read: bool) -> None:
        super().__init__()
        self.mean = Mean(apart, read)
        self.head = nn.Linear(4, 3)
        self.apart, self.read = apart, read

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        hidden, mean = self.mean(pixel_values)
        hidden = hidden.mean((2, 3))
        return {"logits": self.head(hidden + mean if self.apart and self.read else hidden)}


def head_alone(model: nn.Module) -> Phase:
    trainable = frozenset(name for name, _ in model.named_parameters() if name.startswith("head"))
    frozen = frozenset(name for name, _ in model.named_modules() if name and name != "head")
    phase = Phase("head", trainable, frozen, {}, 1.0)
    freeze(model, phase)
    return phase


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("offset", [0.0, 0.7])
def test_keeps_what_is_read_for_other_images_than_those_at_hand(dark: bool, offset: float) -> None:
    torch.manual_seed(0)
    model = Rare(dark).eval()
    split = split_model(model, head_alone(model), {"pixel_values": torch.rand(2, 3, 8, 8) * 0.3 + offset})
    assert "skip" in [leaf.key for leaf in split.leaves]
    images = torch.rand(4, 3, 8, 8) * 0.3 + torch.tensor([0.0, 0.6, 0.0, 0.6])[:, None, None, None]
    for batch in (images, images[::2], images[1::2]):
        values = split.capture({"pixel_values": batch})
        with torch.no_grad(), split.replay(values) as inputs:
            assert torch.equal(model(**inputs)["logits"], model(batch)["logits"])


@pytest.mark.parametrize(
    ("apart", "reason"), [(True, "depends on the images"), (False, "mixes the rows of its images")]
)
def test_refuses_what_depends_on_the_batch(apart: bool, reason: str) -> None:
    torch.manual_seed(0)
    model = Batch(apart, read=True).eval()
    with pytest.raises(SplitError, match=reason):
        split_model(model, head_alone(model), {"pixel_values": torch.rand(2, 3, 8, 8)})


def test_a_batch_mean_that_nobody_reads_is_no_harm() -> None:
    torch.manual_seed(0)
    model = Batch(apart=True, read=False).eval()
    split = split_model(model, head_alone(model), {"pixel_values": torch.rand(2, 3, 8, 8)})
    assert [leaf.key for leaf in split.leaves] == ["mean"]


def test_placeholders_are_loud_in_training_and_cost_no_memory() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    wrapped = Whole(model)
    phase = Phase("head", frozenset({"model.3.weight", "model.3.bias"}), frozenset({"model.0"}), {}, 1.0)
    freeze(wrapped, phase)
    split = split_model(wrapped, phase, {"pixel_values": torch.rand(2, 3, 8, 8)})
    values = split.capture({"pixel_values": torch.rand(5, 3, 8, 8)})
    with split.replay(values) as inputs:
        assert inputs["pixel_values"].isnan().all()
        assert inputs["pixel_values"].untyped_storage().nbytes() == 4
        assert wrapped.model[0](inputs["pixel_values"]).isnan().all()


class Whole(nn.Module):
    def __init__(self, model: nn.Sequential) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        return {"logits": self.model(pixel_values)}


def test_placeholders_that_are_written_to_have_memory_of_their_own() -> None:
    """Code between modules adds 1 in place to what the first block gave, which nothing that is computed reads."""
    model, phase = build("head")
    split = split_model(model, phase, {"pixel_values": torch.randn(3, 4)})
    assert [leaf.key for leaf in split.leaves] == ["stem", "last"]
    pixels = torch.randn(6, 4)
    whole, values = model(pixels)["logits"], split.capture({"pixel_values": pixels})
    with torch.no_grad(), split.replay(values) as inputs:
        placeholder = model.first(inputs["pixel_values"])
        assert placeholder.isnan().all()
        assert placeholder.untyped_storage().nbytes() == 6 * 4 * 4
        assert torch.equal(model(**inputs)["logits"], whole)
    for slot in split.slots():
        slot.written = False
    with torch.no_grad(), split.replay(values) as inputs, pytest.raises(RuntimeError, match="single memory location"):
        model(**inputs)
