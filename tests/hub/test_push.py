"""The real huggingface_hub client against a Hub on the loopback interface, in good and in bad weather."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from fake_hub import CUT, READ_TOKEN, WRITE_TOKEN, FakeHub
from finished import make_images, make_model, run_finetune
from huggingface_hub import ModelCard, snapshot_download
from huggingface_hub.utils import _http

from hfft.cli import main
from hfft.errors import HubError, ModelError
from hfft.hub.push import Target, collect, open_repo, push
from hfft.hub.space_repo import build_space
from hfft.inference.classifier import classify, load_classifier
from hfft.models.checkpoint import load, merge
from hfft.models.delta import read_delta
from hfft.report.record import read_record

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")  # the client's own

REPO = "writer/colours"
KEY = f"models/{REPO}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    make_images(folder / "images")
    make_model(folder / "base", ("one", "two"), seed=1)
    run_finetune(folder / "base", folder / "images", folder / "output", figures=True)
    return folder


@pytest.fixture
def output(place: Path, tmp_path: Path) -> Path:
    return shutil.copytree(place / "output", tmp_path / "output")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A Hub, and this process's client turned to it; the client waits no time before it tries again."""
    with FakeHub() as server:
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        monkeypatch.setenv("HF_TOKEN", WRITE_TOKEN)
        yield server


