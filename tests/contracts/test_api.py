"""The Python interface: light to import, typed, and the same words as the command line."""

from __future__ import annotations

import doctest
import pickle
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finished import LABELS, make_images, make_model

import hfft
from hfft.errors import ArgumentError, DataError

ROOT = Path(__file__).parents[2]


def test_import_is_light() -> None:
    code = "import sys, hfft; print([m for m in ('torch', 'transformers', 'datasets', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names() -> None:
    from hfft.models.checkpoint import load
    from hfft.planning.plan import Plan
    from hfft.training.trainer import FreezeTrainer

    assert (hfft.load, hfft.Plan, hfft.FreezeTrainer) == (load, Plan, FreezeTrainer)
    assert all(callable(getattr(hfft, name)) for name in hfft.__all__ if name != "__version__")
    assert set(hfft.__all__) <= set(dir(hfft))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        hfft.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_finetune_by_keywords(tmp_path: Path) -> None:
    said: list[str] = []
    run = hfft.finetune(
        model_name_or_path=make_model(tmp_path / "base", ("one", "two")),
        train_dir=make_images(tmp_path / "images"),
        policy="head",
        output_dir=tmp_path / "output",
        num_train_epochs=2,
        use_cpu=True,
        disable_tqdm=True,
        cache="off",
        test_dir=None,
        say=said.append,
    )
    assert run.sets.labels == LABELS
    assert run.plan.policy == "head"
    accuracy = run.predictions["validation"].metrics["eval_accuracy"]
    assert repr(run) == f"Run({str(tmp_path / 'output')!r}, head, accuracy {accuracy:.3f})"
    assert run.predictions["validation"].predictions.shape == (len(run.sets.validation), 3)
    assert run.settings.training.num_train_epochs == 2.0
    assert pickle.loads(pickle.dumps(run)).metrics == run.metrics  # noqa: S301  (our own)
    model, _ = hfft.load(tmp_path / "output")
    assert all(torch.equal(tensor, run.model.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert any("accuracy" in line for line in said)


def test_the_program_around_a_run_is_left_as_it_was(tmp_path: Path) -> None:
    """Else a random search tries the same options again and again; and a notebook may have no gradients."""
    base, images = make_model(tmp_path / "base", ("one", "two")), make_images(tmp_path / "images")
    given: dict[str, Any] = {"model_name_or_path": base, "train_dir": images, "num_train_epochs": 1, "use_cpu": True}

    def seed() -> None:
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)

    def drawn() -> tuple[float, float, float]:
        return random.random(), float(np.random.uniform()), torch.rand(()).item()  # noqa: S311

    seed()
    expected = [drawn() for _ in range(3)]
    with torch.inference_mode():
        seed()
        found = [drawn()]
        for number in range(2):
            hfft.finetune(**given, output_dir=tmp_path / str(number), say=None)
            found.append(drawn())
        assert torch.is_inference_mode_enabled()
    assert found == expected


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"polcy": "head"}, ArgumentError, "hfft.finetune has no option 'polcy'; did you mean policy?"),
        ({"cache": "dsk"}, ArgumentError, "dsk"),
        ({"policy": "tail"}, ArgumentError, "--policy 'tail' is unknown"),
        ({"learning_rate": "fast"}, ArgumentError, "learning_rate"),
        ({"learning_rate": -1}, ArgumentError, "--learning_rate must be above 0"),
        ({"train_dir": "/no/such/folder"}, DataError, "there is no such folder"),
    ],
)
def test_errors(options: dict[str, object], error: type[Exception], message: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"output_dir": str(tmp_path / "output"), "use_cpu": True} | options
    with pytest.raises(error, match=re.escape(message)):
        hfft.finetune(**given)


def test_every_public_name_has_an_example_that_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_images(tmp_path / "photos" / "train", count=4)
    make_images(tmp_path / "photos" / "test", count=2)
    monkeypatch.chdir(tmp_path)
    names = ["finetune", *sorted({*hfft.__all__} - {"finetune", "__version__"})]  # the others read what it leaves
    shared: dict[str, Any] = {"hfft": hfft, "torch": torch}
    for name in names:
        thing = getattr(hfft, name)
        (found,) = doctest.DocTestFinder(recurse=False, exclude_empty=False).find(thing, name, globs=shared)
        assert found.examples, name
        said: list[str] = []
        outcome = doctest.DocTestRunner().run(found, out=said.append, clear_globs=False)
        assert outcome.failed == 0, "".join(said)
        shared |= found.globs
    for name in ("advice", "classifier", "depth", "desk", "evaluation", "found", "more", "plan", "run"):
        line = repr(shared[name])
        assert len(line) < 120, line
        assert "\n" not in line
    assert "precision" in str(shared["evaluation"])
    assert "labels are suspect" in str(shared["desk"])
    assert pickle.loads(pickle.dumps(shared["more"])).metrics == shared["more"].metrics  # noqa: S301  (our own)


def test_the_example_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## In Python\n")[2]
    example = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert example is not None
    make_images(tmp_path / "photos" / "train", count=4)
    shutil.copy(tmp_path / "photos" / "train" / "red" / "0.png", tmp_path / "photos" / "new.png")
    monkeypatch.chdir(tmp_path)
    printed: list[str] = []
    names: dict[str, Any] = {"print": lambda *words: printed.append(" ".join(map(str, words)))}
    exec(example[1], names)  # noqa: S102  (our own text)
    loop = example[1][example[1].index("for prediction in ") :]
    assert len(example[1].strip().splitlines()) <= 12
    assert re.fullmatch(r"photos/new\.png (blue|green|red) \d+%", printed[-1])
    (tmp_path / "photos" / "new.png").unlink()
    exec(loop, names)  # noqa: S102
    assert printed[-1].startswith("photos/new.png cannot read the image photos/new.png: ")
    assert (tmp_path / "outputs" / "photos" / "model.safetensors").exists()
