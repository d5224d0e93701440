"""Limits on the command line, on every level."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from llmgw_server.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable


def of(llmgw: Callable[..., str], kind: str) -> dict[str, Any]:
    [only] = json.loads(llmgw(kind, "list", "--json"))
    return {**only["limits"], "model_limits": only["model_limits"]}


def given(limits: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in limits.items() if value not in (None, [])}


@pytest.mark.parametrize("kind", ["orgs", "teams", "users", "keys"])
def test_limits_are_created_changed_listed_and_taken_away(
    llmgw: Callable[..., str], kind: str
) -> None:
    options = [
        "--rpm", "60", "--rpd", "1000", "--tpd", "5000000", "--input-tpm", "900", "--output-tpm",
        "100", "--input-tpd", "9000", "--output-tpd", "1000", "--parallel", "4", "--burst", "2.5",
        "--shadow", "rpd,input-tpm", "--model-limit", "gpt-*:rpm=5,tpd=1000",
        "--model-limit", "tag:big:output-tpm=7,burst=10,shadow=output-tpm",
    ]  # fmt: skip
    if kind != "orgs":
        llmgw("orgs", "create", "acme")
        options = ["--org", "acme", *options]
    name = [] if kind == "keys" else ["x"]
    llmgw(kind, "create", *name, *options)
    [made] = json.loads(llmgw(kind, "list", "--json"))
    limits = of(llmgw, kind)
    assert given(limits) == {
        "rpm": 60,
        "rpd": 1000,
        "tpd": 5_000_000,
        "input_tpm": 900,
        "output_tpm": 100,
        "input_tpd": 9000,
        "output_tpd": 1000,
        "parallel": 4,
        "burst": 2.5,
        "shadow": ["rpd", "input_tpm"],
        "model_limits": limits["model_limits"],
    }
    assert [(p, given(each)) for p, each in limits["model_limits"]] == [
        ("gpt-*", {"rpm": 5, "tpd": 1000}),
        ("tag:big", {"output_tpm": 7, "burst": 10.0, "shadow": ["output_tpm"]}),
    ]
    table = llmgw(kind, "list")
    assert "burst=2.5,shadow=rpd+input-tpm gpt-*:rpm=5,tpd=1000 tag:big:output-tpm=7" in table
    llmgw(
        kind, "set", made["id"], "--rpd", "none", "--shadow", "none", "--burst", "none",
        "--model-limit", "gpt-*:none", "--model-limit", "x:rpm=1",
    )  # fmt: skip
    after = of(llmgw, kind)
    assert (after["rpd"], after["shadow"], after["burst"], after["rpm"]) == (None, [], None, 60)
    assert [pattern for pattern, _ in after["model_limits"]] == ["tag:big", "x"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--rpd", "0"], "The limit rpd is a whole number from 1"),
        (["--rpd", "5", "--burst", "3"], "burst shapes limits by the minute, and there is none"),
        (["--rpm", "5", "--shadow", "tpw"], "shadow knows no `tpw`"),
        (["--model-limit", "a b:rpm=5"], "'a b' cannot be limited"),
    ],
)
@pytest.mark.usefixtures("llmgw")
def test_what_is_no_limit_is_refused(
    fails: Callable[..., str], options: list[str], says: str
) -> None:
    assert says in fails("orgs", "create", "acme", *options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--burst", "soon"], "'soon' is neither a number of seconds nor `none`"),
        (["--model-limit", "gpt"], "'gpt' is not like gpt-*:rpm=5,tpd=1000"),
        (["--model-limit", "gpt:rpw=5"], "'rpw=5' is no limit like rpm=5; there are rpm, tpm"),
        (["--model-limit", "gpt:rpm=five"], "'five' is neither a whole number nor `none`"),
    ],
)
def test_what_cannot_be_read_is_said(
    capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    with pytest.raises(SystemExit):
        main(["orgs", "create", "acme", *options])
    assert says in capsys.readouterr().err