def environment(hub: FakeHub, folder: Path) -> dict[str, str]:
    rest = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    return rest | {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": WRITE_TOKEN}


def run_command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(word) for word in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_pushed_and_pulled_byte_for_byte(hub: FakeHub, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run_command(capsys, "push", output, "--repo_id", "colours")
    assert (code, out) == (0, f"Pushed to {hub.url}/{REPO}.\n")
    repo = hub.repos[KEY]
    assert len(repo.commits) == 2, "the initial commit and one of ours"
    assert not repo.private
    pulled = Path(snapshot_download(REPO))
    names = {file.name for file in pulled.iterdir()} - {".gitattributes"}
    assert names == {
        *("model.safetensors", "delta.safetensors", "config.json", "preprocessor_config.json", "README.md"),
        *("hfft.json", "trace.csv", "known_images.safetensors", *(file.name for file in output.glob("*.png"))),
    }
    assert names >= {"curves.png", "confusion_matrix.png", "reliability.png"}
    for name in names - {"README.md", "hfft.json", "delta.safetensors"}:  # these name the base's folder
        assert (pulled / name).read_bytes() == (output / name).read_bytes(), name


def test_the_card_loads_the_repository(hub: FakeHub, output: Path) -> None:
    push(output, open_repo(Target("colours")))
    card = ModelCard(hub.content(KEY, "README.md").decode())
    assert f'hfft.load("{REPO}")' in card.text
    assert f'model="{REPO}"' in card.text
    assert str(output.parent) not in card.text
    assert card.data.get("pipeline_tag") == "image-classification"


@pytest.mark.processes
def test_stock_transformers_in_a_clean_process(hub: FakeHub, output: Path, tmp_path: Path) -> None:
    """Both ends as their users run them: the command line pushes, and a process without hfft pulls."""
    settings = environment(hub, tmp_path / "home")
    command = [sys.executable, "-m", "hfft", "push", str(output), "--repo_id", REPO]
    subprocess.run(command, env=settings, check=True, capture_output=True)
    code = f"""
import sys, hashlib
from huggingface_hub import hf_hub_download
from transformers import AutoImageProcessor, AutoModelForImageClassification
model = AutoModelForImageClassification.from_pretrained({REPO!r})
AutoImageProcessor.from_pretrained({REPO!r})
assert "hfft" not in sys.modules
print(hashlib.sha256(open(hf_hub_download({REPO!r}, "model.safetensors"), "rb").read()).hexdigest())
print(sorted(model.config.id2label.values()))
"""
    done = subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == hub.repos[KEY].commits[-1].large["model.safetensors"]
    assert "['blue', 'green', 'red']" in done.stdout


def test_no_local_path_is_published(hub: FakeHub, output: Path, place: Path) -> None:
    push(output, open_repo(Target("colours")))
    assert str(place) in (output / "hfft.json").read_text(), "the record at home keeps them"
    pulled = Path(snapshot_download(REPO))
    for file in pulled.iterdir():
        assert str(place).encode() not in file.read_bytes(), file.name
    record = read_record(pulled / "hfft.json")
    assert record.base.id == "base"
    assert (record.arguments["model_name_or_path"], record.arguments["train_dir"]) == ("base", "images")
    info, tensors = read_delta(pulled / "delta.safetensors")
    ours, same = read_delta(output / "delta.safetensors")
    assert info == replace(ours, base_id="base")
    assert all(torch.equal(tensors[name], same[name]) for name in same)


def test_delta_only(hub: FakeHub, output: Path, place: Path, tmp_path: Path) -> None:
    push(output, open_repo(Target("colours", delta_only=True, private=True)))
    commit = hub.repos[KEY].commits[-1]
    assert hub.repos[KEY].private
    assert "delta.safetensors" in commit.large
    assert "model.safetensors" not in commit.large
    model, _ = load(REPO, base=str(place / "base"))
    whole, _ = load(output)
    assert all((tensor == whole.state_dict()[name]).all() for name, tensor in model.state_dict().items())
    merge(REPO, tmp_path / "merged", base=str(place / "base"))
    assert (tmp_path / "merged" / "model.safetensors").read_bytes() == (output / "model.safetensors").read_bytes()
    with pytest.raises(ModelError, match="hfft merge DELTA --base PLACE --output_dir NEW"):
        load(REPO)  # the base was a folder, whose place is nobody's business
    card = hub.content(KEY, "README.md").decode()
    assert f"hfft merge {REPO} --output_dir merged" in card
    assert 'from_pretrained("merged")' in card
    assert f'hfft.load("{REPO}")' in card


def test_a_delta_alone_says_what_is_needed_beside_it(
    hub: FakeHub, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needed = "Its base, base, is not on the Hub: whoever loads this delta needs that folder"
    for flags, said in (("--delta_only",), True), ((), False):
        assert main(["push", str(output), "--repo_id", f"colours{len(flags)}", *flags]) == 0
        assert (needed in capsys.readouterr().out) == said


def test_predict_from_the_hub(hub: FakeHub, output: Path, place: Path) -> None:
    push(output, open_repo(Target("colours")))
    classifier = load_classifier(REPO)
    assert classifier.record is not None
    files = [place / "images" / "red" / "0.png"]
    assert list(classify(classifier, files)) == list(classify(load_classifier(output), files))
    assert hub.count("GET .*delta|objects/.*delta") == 0, "the checkpoint is whole, so its delta is not fetched"


def test_the_base_comes_from_the_hub(hub: FakeHub, place: Path, tmp_path: Path) -> None:
    """A base on the Hub is recorded with its commit, and that commit is what a delta asks for."""
    api = huggingface_hub.HfApi()
    api.create_repo("writer/base")
    shutil.copytree(place / "base", tmp_path / "base")
    (tmp_path / "base" / "README.md").write_text("---\nlicense: bsd-3-clause\n---\n")
    api.upload_folder(repo_id="writer/base", folder_path=str(tmp_path / "base"))
    run_finetune(Path("writer/base"), place / "images", tmp_path / "run")
    push(tmp_path / "run", open_repo(Target("colours", delta_only=True)))
    sha = hub.repos["models/writer/base"].commits[-1].sha
    make_model(tmp_path / "newer", ("one", "two"), seed=9)
    api.upload_folder(repo_id="writer/base", folder_path=str(tmp_path / "newer"))
    merge(REPO, tmp_path / "merged")
    assert (tmp_path / "merged" / "model.safetensors").read_bytes() == (
        tmp_path / "run" / "model.safetensors"
    ).read_bytes()
    assert f"{sha}" in (tmp_path / "run" / "hfft.json").read_text()


# Bad weather ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "status", "message"),
    [
        ("PUT /objects", 500, "the Hub answered 500"),
        ("PUT /objects", CUT, "the connection to the Hub failed"),
        ("/preupload/", 403, "the token may not write to writer/colours"),
        ("/commit/", 401, "the Hub does not accept the token"),
        ("/commit/", 409, "somebody else writes to it"),
        ("/commit/", 500, "the Hub answered 500"),
        ("/commit/", CUT, "the connection to the Hub failed"),
    ],
)
def test_a_failure_loses_nothing_and_names_the_command(
    hub: FakeHub, output: Path, capsys: pytest.CaptureFixture[str], pattern: str, status: int, message: str
) -> None:
    before = {file.name: file.read_bytes() for file in output.iterdir()}
    # The first large file goes through; a repeat must not send it again.
    hub.fail(pattern, status, after=1 if "PUT" in pattern else 0)
    code, out, err = run_command(capsys, "push", output, "--repo_id", "colours", "--private")
    last = err.strip().splitlines()[-1]
    assert (code, out) == (1, "")
    assert message in last
    command = f"hfft push {output} --repo_id {REPO} --private"
    assert last.endswith(f"Nothing is lost: {output} holds all of it; repeat with: {command}")
    assert {file.name: file.read_bytes() for file in output.iterdir()} == before
    assert WRITE_TOKEN not in err
    there = set(hub.objects)
    hub.heal()
    code, out, _ = run_command(capsys, *command.split()[1:])
    assert code == 0
    sent = {request.rpartition("/")[2] for request in hub.requests if request.startswith("PUT /objects")}
    assert not sent & there, "what the Hub has is not sent again"
    assert set(hub.repos[KEY].commits[-1].large) >= {"model.safetensors", "delta.safetensors"}


def test_pushing_twice_sends_nothing(hub: FakeHub, output: Path) -> None:
    target = open_repo(Target("colours"))
    push(output, target)
    hub.heal()
    push(output, target)
    assert hub.count("PUT /objects|/commit/") == 0
    (output / "trace.csv").write_text("changed")
    push(output, target)
    assert (hub.count("PUT /objects"), hub.count("/commit/")) == (0, 1)


def test_nothing_of_an_earlier_run_is_read_beside_the_new_one(hub: FakeHub, output: Path) -> None:
    target = open_repo(Target("colours"))
    push(output, target)
    old = ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "adapter/adapter_model.safetensors"]
    api = huggingface_hub.HfApi()
    for name in ["notes.md", *old]:
        api.upload_file(path_or_fileobj=b"{}", path_in_repo=name, repo_id=REPO)
    (output / "known_images.safetensors").unlink()
    gone = ", ".join(sorted([*old, "known_images.safetensors"]))
    assert push(output, target).describe().endswith(f"/{REPO}; deleted there, as of an earlier run: {gone}.")
    commit = hub.repos[KEY].commits[-1]
    assert not {*old, "known_images.safetensors"} & {*commit.files, *commit.large}
    assert commit.files["notes.md"] == b"{}"
    assert load_classifier(REPO).known is None


def test_code_of_two_processors(output: Path) -> None:
    """Slow and fast stand in a list, and either may be missing."""
    (output / "own.py").write_text("class Slow: ...")
    config = json.loads((output / "preprocessor_config.json").read_text())
    config["auto_map"] = {
        "AutoImageProcessor": ["own.Slow", None],
        "AutoProcessor": ["somebody/else--other.Slow", None],
    }
    (output / "preprocessor_config.json").write_text(json.dumps(config))
    assert "own.py" in collect(output, Target(REPO))


def test_a_cut_download_goes_on_where_it_ended(hub: FakeHub, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 4096)
    push(output, open_repo(Target("colours")))
    oid = hub.repos[KEY].commits[-1].large["model.safetensors"]
    hub.fail(f"HALF GET /objects/{oid}", CUT, times=1)
    model, _ = load(REPO)
    assert model.num_labels == 3
    assert [wanted for wanted in hub.ranges if wanted != "bytes=0-"], "the rest was asked for by range"


def test_a_download_that_never_ends_well(hub: FakeHub, output: Path) -> None:
    push(output, open_repo(Target("colours")))
    hub.fail("GET /objects", CUT)
    with pytest.raises(ModelError, match="cannot be fetched from the Hub") as caught:
        load(REPO)
    assert "\n" not in str(caught.value)


def test_downloads_that_are_refused(hub: FakeHub, output: Path) -> None:
    with pytest.raises(ModelError, match="neither a folder nor a Hub repository writer/nothing"):
        load("writer/nothing")
    push(output, open_repo(Target("colours")))
    with pytest.raises(ModelError, match="has no revision 'nowhere'"):
        load(REPO, revision="nowhere")
    hub.fail("/api/models", 500)
    with pytest.raises(ModelError, match="cannot be fetched"):
        load(REPO)


# Before training --------------------------------------------------------------------------------------------


def no_token(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", "/no/such/file")


def wrong_token(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")


def read_token(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)


def offline(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    _http.close_session()


def unreachable(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")


def nothing(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    pass


def failing(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.fail("/api/repos/create", 500)


@pytest.mark.parametrize(
    ("weather", "repo_id", "message"),
    [
        (no_token, "colours", "there is no token for the Hub; run `hf auth login`"),
        (wrong_token, "colours", "the Hub does not accept the token"),
        (read_token, "colours", "the token of reader may only read"),
        (nothing, "somebody/colours", "the token may not write to somebody/colours"),
        (nothing, "not an id", "not an id"),
        (failing, "colours", "the Hub answered 500"),
        (unreachable, "colours", "the connection to the Hub failed"),
        (offline, "colours", "switched off by HF_HUB_OFFLINE"),
    ],
)
def test_token_and_repository_are_checked_before_training(
    hub: FakeHub,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    weather: Callable[[FakeHub, pytest.MonkeyPatch], None],
    repo_id: str,
    message: str,
) -> None:
    weather(hub, monkeypatch)
    with pytest.raises(HubError, match=message) as caught:
        run_finetune(place / "base", place / "images", tmp_path / "run", push_to_hub=True, hub_model_id=repo_id)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists(), "nothing was trained"


def test_private_means_private(hub: FakeHub, output: Path) -> None:
    push(output, open_repo(Target("colours")))
    with pytest.raises(HubError, match="is there already and public"):
        open_repo(Target("colours", private=True))
    with pytest.raises(HubError, match=r"holds model\.safetensors, which a delta alone would contradict"):
        open_repo(Target("colours", delta_only=True))


def test_finetune_pushes_at_the_end(hub: FakeHub, place: Path, tmp_path: Path) -> None:
    run_finetune(place / "base", place / "images", tmp_path / "run", push_to_hub=True, hub_model_id=REPO)
    assert hub.content(KEY, "model.safetensors") == (tmp_path / "run" / "model.safetensors").read_bytes()
    assert len(hub.repos[KEY].commits) == 2


def test_finetune_keeps_everything_where_the_push_fails(hub: FakeHub, place: Path, tmp_path: Path) -> None:
    hub.fail("/commit/", 500)
    with pytest.raises(HubError, match=f"repeat with: hfft push {tmp_path / 'run'} --repo_id {REPO}"):
        run_finetune(place / "base", place / "images", tmp_path / "run", push_to_hub=True, hub_model_id=REPO)
    load(tmp_path / "run")
    hub.heal()
    push(tmp_path / "run", open_repo(Target(REPO)))


@pytest.mark.parametrize(
    ("missing", "flags", "message"),
    [
        ("hfft.json", [], "does not hold a finished run"),
        ("model.safetensors", [], "does not hold model.safetensors"),
        ("delta.safetensors", ["--delta_only"], "does not hold delta.safetensors"),
    ],
)
def test_folders_that_cannot_be_pushed(
    hub: FakeHub, output: Path, capsys: pytest.CaptureFixture[str], missing: str, flags: list[str], message: str
) -> None:
    (output / missing).unlink()
    code, _, err = run_command(capsys, "push", output, "--repo_id", "colours", *flags)
    assert code == 1
    assert message in err
    assert not hub.requests, "what is missing here shows before the Hub is asked for anything"


def test_repo_id_is_required(capsys: pytest.CaptureFixture[str], output: Path) -> None:
    code, _, err = run_command(capsys, "push", output)
    assert code == 2
    assert "--repo_id" in err


# The Space -------------------------------------------------------------------------------------------------


def test_space_folder_is_complete(tmp_path: Path) -> None:
    folder = build_space(tmp_path / "space", REPO)
    front = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert (front["sdk"], front["app_file"], front["models"]) == ("gradio", "space_app.py", [REPO])
    assert front["python_version"] == f"{sys.version_info.major}.{sys.version_info.minor}", "which the versions are for"
    requirements = (folder / "requirements.txt").read_text().split()
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in requirements), "each of them pinned"
    names = {line.partition("==")[0] for line in requirements}
    assert {"torch", "transformers", "gradio", "huggingface_hub"} <= names
    assert not names & {"animal-mnist", "onnx", "pytest"}
    assert not list(folder.rglob("*.pyc"))


def test_space_folder_stands_alone(tmp_path: Path) -> None:
    """Its own copies of the packages are imported, and the plugins are found without an installed hfft."""
    folder = build_space(tmp_path / "space", REPO)
    code = f"""
import sys
sys.path[:] = [{str(folder)!r}, *(p for p in sys.path if p and p != {str(Path(__file__).parents[2])!r})]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in str(finder).lower()]
import hfft, hfft_plugins, hfft.space
from importlib.metadata import entry_points, version
assert hfft.__file__.startswith({str(folder)!r}) and hfft_plugins.__file__.startswith({str(folder)!r})
print(sorted({{point.name for point in entry_points(group="hfft.backbones")}}), version("hfft"))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "'cnn'" in done.stdout
    assert "'timm'" in done.stdout


def test_push_with_its_space(hub: FakeHub, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run_command(capsys, "push", output, "--repo_id", "colours", "--space")
    assert (code, out.splitlines()[-1]) == (0, f"The Space is {hub.url}/spaces/{REPO}.")
    space = hub.repos[f"spaces/{REPO}"]
    assert (space.sdk, space.variables) == ("gradio", {"HFFT_MODEL": REPO})
    assert "hfft/inference/classifier.py" in space.commits[-1].files
    space.commits[-1].files["hfft/of_an_older_version.py"] = b""
    space.commits[-1].files["mine.txt"] = b"kept"
    hub.heal()
    assert run_command(capsys, "push", output, "--repo_id", "colours", "--space")[0] == 0
    files = space.commits[-1].files
    assert "hfft/of_an_older_version.py" not in files
    assert files["mine.txt"] == b"kept"
    assert len(space.commits) == 3


def test_a_space_that_is_cut_off(hub: FakeHub, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.fail("/spaces/.*/variables", 500)
    code, out, err = run_command(capsys, "push", output, "--repo_id", "colours", "--space", "--space_id", "demo")
    assert code == 1
    assert out.startswith("Pushed to"), "the model itself is there"
    assert "the Space is unfinished, run the same again" in err
