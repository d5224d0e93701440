"""`check`, `models`, `plugins` and `usage`."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from typing import TYPE_CHECKING

import msgspec

from llmgw_core.domain.usage import Usage, UsageRecord
from llmgw_core.store.engine import Store
from llmgw_core.store.ledger import Ledger
from llmgw_core.testing.usage_records import usage_record
from llmgw_server.cli import main

from .conftest import CONFIG

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest


def test_check_names_every_error_by_its_path(fails: Callable[..., str], tmp_path: Path) -> None:
    config = tmp_path / "llmgw.yaml"
    config.write_text("models: {m: {deployments: [{name: a, zone: eu}]}}\nserver: {port: x}\n")
    errors = fails("check").splitlines()
    assert any(":1:28: models.m.deployments[0]: the key `backend`" in line for line in errors)
    assert any(":2:10: server.port: expected" in line for line in errors)
    config.write_text(CONFIG)
    assert "models.smart.deployments[0].backend" in fails("check")
    config.write_text("store: {url: 'postgresql://user:SECRET@host/db'}")
    assert "llmgw.yaml:1:9: store.url: the store must be an SQLite file" in fails("check")
    assert "SECRET" not in fails("check")
    config.unlink()
    assert "cannot be read" in fails("check")


def test_check_counts_what_is_valid(llmgw: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "llmgw.yaml").write_text("{}")
    assert llmgw("check").endswith("is valid: 0 models, 0 deployments, 0 plugins.\n")


def test_models_shows_what_is_configured_and_what_it_costs_today(
    llmgw: Callable[..., str], tmp_path: Path
) -> None:
    lines = llmgw("models").splitlines()
    titles = ["NAME", "KIND", "STATE", "DEPLOYMENTS", "ZONES", "FALLBACKS", "PRICES"]
    assert lines[0].split() == titles
    assert "active  a (nothing),b (nothing)  eu,onprem  small" in lines[1]
    assert "1.5 in + 3 out USD/M + 0.1/call,0.25 in + 0.5 out USD/M" in lines[1]
    assert json.loads(llmgw("models", "--json"))[1]["prices"] == ["0 in + 0 out USD/M"]
    (tmp_path / "llmgw.yaml").write_text("{}")
    assert llmgw("models") == "There are no models.\n"


def test_plugins_shows_what_is_installed_and_what_is_enabled(
    llmgw: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
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
    monkeypatch.chdir(tmp_path)
    assert main(["plugins"]) == 0  # without a configuration nothing is enabled
    assert "startup" not in capsys.readouterr().out
    assert main(["plugins", "--config", "lamgw.yaml"]) == 1
    assert "cannot be read" in capsys.readouterr().err


def book(path: Path, *records: UsageRecord) -> None:
    async def insert() -> None:
        store = Store(f"sqlite:///{path}")
        await store.open()
        await Ledger(store).insert(records, [])
        await store.aclose()

    asyncio.run(insert())


RECORD = usage_record(
    call_id="1",
    started_ns=int(dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC).timestamp()) * 10**9,
    organization_id="org_1",
    model="smart",
    usage=Usage(1000, 20),
    cost=1_040_000,
    charge=2_000_000_000,
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
