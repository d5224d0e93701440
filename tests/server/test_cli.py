"""The command line as its users call it: arguments in, text and exit codes out."""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.domain.errors import StoreUnavailable
from llmgw_core.domain.usage import Usage, UsageRecord
from llmgw_core.store.engine import Store
from llmgw_core.store.ledger import Ledger
from llmgw_server.cli import database, main
from llmgw_server.cli.errors import sentence
from llmgw_server.cli.options import moment
from llmgw_server.cli.output import money, shown

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]

CONFIG = """
models:
  smart:
    fallbacks: [small]
    prices:
      - {from: 2026-01-01, cost: {input: 1, output: 2}, charge: {input: 1.5, output: 3, call: 0.1}}
    deployments:
      - {name: a, backend: nothing, zone: eu}
      - name: b
        backend: nothing
        zone: onprem
        prices: [{from: 2026-01-01, cost: {input: 0.25, output: 0.5}}]
  small:
    prices: [{from: 2026-01-01, cost: {}}]
    deployments: [{name: a, backend: nothing, zone: onprem}]
"""


@pytest.fixture
def llmgw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must succeed, on one configuration; returns its standard output."""
    config = tmp_path / "llmgw.yaml"
    config.write_text(CONFIG)

    def run(*words: str) -> str:
        code = main([*words, "--config", str(config)])
        captured = capsys.readouterr()
        assert (code, captured.err) == (0, captured.err if "create" in words else "")
        return captured.out

    return run


@pytest.fixture
def fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must fail with 1; returns its sentence."""

    def run(*words: str) -> str:
        code = main([*words, "--config", str(tmp_path / "llmgw.yaml")])
        captured = capsys.readouterr()
        assert (code, captured.out) == (1, "")
        assert captured.err.startswith("llmgw-server: ")
        assert "Traceback" not in captured.err
        return captured.err.removeprefix("llmgw-server: ").strip()

    return run


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
            "STATE",
            "EXPIRES",
        ]
    )
    assert re.search(r"ci +\S{4} +acme +research +someone +- +- +- +- +- +active +\d{4}-", table[1])
    assert key.strip() not in "".join(table)
    teams = llmgw("teams", "list")
    assert re.search(r"research +acme +someone +- +- +- +1,000 +2 +active", teams)
    assert "someone@example.com" in llmgw("users", "list", "--org", "acme")
    gone = llmgw("teams", "remove-user", "research", "someone")
    assert re.search(r"no longer in team research. Revoked keys: key_\w+\.", gone)
    assert "revoked" in llmgw("keys", "list", "--user", "someone")
    assert llmgw("teams", "add-user", "research", "someone").startswith("User someone is now")
    assert llmgw("teams", "remove-user", "research", "someone").endswith("team research.\n")


def test_what_is_given_changes_and_the_rest_stays(llmgw: Callable[..., str]) -> None:
    llmgw("orgs", "create", "acme", "--models", "*", "--rpm", "60", "--tpm", "500")
    assert llmgw("orgs", "set", "acme", "--rpm", "none", "--zones", "eu").startswith("Changed")
    [org] = json.loads(llmgw("orgs", "list", "--json"))
    assert (org["models"], org["zones"]) == (["*"], ["eu"])
    assert org["limits"] == {"rpm": None, "tpm": 500, "parallel": None}
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


def test_errors_are_one_sentence(llmgw: Callable[..., str], fails: Callable[..., str]) -> None:
    assert fails("keys", "revoke", "nothing") == "There is no key 'nothing'."
    llmgw("orgs", "create", "acme")
    assert "already" in fails("orgs", "create", "acme")
    assert "must lie in the future" in fails(
        "keys", "create", "--org", "acme", "--expires", "2020-01-01"
    )


def test_a_database_that_does_not_answer_is_a_sentence() -> None:
    assert sentence(StoreUnavailable("x")).startswith("The database does not answer")


def test_check_names_every_error_by_its_path(fails: Callable[..., str], tmp_path: Path) -> None:
    config = tmp_path / "llmgw.yaml"
    config.write_text("models: {m: {deployments: [{name: a, zone: eu}]}}\nserver: {port: x}\n")
    errors = fails("check").splitlines()
    assert any(line.startswith("models.m.deployments[0]") for line in errors)
    assert any(line.startswith("server.port") for line in errors)
    config.write_text(CONFIG)
    assert "models.smart.deployments[0].backend" in fails("check")
    config.unlink()
    assert "cannot be read" in fails("check")


