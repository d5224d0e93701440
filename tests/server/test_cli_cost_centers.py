"""The command `cost-centers`, as its users call it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from llmgw_server.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def tenant(llmgw: Callable[..., str]) -> None:
    llmgw("orgs", "create", "acme", "--models", "*")
    llmgw("teams", "create", "research", "--org", "acme")
    llmgw("keys", "create", "--team", "research", "--name", "ci")


@pytest.mark.usefixtures("tenant")
def test_whose_calls_go_on_which_cost_centre_and_when(llmgw: Callable[..., str]) -> None:
    made = llmgw("cost-centers", "create", "CC-100", "--name", "Research", "--owner", "R. Head")
    assert re.fullmatch(r"Created cost centre CC-100 \(cc_\w{22}\)\.\n", made)
    llmgw("cost-centers", "create", "CC-200", "--valid-from", "2026-10-01")
    llmgw("cost-centers", "set", "CC-200", "--valid-until", "2027-10-01")
    listed = llmgw("cost-centers", "list").splitlines()
    assert re.fullmatch(r"CC-100 +Research +R. Head +- +-", listed[1])
    assert re.fullmatch(r"CC-200 +CC-200 +- +2026-10-01T00:00:00Z +2027-10-01T00:00:00Z", listed[2])
    assigned = llmgw(
        "cost-centers", "assign", "CC-100", "--team", "research",
        "--from", "2026-10-01T00:00+02:00",
    )  # fmt: skip
    assert assigned.splitlines() == [
        "Calls of the team research go on CC-100 from 2026-09-30T22:00:00Z.",
        "A gateway that runs knows within 5 s.",
        (
            "Of 0 calls since then that are on the books, 0 have moved; `cost-centers rebook` does"
            " it again for what comes late."
        ),
    ]
    moved = llmgw("cost-centers", "rebook", "--from", "2026-10-01")
    assert moved == "0 of 0 calls have moved.\n"
    llmgw(
        "cost-centers", "assign", "CC-200", "--key", "ci", "--from", "2026-11-01",
        "--until", "2026-12-01",
    )  # fmt: skip
    shown = llmgw("cost-centers", "show").splitlines()
    assert re.fullmatch(r"CC-200 +key +ci +2026-11-01T00:00:00Z +2026-12-01T00:00:00Z", shown[1])
    assert re.fullmatch(r"CC-100 +team +research +2026-09-30T22:00:00Z +-", shown[2])
    [only] = json.loads(llmgw("cost-centers", "show", "CC-100", "--json"))
    assert (only["level"], only["code"], only["until_ns"]) == ("team", "CC-100", None)
    ended = llmgw("cost-centers", "unassign", "--team", "research")
    assert ended.startswith("The team research has no cost centre of its own any more; it had CC")
    assert len(json.loads(llmgw("cost-centers", "list", "--json"))) == 2


@pytest.mark.usefixtures("tenant")
def test_what_calls_may_choose(llmgw: Callable[..., str]) -> None:
    for code in ("P-1", "P-2"):
        llmgw("cost-centers", "create", code)
    allowed = llmgw("cost-centers", "allow", "P-2", "P-1", "--key", "ci")
    assert allowed.startswith("Calls of the key ci may choose P-1, P-2 in x-llmgw-cost-center.\n")
    none = llmgw("cost-centers", "allow", "--key", "ci")
    assert none.startswith("The key ci has no list of its own any more.\n")


@pytest.mark.usefixtures("tenant")
def test_mistakes_are_told_in_a_sentence(
    llmgw: Callable[..., str],
    fails: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    llmgw("cost-centers", "create", "P-1", "--valid-until", "none")
    assert fails("cost-centers", "show", "P-9") == "There is no cost centre 'P-9'."
    assert "no team 'x'" in fails("cost-centers", "assign", "P-1", "--team", "x")
    with pytest.raises(SystemExit):
        main(["cost-centers", "assign", "P-1"])
    assert "--team" in capsys.readouterr().err
