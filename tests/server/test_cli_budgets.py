"""The command `budgets`, as its users call it, and the page and metrics of a gateway that runs."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from llmgw_server.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def tenant(llmgw: Callable[..., str]) -> None:
    llmgw("orgs", "create", "acme", "--models", "*")
    llmgw("teams", "create", "research", "--org", "acme")
    llmgw("users", "create", "ada", "--org", "acme")
    llmgw("keys", "create", "--team", "research", "--name", "ci")


@pytest.fixture
def listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs `budgets list` while no gateway can be asked."""

    def run(*words: str) -> str:
        assert main(["budgets", "list", *words, "--config", str(tmp_path / "llmgw.yaml")]) == 0
        captured = capsys.readouterr()
        assert "What has not come to the ledger yet is not counted." in captured.err
        return captured.out

    return run


@pytest.mark.usefixtures("tenant")
def test_budgets_are_set_listed_and_removed(
    llmgw: Callable[..., str], listed: Callable[..., str]
) -> None:
    said = llmgw("budgets", "set", "team", "research", "--money", "250.50", "--tz", "Europe/Berlin")
    assert said.splitlines() == [
        "Team research may spend 250.5 USD by the month (Europe/Berlin).",
        "A gateway that runs knows within 5 s.",
    ]
    llmgw("budgets", "set", "team", "research", "--money", "300", "--tz", "Europe/Berlin")
    llmgw("budgets", "set", "org", "acme", "--tokens", "1000000", "--per", "total", "--shadow")
    llmgw("budgets", "set", "key", "ci", "--tokens", "500", "--per", "day", "--alerts", "none")
    llmgw("budgets", "set", "user", "ada", "--money", "1", "--per", "week", "--alerts", "90%,50%")
    states = {each["level"]: each for each in json.loads(listed("--json"))}
    assert {level: each["amount"] for level, each in states.items()} == {
        "organization": 1_000_000,
        "team": 300 * 10**9,
        "user": 10**9,
        "key": 500,
    }
    assert states["team"]["timezone"] == "Europe/Berlin"
    assert states["user"]["alerts"] == [50, 90]
    assert (states["key"]["alerts"], states["organization"]["end_ns"]) == ([], None)
    lines = listed().splitlines()
    assert lines[0].split()[:6] == ["LEVEL", "NAME", "ID", "UNIT", "PER", "AMOUNT"]
    [team] = [line for line in lines if line.startswith("team")]
    assert re.search(r"money +month +300 +0 +0 +300 +\d{4}-\d\d-01 00:00\+0[12]00 +refuse", team)
    [org] = [line for line in lines if line.startswith("org")]
    assert org.split()[-2:] == ["-", "shadow"]
    said = llmgw("budgets", "remove", "team", "research", "--per", "month")
    assert said.startswith("Team research has lost 1 of its budgets.")
    assert len(json.loads(listed("--json"))) == 3


@pytest.mark.usefixtures("tenant")
def test_a_fallback_that_there_is_not_is_worth_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ["--config", str(tmp_path / "llmgw.yaml")]
    words = ["budgets", "set", "team", "research", "--money", "5", "--fallback", "nobody"]
    assert main([*words, *config]) == 0
    assert "There is no model nobody" in capsys.readouterr().err


@pytest.mark.usefixtures("tenant")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["set", "team", "research", "--money", "0"], "more than 0"),
        (["set", "team", "research", "--money", "5", "--tz", "Mars/Olympus"], "is no time zone"),
        (["set", "team", "research", "--tokens", "5", "--alerts", "0"], "percentages"),
        (["set", "team", "research", "--tokens", "5", "--alerts", "5,5"], "percentages"),
        (["set", "team", "nobody", "--tokens", "5"], "There is no team 'nobody'"),
        (["set", "team", "research", "--tokens", "5", "--fallback", "x" * 300], "name of a model"),
        (["remove", "team", "research"], "has no such budget"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_sentence(
    fails: Callable[..., str], arguments: list[str], message: str
) -> None:
    assert message in fails("budgets", *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--money", "a lot"],
        ["--money", "0.0000000001"],
        ["--money", "nan"],
        ["--money", "9e999999"],
        ["--tokens", "1.5"],
        ["--tokens", "5", "--money", "5"],
        ["--tokens", "5", "--alerts", "half"],
        [],
    ],
)
def test_what_is_written_wrong_is_a_wrong_command_line(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["budgets", "set", "team", "research", *arguments])
    assert caught.value.code == 2
