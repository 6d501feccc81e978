"""A finished run whose activations lie in a cache of its own, and its images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from finished import make_images, make_model

from hfft.arguments import DataArguments, FinetuneArguments, ModelArguments, PolicyArguments
from hfft.jobs.finetune import finetune
from hfft.training.setup import Settings


@dataclass(frozen=True)
class Finished:
    """Folders of a run: its images, its base and its output."""

    images: Path
    base: Path
    output: Path


def train(images: Path, base: Path, output: Path, said: list[str]) -> None:
    """Fine-tune for two epochs with a cache beside the output."""
    settings = Settings(
        ModelArguments(model_name_or_path=str(base)),
        DataArguments(train_dir=str(images)),
        PolicyArguments(),
        training=FinetuneArguments(
            output_dir=str(output),
            num_train_epochs=2.0,
            learning_rate=1e-2,
            per_device_train_batch_size=6,
            use_cpu=True,
            disable_tqdm=True,
            report_to="none",
            baselines="none",
            figures=False,
        ),
    )
    settings.cache.cache, settings.cache.cache_dir = "disk", str(output.parent / "cache")
    finetune(settings, said.append)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("curate")
    found = Finished(make_images(folder / "photos"), make_model(folder / "base"), folder / "run")
    train(found.images, found.base, found.output, [])
    return found
