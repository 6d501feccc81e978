"""A run and its exports, made once for all tests of a module."""

from __future__ import annotations

from pathlib import Path

import pytest
from finished import make_images, make_model, run_finetune


@pytest.fixture(scope="package")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("export") / "images")


@pytest.fixture(scope="package")
def trained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("trained")
    base = make_model(place / "base")
    return run_finetune(base, images, place / "run", num_train_epochs=6.0, learning_rate=5e-3).folder
