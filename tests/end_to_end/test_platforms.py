"""What other systems lack is taken away here: fork, processor affinity, symbolic links, glibc, file names by case."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from runs import equal, weights

import hfft
from hfft.split.halves import to_device

Folder = Callable[..., Path]

# Windows and macOS start processes anew; Windows gives symbolic links to administrators alone.
WITHOUT = """
import multiprocessing, os, sys
if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    for name in ("sched_getaffinity", "fork"):
        if hasattr(os, name):
            delattr(os, name)
    def refused(*args, **kwargs):
        raise OSError("a required privilege is not held by the client")
    os.symlink = refused
    from hfft.cli import main
    sys.exit(main(sys.argv[1:]))
"""


def test_no_tensor_becomes_double_on_its_device() -> None:
    """Apple's MPS has no float64: what needs it is moved to the CPU first."""
    sources = {file: file.read_text(encoding="utf-8") for file in Path(hfft.__file__).parent.rglob("*.py")}
    found = [
        (file.name, line)
        for file, text in sources.items()
        for line in re.findall(r".*(?<!\.cpu\(\))\.double\(\).*", text)
    ]
    assert found == []


@pytest.mark.parametrize("kind", ["cuda", "mps", "cpu"])
def test_only_copies_to_cuda_go_on_by_themselves(kind: str) -> None:
    """On MPS they would read memory that has been let go of meanwhile: images came out as others, or as noise."""
    for dimensions in (2, 4):
        tensor = Mock(ndim=dimensions)
        to_device(tensor, torch.device(kind), torch.contiguous_format)
        assert tensor.to.call_args.kwargs["non_blocking"] == (kind == "cuda")


def test_texts_are_read_and_written_in_utf_8() -> None:
    """Windows has another encoding where none is given, and so has Linux in some locales."""
    sources = {file: file.read_text(encoding="utf-8") for file in Path(hfft.__file__).parent.rglob("*.py")}
    calls = re.compile(r"\.(?:read|write)_text\((?:[^()]|\([^()]*\))*\)")
    found = [(file.name, call) for file, text in sources.items() for call in calls.findall(text) if "utf-8" not in call]
    assert found == []


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["disk", "off"])
def test_training_needs_nothing_that_other_systems_lack(
    pretrained: Folder, image_folder: Folder, tmp_path: Path, cache: str
) -> None:
    script = tmp_path / "without.py"
    script.write_text(WITHOUT)
    given = ["--train_dir", image_folder(per_class=30), "--model_name_or_path", pretrained("vit"), "--cache", cache]
    given += ["--num_train_epochs", 1, "--dataloader_num_workers", 1, "--figures", "false", "--baselines", "none"]
    results = []
    for name, starter in (("with", ["-m", "hfft"]), ("without", [str(script)])):
        flags = [*map(str, given), "--output_dir", str(tmp_path / name)]
        environment = os.environ | {"HFFT_CACHE": str(tmp_path / f"cache-{name}")}
        subprocess.run([sys.executable, *starter, "finetune", *flags], check=True, capture_output=True, env=environment)
        results.append(weights(tmp_path / name))
    assert equal(*results)
