"""The Space under load: many clients at once get the model's own answers, and the server's memory stays bounded."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from finished import make_images, make_model, run_finetune
from scripted import load_script

pytestmark = pytest.mark.processes

pytest.importorskip("gradio", reason="the extra 'space' is not installed")

SECONDS = 4.0
GROWTH = 300e6
"""Bytes that the server may grow by once the model is loaded."""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("load_space")


@pytest.mark.parametrize("clients", [8, pytest.param(32, marks=pytest.mark.slow)])
def test_clients_get_the_models_own_answers(script: ModuleType, tmp_path: Path, clients: int) -> None:
    images = make_images(tmp_path / "images")
    run_finetune(make_model(tmp_path / "base"), images, tmp_path / "outputs" / "run", learning_rate=0.05)
    known = script.answers_of(tmp_path / "outputs" / "run", sorted(images.rglob("*.png")))
    assert len({answer.top[0].label for _, answer in known}) > 1
    with script.served(tmp_path / "outputs") as (url, server):
        load = script.drive(url, server, known, clients, SECONDS, script.write_hostile(tmp_path))
    assert not load.wrong
    assert not load.errors
    assert len(load.answers) >= clients
    assert load.refused >= clients
    assert load.memory[-1][1] - load.memory[0][1] < GROWTH
    assert f"| right answers | {len(load.answers):,} |" in load.table(clients)