def test_check_counts_what_is_valid(llmgw: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "llmgw.yaml").write_text("{}")
    assert llmgw("check").endswith("is valid: 0 models, 0 deployments, 0 plugins.\n")


def test_models_shows_what_is_configured_and_what_it_costs_today(
    llmgw: Callable[..., str], tmp_path: Path
) -> None:
    lines = llmgw("models").splitlines()
    assert lines[0].split() == ["NAME", "KIND", "DEPLOYMENTS", "ZONES", "FALLBACKS", "PRICES"]
    assert "a (nothing),b (nothing)  eu,onprem  small" in lines[1]
    assert "1.5 in + 3 out USD/M + 0.1/call,0.25 in + 0.5 out USD/M" in lines[1]
    assert json.loads(llmgw("models", "--json"))[1]["prices"] == ["0 in + 0 out USD/M"]
    (tmp_path / "llmgw.yaml").write_text("{}")
    assert llmgw("models") == "There are no models.\n"


def test_plugins_shows_what_is_installed_and_what_is_enabled(
    llmgw: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    for name in ("alpha", "beta"):
        info = site / f"llmgw_{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: llmgw-{name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[llmgw]\n{name} = some_{name}:Plugin\n")
    (site / "some_beta.py").write_text(
        "from llmgw_core.hooks.specs import hookimpl\n"
        "class Plugin:\n"
        "    def __init__(self, config, context): pass\n"
        "    @hookimpl\n"
        "    async def startup(self): pass\n"
    )
    monkeypatch.syspath_prepend(str(site))
    (tmp_path / "llmgw.yaml").write_text("plugins: [{name: beta}]")
    rows = {row["name"]: row for row in json.loads(llmgw("plugins", "--json"))}
    assert rows["alpha"] | {"hooks": None, "order": None} == rows["alpha"]
    assert rows["beta"]["hooks"] == ["startup"]
    lines = llmgw("plugins").splitlines()
    assert lines[1].split() == ["1", "beta", "llmgw-beta", "1.0", "startup"]
    (tmp_path / "llmgw.yaml").unlink()
    assert "startup" not in llmgw("plugins")


def book(path: Path, *records: UsageRecord) -> None:
    async def insert() -> None:
        store = Store(f"sqlite:///{path}")
        await store.open()
        await Ledger(store).insert(records, [])
        await store.aclose()

    asyncio.run(insert())


RECORD = UsageRecord(
    call_id="1",
    started_ns=int(dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC).timestamp()) * 10**9,
    endpoint="chat.completions",
    organization_id="org_1",
    team_id=None,
    user_id=None,
    key_id=None,
    model="smart",
    served_model="smart",
    deployment="smart/a",
    zone="eu",
    stream=False,
    status="completed",
    http_status=200,
    error_code="",
    usage=Usage(1000, 20),
    cost=1_040_000,
    charge=2_000_000_000,
    currency="USD",
    duration_us=1,
    first_content_us=1,
    attempts=(),
)


def test_usage_adds_up_what_is_on_the_books(llmgw: Callable[..., str], tmp_path: Path) -> None:
    assert llmgw("usage") == "No usage yet.\n"
    estimated = msgspec.structs.replace(
        RECORD,
        call_id="2",
        model="small",
        started_ns=RECORD.started_ns + 86_400 * 10**9,
        usage=Usage(1, 2, source="estimated"),
        charge=0,
    )
    book(tmp_path / "llmgw.db", RECORD, estimated)
    lines = [line.split() for line in llmgw("usage", "--by", "model,day").splitlines()]
    assert lines == [
        ["MODEL", "DAY", "CALLS", "INPUT", "OUTPUT", "COST/USD", "CHARGE/USD", "ESTIMATED"],
        ["small", "2026-03-02", "1", "1", "2", "0.00104", "0.00", "100%"],
        ["smart", "2026-03-01", "1", "1,000", "20", "0.00104", "2.00", "0%"],
        ["TOTAL", "2", "1,001", "22", "0.00208", "2.00", "50%"],
    ]
    [line] = json.loads(llmgw("usage", "--by", "organization", "--since", "2026-03-02", "--json"))
    assert line["organization"] == "org_1"
    assert (line["cost_nano"], line["calls"], line["currency"]) == (1_040_000, 1, "USD")
    assert llmgw("usage", "--since", "1h") == "No usage in this time.\n"
    assert len(llmgw("usage", "--until", "2026-03-02").splitlines()) == 2


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


def test_an_interrupt_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("llmgw_server.cli.catalog._models", interrupted)
    assert main(["models"]) == 130
