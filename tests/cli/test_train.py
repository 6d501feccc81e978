"""The commands that train: what their words are taken for."""

from __future__ import annotations

import pytest

from hfft.cli import main
from hfft.cli.commands import COMMANDS
from hfft.cli.reply import describe_unexpected


def test_images_are_given_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", "others", "--dataset_name", "photos", "--policies", "head", "last_block"]) == 2
    assert "give the images once: as DATA ('others' here)" in capsys.readouterr().err


def test_the_help_of_finetune_tells_of_records(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["finetune", "--help"])
    assert "--from_record hfft.json repeats the run" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"finetune", "cache"}))
def test_what_processes_do_not_share_takes_no_launcher(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each of them would do all of it, and write to the same place."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([name, "--help"]) == 2
    assert f"hfft {name} takes no launcher: start it as one process" in capsys.readouterr().err


def test_a_lost_connection_is_the_fault_of_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("[/pair.cc:553] Connection closed by peer [127.0.0.1]:39204")
    assert describe_unexpected(error)[0] == "unexpected"
    monkeypatch.setenv("WORLD_SIZE", "2")
    kind, text = describe_unexpected(error)
    assert kind == "other_process"
    assert text == "another process of this run has ended; its own message says why"
