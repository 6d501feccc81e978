"""What the documents show is what was measured, and what they name exists."""

from __future__ import annotations

import json
import re
from argparse import Namespace
from pathlib import Path

import pytest
from scripted import load_script

from hfft.planning.policies import installed_policies

ROOT = Path(__file__).parents[2]


def test_every_policy_was_measured_over_three_seeds() -> None:
    runs = json.loads((ROOT / "docs" / "measured" / "policies.json").read_text())["runs"]
    policies = {run["policy"] for run in runs}
    assert {name.partition(":")[0] for name in policies} == installed_policies().keys() - {"attention", "lora"} | {
        "linear probe"
    }
    for policy in policies:
        assert sorted(run["seed"] for run in runs if run["policy"] == policy) == [1, 2, 3]


def test_the_pages_of_what_was_measured_are_current(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    pages = load_script("benchmarks").pages()
    names = {page.name for page in pages}
    assert names == {"benchmarks.md", "engines.md", "recipe.md", "export.md", "agents.md", "trust.md"}
    for page, text in pages.items():
        assert page.read_text(encoding="utf-8") == text


def test_benchmarks_write_what_the_pages_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    cache, peers = load_script("bench_cache"), load_script("bench_peers")
    took = dict.fromkeys(("plain", "empty", "filled", "floor"), cache.Measurement(1.0))
    assert cache.TITLES.keys() == cache.MODELS.keys()
    assert peers.TITLES.keys() == peers.WAYS.keys()
    found = {
        "cache": cache.run_of("resnet18", "head", took, Namespace(images=160, epochs=5)),
        "peers": peers.runs_of({way: [(0.9, 2.0), (0.8, 4.0)] for way in peers.WAYS})[-1],
    }
    for name, run in found.items():
        measured = json.loads((ROOT / "docs" / "measured" / f"{name}.json").read_text())["runs"]
        assert run.keys() == measured[0].keys()


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize(
    "page", sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")]), ids=lambda page: page.name
)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize(
    "page", sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]), ids=lambda page: page.name
)
def test_modules_and_tests_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    modules = re.findall(r"`((?:hfft|plugins|scripts|tests)/[\w/]+\.py)", text)
    assert not [module for module in modules if not (ROOT / module).exists()]
    tests = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)(?:\[[^`]*\])?`", text)
    assert not [test for test in named if f"def {test}(" not in tests]


def test_the_tests_that_the_page_of_tasks_names_exist() -> None:
    page = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w/]+\.py)::(\w+)`", page))
    assert len(named) > 10
    missing = [test for file, test in named if f"def {test}(" not in (ROOT / "tests" / file).read_text()]
    assert not missing


def test_policies_page_names_every_policy() -> None:
    page = (ROOT / "docs" / "policies.md").read_text(encoding="utf-8")
    assert all(f"`{name}" in page for name in installed_policies())
