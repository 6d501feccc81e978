"""Compiling what trains: whole parts behind the boundary, and none that a replay reaches into."""

from __future__ import annotations

import pytest
import torch
from conftest import MODELS
from torch import nn

from hfft.models.forward import logits_of
from hfft.planning.freezing import freeze
from hfft.planning.plan import make_plan
from hfft.planning.registry import find_anatomy
from hfft.split.compiled import compilable, compiled
from hfft.split.cut import cut_phase
from hfft.split.halves import Suffix


@pytest.mark.parametrize("policy", ["head", "last_block", "norm"])
@pytest.mark.parametrize("name", ["resnet", "convnext"])
def test_a_compiled_suffix_gives_each_batch_its_own_logits(name: str, policy: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    anatomy = find_anatomy(model)
    phase = make_plan(model, anatomy, policy, epochs=1).phases[0]
    freeze(model, phase)
    batches = [{"pixel_values": torch.randn(4, 3, 32, 32)} for _ in range(2)]
    cut = cut_phase(model, anatomy, phase, batches[0], shortcut=False)
    assert cut.split is not None
    suffix, before = Suffix(anatomy, cut.split), [logits_of(model(**batch)) for batch in batches]
    names = compilable(model, suffix)
    assert names
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for each in names:
        assert not any(part == each or part.startswith(f"{each}.") for part in cut.split.prefix)
        assert any(parameter.startswith(f"{each}.") for parameter in trained)
    rows = [cut.split.capture(batch) for batch in batches]
    torch._dynamo.reset()
    with compiled(model, names, "aot_eager", None):
        for row, logits in zip(rows, before, strict=True):
            with suffix.inputs(model, row) as inputs:
                torch.testing.assert_close(logits_of(model(**inputs)), logits)
    assert all(module._compiled_call_impl is None for module in model.modules() if isinstance(module, nn.Module))
