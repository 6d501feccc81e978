"""Finding plugins: outsiders through the same door, conflicts and broken ones by name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pytest
from small_models import small_encoder, small_model

from hfft.errors import PluginError
from hfft.models.headless.backbones import classifier_config
from hfft.planning.registry import find_anatomy
from hfft.plugin import installed as registry
from hfft.plugin.installed import find_plugin, installed_plugins

pytestmark = pytest.mark.processes

Folder = Callable[..., Path]
FIXTURE = Path(__file__).parents[1] / "fixtures" / "hfft-pairs"


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """Entry points that stand beside the installed ones."""
    extra: list[EntryPoint] = []
    installed = entry_points(group=registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [*installed, *extra])
    return extra


def point(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, registry.GROUP)


def test_the_built_in_plugins_are_found_through_entry_points() -> None:
    found = {plugin.name: plugin for plugin in installed_plugins()}
    assert {"cnn", "timm", "vit"} <= found.keys()
    assert all(plugin.plugin is not None and plugin.distribution == "hfft" for plugin in found.values())


def test_an_unknown_type_names_the_type_the_plugins_and_the_way_out() -> None:
    with pytest.raises(PluginError, match=r"'wavenet'.*cnn.*timm.*vit.*--anatomy.*docs/plugins\.md"):
        find_plugin("wavenet")


def test_two_claims_name_both_and_the_flag(points: list[EntryPoint]) -> None:
    points.append(point("other", "hfft_plugins.vit:ViT"))
    with pytest.raises(PluginError, match=r"'vit' is claimed by .*vit.* and .*other|other.* and .*vit.*--plugin"):
        find_plugin("vit")
    assert find_plugin("vit", "other").name == "other"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("no_such_module:Thing", "No module named"),
        ("hfft_plugins.vit:Nothing", "no attribute"),
        ("pathlib:Path", "not a BackbonePlugin"),
        ("broken_plugins:NoTypes", "must have a frozenset of strings as its model_types, not None"),
        ("broken_plugins:NoTwins", "must have a mapping of strings as its same_encoder, not None"),
        ("broken_plugins:OneString", "must have a frozenset of strings as its model_types, not 'wavenet'"),
    ],
)
def test_a_broken_plugin_is_named_and_everything_else_works(points: list[EntryPoint], value: str, reason: str) -> None:
    points.append(point("broken", value))
    broken = next(plugin for plugin in installed_plugins() if plugin.name == "broken")
    assert broken.plugin is None
    assert reason in broken.error
    assert find_plugin("vit").name == "vit"
    with pytest.raises(PluginError, match="broken does not load"):
        find_plugin("wavenet")
    with pytest.raises(PluginError, match=r"'broken'.*does not load"):
        find_plugin("vit", "broken")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Raises", r"fails on ResNetForImageClassification: AttributeError: .*nothing_like_it"),
        ("ReturnsNone", "it gives None in place of an Anatomy"),
        ("ReturnsDict", r"it gives \{'stem': .* in place of an Anatomy"),
        ("NoTuples", "expected a list of names, found 'resnet.embedder'"),
    ],
)
def test_a_plugin_that_fails_on_a_model_is_named(points: list[EntryPoint], name: str, reason: str) -> None:
    points.append(point("faulty", f"broken_plugins:{name}"))
    with pytest.raises(PluginError, match=f"plugin 'faulty' of an unknown distribution .*{reason}"):
        find_anatomy(small_model("resnet")[0], "faulty")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("PoolsByName", "must give a Pooling of how token, mean.* not 'mean'"),
        ("PoolsMost", "must give a Pooling of how token, mean.*how='max'"),
        ("PoolsBehind", "must give .* count of tokens as prefix, not .*prefix='1'"),
        ("PoolsNothing", "fails on the pooling of yolos: AttributeError: .*nothing_like_it"),
    ],
)
def test_a_plugin_whose_pooling_no_head_can_read_is_named(points: list[EntryPoint], name: str, reason: str) -> None:
    points.append(point("faulty", f"broken_plugins:{name}"))
    with pytest.raises(PluginError, match=f"plugin 'faulty' of an unknown distribution {reason}"):
        classifier_config(small_encoder("yolos"), "faulty")


def test_a_twin_that_transformers_lacks_is_named(points: list[EntryPoint]) -> None:
    points.append(point("faulty", "broken_plugins:UnknownTwin"))
    with pytest.raises(PluginError, match="makes 'yolos' a 'wavenet' model"):
        classifier_config(small_encoder("yolos"))


def test_one_name_installed_twice(points: list[EntryPoint]) -> None:
    points.append(point("vit", "hfft_plugins.vit:ViT"))
    with pytest.raises(PluginError, match="both install a plugin called 'vit'"):
        find_plugin("vit", "vit")


def test_an_outsider_in_a_clean_environment(pretrained: Folder, image_folder: Folder, tmp_path: Path) -> None:
    """Installed from its own project, discovered, in conflict with the built-in, chosen by name, and trained with."""
    source = shutil.copytree(FIXTURE, tmp_path / "hfft-pairs")
    environment = tmp_path / "environment"
    venv.create(environment)
    python = environment / "bin" / "python"
    site = next((environment / "lib").glob("python*/site-packages"))
    # Lends the dependencies of this environment, hfft itself among them.
    (site / "lent.pth").write_text(f"import site; site.addsitedir({os.path.dirname(pytest.__path__[0])!r})")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    subprocess.run(build, check=True, capture_output=True)

    def run(*arguments: object, ok: bool = True) -> str:
        done = subprocess.run(
            [str(part) for part in (python, *arguments)], capture_output=True, text=True, cwd=tmp_path, check=False
        )
        assert (done.returncode == 0) == ok, done.stderr
        return done.stdout + done.stderr

    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:  # which is all that installing a pure one does
        wheel.extractall(site)
    assert "pairs          hfft-pairs 0.3.0: vit" in run("-m", "hfft", "plugins")
    flags = ["--model_name_or_path", pretrained("vit"), "--train_dir", image_folder(), "--num_train_epochs", 1]
    refused = run("-m", "hfft", "finetune", *flags, "--output_dir", tmp_path / "refused", ok=False)
    assert "claimed by pairs (hfft-pairs 0.3.0) and vit (hfft" in refused
    assert "--plugin NAME" in refused
    folder = tmp_path / "out"
    run("-m", "hfft", "finetune", *flags, "--output_dir", folder, "--plugin", "pairs", "--policy", "last_n:1")
    record = json.loads((folder / "hfft.json").read_text())
    assert record["anatomy"]["blocks"] == [["vit.layers.0", "vit.layers.1"], ["vit.layers.2"]]
    assert record["frozen"]["sha256_before"] == record["frozen"]["sha256_after"]
    assert "FAIL" not in run("-m", "hfft", "plugins", "check", "pairs", "--model", pretrained("vit"))
