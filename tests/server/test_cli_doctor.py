"""The command `doctor`, as operators call it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from llmgw_server.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest


def test_what_bites_and_what_cannot_is_said_and_told_to_programs(
    llmgw: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert llmgw("doctor") == "No limit is set anywhere.\n"
    llmgw("orgs", "create", "acme", "--models", "*", "--rpm", "600")
    llmgw("keys", "create", "--org", "acme", "--name", "ci", "--rpm", "60", "--burst", "5")
    llmgw("keys", "create", "--org", "acme", "--name", "free")
    before = sorted(tmp_path.iterdir())
    assert [line.split()[-1] for line in llmgw("doctor").splitlines()[1:]] == ["bites", "bites"]
    assert sorted(tmp_path.iterdir()) == before
    llmgw("keys", "set", "ci", "--rpd", "5000000", "--shadow", "rpm")
    assert main(["doctor", "--config", str(tmp_path / "llmgw.yaml")]) == 1
    captured = capsys.readouterr()
    assert captured.err == "llmgw-server: 2 of 3 limits cannot bite as they are set.\n"
    assert "  It is in shadow mode: it is counted and reported, and refuses nobody." in captured.out
    assert "  Take rpm out of `shadow` to have it refuse." in captured.out
    assert main(["doctor", "--json", "--config", str(tmp_path / "llmgw.yaml")]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["cannot_bite"] == 2
    kinds = [each["problem"] and each["problem"]["kind"] for each in document["limits"]]
    assert kinds == [None, "shadow", "hidden"]


def test_what_there_was_no_time_for_is_not_said_to_bite(
    llmgw: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    llmgw("orgs", "create", "acme", "--models", "*", "--rpm", "600")
    llmgw("keys", "create", "--org", "acme")
    assert main(["doctor", "--seconds", "0", "--config", str(tmp_path / "llmgw.yaml")]) == 1
    assert "UNTRIED" in capsys.readouterr().out
