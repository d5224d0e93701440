"""The command line as its users call it: arguments in, text and exit codes out."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.domain.errors import StoreUnavailable
from llmgw_server.cli import database, main
from llmgw_server.cli.errors import sentence
from llmgw_server.cli.options import moment
from llmgw_server.cli.output import money, shown

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]


def test_an_organisation_with_its_teams_users_and_keys(llmgw: Callable[..., str]) -> None:
    llmgw("orgs", "create", "acme", "--models", "smart,small", "--zones", "eu", "--rpm", "60")
    llmgw("teams", "create", "research", "--org", "acme", "--tpm", "1000", "--parallel", "2")
    llmgw("users", "create", "someone", "--org", "acme", "--email", "someone@example.com")
    assert llmgw("teams", "add-user", "research", "someone", "--role", "admin") == (
        "User someone is now an admin of team research.\n"
    )
    key = llmgw(
        "keys", "create", "--team", "research", "--user", "someone", "--name", "ci",
        "--expires", "90d",
    )  # fmt: skip
    assert re.fullmatch(r"sk-llmgw-[0-9A-Za-z]+\n", key)
    [org] = json.loads(llmgw("orgs", "list", "--json"))
    assert (org["models"], org["zones"], org["limits"]["rpm"]) == (["smart", "small"], ["eu"], 60)
    table = llmgw("keys", "list", "--org", "acme").splitlines()
    assert table[0].split() == (
        [
            "ID",
            "NAME",
            "ENDS",
            "IN",
            "ORGANISATION",
            "TEAM",
            "USER",
            "MODELS",
            "ZONES",
            "RPM",
            "TPM",
            "PARALLEL",
            "MORE",
            "STATE",
            "EXPIRES",
        ]
    )
    assert re.search(
        r"ci +\S{4} +acme +research +someone +- +- +- +- +- +- +active +\d{4}-", table[1]
    )
    assert key.strip() not in "".join(table)
    teams = llmgw("teams", "list")
    assert re.search(r"research +acme +someone +- +- +- +1,000 +2 +- +active", teams)
    assert "someone@example.com" in llmgw("users", "list", "--org", "acme")
    gone = llmgw("teams", "remove-user", "research", "someone")
    assert re.search(r"no longer in team research. Revoked keys: key_\w+\.", gone)
    assert "revoked" in llmgw("keys", "list", "--user", "someone")
    assert llmgw("teams", "add-user", "research", "someone").startswith("User someone is now")
    assert llmgw("teams", "remove-user", "research", "someone").endswith("team research.\n")


def test_a_key_that_has_expired_does_not_look_active(
    llmgw: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    llmgw("orgs", "create", "acme", "--models", "*")
    llmgw("keys", "create", "--org", "acme", "--expires", "2999-01-01")
    assert "active" in llmgw("keys", "list")
    later = dt.datetime(2999, 1, 1, tzinfo=dt.UTC).timestamp()
    monkeypatch.setattr("llmgw_server.cli.keys.time", SimpleNamespace(time=lambda: later))
    assert "expired" in llmgw("keys", "list")


def test_what_is_given_changes_and_the_rest_stays(llmgw: Callable[..., str]) -> None:
    llmgw("orgs", "create", "acme", "--models", "*", "--rpm", "60", "--tpm", "500")
    assert llmgw("orgs", "set", "acme", "--rpm", "none", "--zones", "eu").startswith("Changed")
    [org] = json.loads(llmgw("orgs", "list", "--json"))
    assert (org["models"], org["zones"]) == (["*"], ["eu"])
    assert {name for name, value in org["limits"].items() if value} == {"tpm"}
    assert org["limits"]["tpm"] == 500
    llmgw("orgs", "set", "acme", "--zones", "inherit", "--name", "other")
    [org] = json.loads(llmgw("orgs", "list", "--json"))
    assert (org["name"], org["zones"]) == ("other", None)
    assert llmgw("orgs", "disable", "other").startswith("Disabled organisation other (org_")
    assert "disabled" in llmgw("orgs", "list")
    assert llmgw("orgs", "enable", "other").startswith("Enabled")
    llmgw("keys", "create", "--org", "other", "--name", "k", "--expires", "2999-01-01")
    llmgw("keys", "set", "k", "--expires", "never")
    assert json.loads(llmgw("keys", "list", "--json"))[0]["expires_at"] is None
    assert "active" in llmgw("keys", "list")
    llmgw("keys", "disable", "k")
    assert "disabled" in llmgw("keys", "list")
    assert llmgw("keys", "revoke", "k").startswith("Revoked key k")
    assert llmgw("orgs", "delete", "other").startswith("Deleted")
    assert json.loads(llmgw("keys", "list", "--json")) == []


def test_an_organisation_without_models_comes_with_a_hint(
    llmgw: Callable[..., str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    llmgw("orgs", "create", "acme", "--models", "*")
    assert main(["orgs", "create", "empty", "--config", str(tmp_path / "llmgw.yaml")]) == 0
    assert "no model yet" in capsys.readouterr().err
    main(["orgs", "create", "not one word", "--config", str(tmp_path / "llmgw.yaml")])
    assert "orgs set 'not one word' --models '*'" in capsys.readouterr().err


def test_errors_are_one_sentence(llmgw: Callable[..., str], fails: Callable[..., str]) -> None:
    assert fails("keys", "revoke", "nothing") == "There is no key 'nothing'."
    llmgw("orgs", "create", "acme")
    assert "already" in fails("orgs", "create", "acme")
    assert "must lie in the future" in fails(
        "keys", "create", "--org", "acme", "--expires", "2020-01-01"
    )


def test_a_database_that_does_not_answer_is_a_sentence() -> None:
    assert sentence(StoreUnavailable("x")).startswith("The database does not answer")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nonsense"],
        ["usage", "--by", "colour"],
        ["keys", "create", "--expires", "soon"],
        ["orgs", "create", "acme", "--rpm", "many"],
        ["serve", "--port", "70000"],
    ],
)
def test_a_wrong_command_line_is_exit_code_2(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "ahead", "seconds"),
    [
        ("90d", True, 1000 + 90 * 86400),
        ("2w", False, 1000 - 14 * 86400),
        ("30m", True, 2800),
        ("1970-01-02", True, 86400),
        ("1970-01-01T01:00:00+01:00", False, 0),
    ],
)
def test_moments_are_dates_or_spans(text: str, ahead: bool, seconds: float) -> None:
    assert moment(text, 1000, ahead=ahead) == seconds


@pytest.mark.parametrize(("text", "ahead"), [("999999999w", True), ("9999999d", False)])
def test_spans_end_where_dates_do(text: str, ahead: bool) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="beyond the years 1 to 9999"):
        moment(text, 0, ahead=ahead)


def test_what_is_no_moment_says_what_one_looks_like() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="neither a date like"):
        moment("tomorrow", 0, ahead=True)


@pytest.mark.parametrize(
    ("nano", "text"),
    [(0, "0.00"), (1, "0.000000001"), (-1_500_000_000, "-1.50"), (12_345 * 10**9, "12,345.00")],
)
def test_money_is_exact(nano: int, text: str) -> None:
    assert money(nano) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), ((), "(none)"), (True, "yes"), (False, "no"), (1234, "1,234")]
)
def test_cells_of_tables_say_nothing_by_a_dash(value: Any, text: str) -> None:
    assert shown(value) == text


def test_the_audit_log_names_the_user_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "operator")
    assert database.actor() == "cli:operator"

    def nobody() -> str:
        raise KeyError

    monkeypatch.setattr("getpass.getuser", nobody)
    assert database.actor() == "cli"


def command(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    return subprocess.run(
        [sys.executable, "-m", "llmgw_server", *words],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
        **options,
    )


def test_help_lists_the_commands_and_imports_none_of_them() -> None:
    result = command("--help")
    assert result.returncode == 0
    for name in ("serve", "demo", "check", "keys", "usage"):
        assert name in result.stdout
    modules = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "llmgw_server", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    for heavy in ("sqlalchemy", "starlette", "hypercorn", "aiohttp", "pluggy"):
        assert heavy not in modules


def test_a_reader_that_leaves_a_pipe_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "llmgw.yaml").write_text("{}")
    reader, writer = os.pipe()
    os.close(reader)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    with os.fdopen(writer, "w") as pipe:
        result = subprocess.run(
            [sys.executable, "-m", "llmgw_server", "models"],
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=tmp_path,
            timeout=60,
            check=False,
        )
    assert (result.returncode, result.stderr) == (0, "")


def test_an_output_that_has_no_such_letters_gets_escapes(tmp_path: Path) -> None:
    (tmp_path / "llmgw.yaml").write_text(
        "models: {größe: {deployments: [{name: one, backend: x, zone: z}]}}\n"
        "accounting: {unpriced: zero}",
        encoding="utf-8",
    )
    environment = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "PYTHONIOENCODING": "ascii",
    }
    for words in (["models"], ["models", "--json"]):
        told = subprocess.run(
            [sys.executable, "-m", "llmgw_server", *words],
            capture_output=True,
            env=os.environ | environment,
            cwd=tmp_path,
            timeout=60,
            check=True,
        )
        assert rb"gr\u00f6\u00dfe" in told.stdout


def test_nobody_has_to_listen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "llmgw.yaml").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdout", None)
    assert main(["models"]) == 0


def test_an_interrupt_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("llmgw_server.cli.catalog._models", interrupted)
    assert main(["models"]) == 130
    monkeypatch.setattr("importlib.import_module", interrupted)  # while a command is imported
    assert main(["models"]) == 130
