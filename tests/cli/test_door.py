"""No waiting at the door: what needs no model loads none of the libraries that take seconds to import."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata, resources
from pathlib import Path

import pytest

from hfft.cli.commands import COMMANDS

HEAVY = ("torch", "transformers", "datasets", "evaluate", "gradio", "accelerate", "sklearn", "matplotlib")
DOORS = (
    ["--help"],
    ["--version"],
    *([name, "--help"] for name in COMMANDS),
    ["cache", "fill", "--help"],
    ["plugins", "check", "--help"],
    ["cache", "list"],
    ["cache", "prune"],
    ["plugins"],
    ["plan", "--polcy", "head"],
    ["finetune", "--polcy", "head"],
    ["predict", "cat.jpg", "--top_k", "0"],
    ["finetune", "photos"],
    ["sweep", "--sweeep", "policy=head"],
    ["sweep", "--sweep", "policy=head", "--help"],
    ["finetun"],
)
RECORDED = json.loads(resources.files("hfft.arguments").joinpath("training.json").read_text("utf-8"))["transformers"]
PROGRAM = """
import sys
from collections.abc import Callable
from hfft.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print("LOADED", *sorted(set(sys.modules) & set({heavy!r})))
"""


@pytest.mark.skipif(
    metadata.version("transformers") != RECORDED, reason=f"the help of transformers {RECORDED} alone is recorded"
)
@pytest.mark.parametrize("argv", DOORS, ids=" ".join)
def test_nothing_heavy_is_loaded(argv: list[str], tmp_path: Path) -> None:
    place = ["--cache_dir", str(tmp_path)] if argv[0] == "cache" and argv[-1] in ("list", "prune") else []
    program = [sys.executable, "-c", PROGRAM.format(heavy=HEAVY), *argv, *place]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED"
    assert len(done.stdout.splitlines()) > 1 or done.stderr.startswith("hfft: error: ")


@pytest.mark.processes
@pytest.mark.parametrize(
    ("command", "unused"),
    [
        ("plan --model_name_or_path {model}", {"datasets", "timm", *HEAVY} - {"torch", "transformers", "accelerate"}),
        ("predict {image} --model {model}", {"datasets", "timm", *HEAVY} - {"torch", "transformers", "accelerate"}),
        ("check {images}", {"timm", *HEAVY} - {"datasets"}),
    ],
)
def test_nothing_unused_is_loaded(
    command: str, unused: set[str], pretrained: Callable[..., Path], image_folder: Callable[..., Path]
) -> None:
    images = image_folder()
    image = min(images.rglob("*.png"))
    argv = command.format(model=pretrained("vit"), images=images, image=image).split()
    program = [sys.executable, "-c", PROGRAM.format(heavy=tuple(unused)), *argv]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED"
    assert len(done.stdout.splitlines()) > 1
