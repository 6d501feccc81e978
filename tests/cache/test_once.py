"""Every image passes the frozen prefix once, those of the test as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from runs import Folder, Job, equal, record, weights
from torch import Tensor

from hfft.data.preprocessing import PixelDataset
from hfft.split.halves import Prefix

TRAIN, VALIDATION, TEST = 18, 6, 12


@pytest.fixture
def tests(image_folder: Folder) -> Path:
    return image_folder("test", per_class=4, seed=5)


class Passed:
    """Counts the images that pass the prefix from its beginning, and those that the whole model is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.prefix = self.whole = 0
        capture, item = Prefix.capture, PixelDataset.__getitem__

        def watched_capture(prefix: Prefix, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
            if prefix.begun is None:
                self.prefix += next(iter(inputs.values())).shape[0]
            return capture(prefix, inputs)

        def watched_item(images: PixelDataset, row: int) -> dict[str, Any]:
            self.whole += 1
            return item(images, row)

        monkeypatch.setattr(Prefix, "capture", watched_capture)
        monkeypatch.setattr(PixelDataset, "__getitem__", watched_item)


@pytest.mark.parametrize("policy", ["last_block", "gradual"])
def test_probe_phases_and_evaluation_share_one_pass(
    job: Job, tests: Path, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    passed = Passed(monkeypatch)
    folder = job("vit", "run", "--policy", policy, "--num_train_epochs", 3, "--test_dir", tests)
    assert (passed.prefix, passed.whole) == (TRAIN + VALIDATION + TEST, 0)
    assert record(folder)["baselines"]["linear_probe"].keys() >= {"accuracy"}
    assert record(folder)["metrics"]["test"]["images"] == TEST


@pytest.mark.parametrize(("kind", "policy"), [("resnet", "lp_ft"), ("vit", "gradual"), ("resnet", "full")])
def test_the_test_has_the_bits_of_a_run_without_a_cache(job: Job, tests: Path, kind: str, policy: str) -> None:
    flags = ("--policy", policy, "--num_train_epochs", 3, "--test_dir", tests, "--ema_decay", 0.5)
    cached, uncached = job(kind, "cached", *flags), job(kind, "uncached", "--cache", "off", *flags)
    assert equal(weights(cached), weights(uncached))
    assert record(cached)["metrics"]["test"] == record(uncached)["metrics"]["test"]
    assert record(cached)["baselines"] == record(uncached)["baselines"]


@pytest.mark.parametrize(("baselines", "rows"), [("probe", (36, 24, 36)), ("none", (24, 24, 36))])
def test_phases_between_hold_no_test_images(
    job: Job, tests: Path, capsys: pytest.CaptureFixture[str], baselines: str, rows: tuple[int, ...]
) -> None:
    flags = ("--policy", "gradual", "--num_train_epochs", 3, "--test_dir", tests, "--baselines", baselines)
    job("vit", "run", *flags)
    said = capsys.readouterr().out
    assert [said.count(f"0 of {count} rows were there already") for count in sorted(set(rows))] == [
        rows.count(count) for count in sorted(set(rows))
    ]


@pytest.mark.usefixtures("installed")
def test_a_policy_that_freezes_again_reads_the_test_with_its_last_weights(job: Job, tests: Path) -> None:
    flags = ("--policy", "outside", "--test_dir", tests)
    cached, uncached = job("resnet", "cached", *flags), job("resnet", "uncached", "--cache", "off", *flags)
    assert record(cached)["metrics"]["test"] == record(uncached)["metrics"]["test"]
    assert all(torch.equal(tensor, weights(uncached)[name]) for name, tensor in weights(cached).items())
