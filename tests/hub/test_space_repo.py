"""The Space as the Hub would run it: its requirements in an environment of their own, its folder alone."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from fake_hub import WRITE_TOKEN, FakeHub
from finished import make_images, make_model, run_finetune

SECONDS = 300  # for the app to answer


def pulled_space(hub: FakeHub, key: str, folder: Path) -> Path:
    """Write the files of a pushed Space, as the Hub checks them out."""
    commit = hub.repos[key].commits[-1]
    for path in (*commit.files, *commit.large):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(hub.content(key, path))
    return folder


def new_environment(folder: Path, requirements: Path) -> Path:
    """Install requirements into a new virtual environment and return its python."""
    python = folder / "bin" / "python"
    uv = shutil.which("uv")
    if uv is not None:
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", python, "-r", requirements], check=True)
    else:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", requirements], check=True)
    return python


@pytest.mark.slow  # installs torch and gradio from a package index
@pytest.mark.timeout(1800)
def test_a_pushed_space_runs_in_a_clean_environment(tmp_path: Path) -> None:
    run_finetune(make_model(tmp_path / "base"), make_images(tmp_path / "images"), tmp_path / "output")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with FakeHub() as hub:
        settings = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
        settings |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": WRITE_TOKEN}
        settings |= {"HF_HUB_DISABLE_XET": "1"}
        command = [sys.executable, "-m", "hfft", "push", str(tmp_path / "output"), "--repo_id", "colours", "--space"]
        subprocess.run(command, env=settings, check=True)
        key = "spaces/writer/colours"
        folder = pulled_space(hub, key, tmp_path / "space")
        python = new_environment(tmp_path / "environment", folder / "requirements.txt")
        settings |= hub.repos[key].variables
        settings |= {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port)}
        with (tmp_path / "log").open("w") as log:
            app = subprocess.Popen([python, "space_app.py"], cwd=folder, env=settings, stdout=log, stderr=log)
        try:
            assert "gradio" in wait_for(f"http://127.0.0.1:{port}/", app), (tmp_path / "log").read_text()
            assert hub.count("GET /objects/") > 0, "the model came from the Hub"
        finally:
            app.terminate()
            app.wait(timeout=30)


def wait_for(url: str, app: subprocess.Popen[bytes]) -> str:
    """Return the page as soon as the app serves it; nothing if the app ends or takes too long."""
    for _ in range(SECONDS):
        if app.poll() is not None:
            return ""
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  (our own address)
                return str(answer.read().decode())
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    return ""
