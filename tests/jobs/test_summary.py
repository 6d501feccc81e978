"""The lines that a run ends with."""

from __future__ import annotations

import pytest
from runs import Job

from hfft.jobs import results

OFFER = "--bf16 true trains in"


@pytest.mark.parametrize(
    ("hardware", "flags", "offered"),
    [(True, (), True), (False, (), False), (True, ("--bf16", "true"), False), (True, ("--exact", "true"), False)],
)
def test_a_long_training_is_offered_bf16_where_the_cpu_has_it(
    hardware: bool,
    flags: tuple[str, ...],
    offered: bool,
    job: Job,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(results, "native_bf16", lambda: hardware)
    job("vit", "short", *flags)
    assert OFFER not in capsys.readouterr().out
    monkeypatch.setattr(results, "_LONG_TRAINING", 0.0)
    job("vit", "long", *flags)
    assert (OFFER in capsys.readouterr().out) is offered
