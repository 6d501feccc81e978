"""How much a run trains where that is left to its images."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from runs import Job, record

from hfft.arguments import FinetuneArguments
from hfft.arguments.training import Epochs
from hfft.errors import ArgumentError
from hfft.training.recipe.amount import describe_amount, settle_amount


def auto(**given: Any) -> FinetuneArguments:
    return FinetuneArguments(use_cpu=True, report_to="none", **given)


@pytest.mark.parametrize(
    ("images", "batch", "epochs"),
    [(9, 8, 40), (50, 8, 23), (173, 21, 18), (800, 32, 7), (1000, 32, 5), (100_000, 32, 5)],
)
def test_small_sets_get_more_passes_in_smaller_batches(images: int, batch: int, epochs: int) -> None:
    settled = settle_amount(auto(), images)
    assert (settled.per_device_train_batch_size, settled.num_train_epochs) == (batch, epochs)
    assert settled.auto_epochs
    again = settle_amount(settled, images)
    assert (again.per_device_train_batch_size, again.num_train_epochs) == (batch, epochs)


def test_numbers_that_are_given_mean_what_they_say() -> None:
    given = auto(num_train_epochs=5)
    assert settle_amount(given, 50) is given
    assert describe_amount(given, given, 50) == ""
    steps = settle_amount(auto(max_steps=7), 50)
    assert (steps.per_device_train_batch_size, steps.max_steps, steps.auto_epochs) == (32, 7, False)


def test_several_steps_at_once_share_the_batch() -> None:
    """An eighth of 173 images is 21, over all that an optimizer step takes in."""
    given = auto(gradient_accumulation_steps=2)
    settled = settle_amount(given, 173)
    assert settled.per_device_train_batch_size == 10
    assert "in batches of 20 (in place of 64: at most an eighth of them, but 8), " in describe_amount(
        given, settled, 173
    )
    assert settle_amount(auto(gradient_accumulation_steps=16), 50).per_device_train_batch_size == 2  # for batch norms
    alone = settle_amount(auto(gradient_accumulation_steps=16, per_device_train_batch_size=1), 50)
    assert alone.per_device_train_batch_size == 1


def test_a_batch_that_fits_is_left_alone() -> None:
    given = auto(per_device_train_batch_size=16)
    settled = settle_amount(given, 800)
    assert settled.per_device_train_batch_size == 16
    assert "in batches of 16, about " in describe_amount(given, settled, 800)


def test_auto_survives_copies_and_a_number_stays_plain() -> None:
    settled = settle_amount(auto(), 173)
    for other in (copy.deepcopy(settled.num_train_epochs), pickle.loads(pickle.dumps(settled.num_train_epochs))):  # noqa: S301
        assert isinstance(other, Epochs)
        assert (float(other), str(other)) == (18.0, "auto")
    assert type(Epochs("2.5")) is float
    assert auto(num_train_epochs="auto").auto_epochs
    for wrong in ("many", "nan", "inf", "0"):
        with pytest.raises(ArgumentError, match="--num_train_epochs must be"):
            auto(num_train_epochs=wrong)


def test_what_was_decided_is_said_recorded_and_repeated(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--policy", "head", "--num_train_epochs", "auto", "--figures", "false")
    folder = job("resnet", "out", *given, "--per_device_train_batch_size", 32)
    line = "Epochs auto: 40 passes over 18 training images in batches of 8 (in place of 32: "
    assert line in capsys.readouterr().out
    data = record(folder)
    assert line in data["decisions"][0]
    assert (data["arguments"]["num_train_epochs"], data["arguments"]["per_device_train_batch_size"]) == ("auto", 8)
    assert data["plan"][0]["epochs"] == 40
    assert line in (folder / "README.md").read_text()
