"""`models`, `models canary` and `models retarget`, and what `check` says of aliases."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING

import pytest

from llmgw_core.config.load import load
from llmgw_core.store.engine import Store
from llmgw_core.tenancy.embedding_targets import EmbeddingTargets
from llmgw_core.tenancy.service import Tenancy
from llmgw_server.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from llmgw_core.tenancy.records import AuditEntry

CONFIG = """
accounting: {unpriced: zero}
plugins: [{name: canonical, path: plugin.py}]
models:
  old:
    life: {state: deprecated, deprecated: 2026-11-01, sunset: 2999-03-01, successor: chat}
    deployments: [{name: a, backend: canonical, zone: eu, options: {port: 1}}]
    prices: [{cost: {}}]
  old2:
    deployments: [{name: a, backend: canonical, zone: world, options: {port: 1}}]
    prices: [{cost: {}}]
  new:
    deployments: [{name: a, backend: canonical, zone: onprem, options: {port: 1}}]
    prices: [{cost: {}}]
  bge:
    kind: embedding
    dimensions: 1024
    deployments: [{name: a, backend: canonical, zone: onprem, options: {port: 1}}]
    prices: [{cost: {}}]
  e5:
    kind: embedding
    deployments: [{name: a, backend: canonical, zone: onprem, options: {port: 1}}]
    prices: [{cost: {}}]
aliases:
  chat:
    variants: [{model: old, weight: 95}, {model: old2, weight: 5}]
    canary: {steps: [5, 25]}
  embed:
    variants: [{model: bge}]
"""
PLUGIN = """
from llmgw_core.testing.canonical_plugin import CanonicalPlugin

class Plugin(CanonicalPlugin):
    pass
"""


@pytest.fixture
def file(tmp_path: Path, llmgw: Callable[..., str]) -> Path:
    """The configuration that the commands of the test are about."""
    (tmp_path / "plugin.py").write_text(PLUGIN)
    file = tmp_path / "llmgw.yaml"
    file.write_text(CONFIG)
    return file


def audited(file: Path) -> list[AuditEntry]:
    async def read() -> list[AuditEntry]:
        store = Store(load(file).store.url)
        await store.open()
        try:
            return await Tenancy(store).list_audit()
        finally:
            await store.aclose()

    return asyncio.run(read())


def record_targets(file: Path) -> None:
    """As a gateway does that starts with this configuration."""

    async def keep() -> None:
        config = load(file)
        store = Store(config.store.url)
        await store.open()
        async with EmbeddingTargets(store).keeping(config):
            pass
        await store.aclose()

    asyncio.run(keep())


def test_the_list_has_aliases_and_states(llmgw: Callable[..., str], file: Path) -> None:
    lines = llmgw("models").splitlines()
    assert "deprecated until 2999-03-01, then chat" in lines[1]
    assert lines[-2].split("  ")[:1] == ["chat"]
    assert "→ old 95 %,→ old2 5 %" in lines[-2]
    assert "eu,world" in lines[-2]
    rows = {row["name"]: row for row in json.loads(llmgw("models", "--json"))}
    assert (rows["old"]["state"], rows["old"]["successor"]) == ("deprecated", "chat")
    assert rows["chat"]["variants"][0] == {"model": "old", "weight": 95}
    assert "successor" not in rows["new"]
    assert rows["new"]["state"] == "active"


def test_a_canary_from_its_start_to_its_end(llmgw: Callable[..., str], file: Path) -> None:
    assert llmgw("models", "canary", "status") == "There has been no canary.\n"
    assert llmgw("models", "canary", "start", "chat", "new", "--share", "2.5") == (
        "2.5 % of the callers of chat get new, within 5 seconds in a running gateway.\n"
        "The gateway takes it out if it fails more often or is slower to its first token than the"
        " others, after 20 calls at the earliest.\n"
    )
    assert llmgw("models", "canary", "step", "chat").startswith("5 % of the callers of chat get")
    [row] = json.loads(llmgw("models", "canary", "status", "--json"))
    assert (row["alias"], row["model"], row["share"], row["state"]) == (
        ("chat", "new", 5.0, "running")
    )
    assert row["in_force"] is True
    assert llmgw("models", "canary", "promote", "chat") == (
        "All callers of chat get new, within 5 seconds in a running gateway.\n"
        f"That holds until the variants of chat in {file} change: make new its variant there.\n"
    )
    lines = llmgw("models", "canary", "status", "chat").splitlines()
    assert lines[0].split() == [
        *("ALIAS", "CANARY", "SHARE", "STATE", "STARTED", "CHANGED", "BY", "REASON")
    ]
    assert lines[1].split()[:5] == ["chat", "new", "100", "%", "promoted"]
    file.write_text(CONFIG.replace("{model: old, weight: 95}", "{model: new, weight: 95}"))
    assert "promoted, and no longer in force: the configuration has changed" in llmgw(
        "models", "canary", "status"
    )
    assert llmgw("models", "canary", "abort", "chat", "--reason", "too dear").startswith(
        "No caller of chat gets new as a canary any more, within 5 seconds"
    )
    assert "too dear" in llmgw("models", "canary", "status")
    assert llmgw("models", "canary", "status", "embed") == "There has been no canary.\n"
    entries = audited(file)
    assert [entry.action for entry in entries] == [
        *("canary_abort", "canary_promote", "canary_step", "canary_start")
    ]
    assert all(entry.actor.startswith("cli") for entry in entries)


def test_what_a_canary_is_watched_for_is_said(llmgw: Callable[..., str], file: Path) -> None:
    file.write_text(CONFIG.replace("[5, 25]}", "[5, 25], errors: null, minimum_calls: 7}"))
    assert "if it is slower to its first token than the others, after 7 calls" in llmgw(
        "models", "canary", "start", "chat", "new"
    )
    llmgw("models", "canary", "abort", "chat")
    file.write_text(CONFIG.replace("[5, 25]}", "[5, 25], errors: null, slower: null}"))
    assert "takes it out" not in llmgw("models", "canary", "start", "chat", "new")


def test_nonsense_is_one_sentence(
    llmgw: Callable[..., str], fails: Callable[..., str], file: Path
) -> None:
    assert "`old` is a model and not an alias" in fails("models", "canary", "start", "old", "new")
    assert "`embed` gives embeddings" in fails("models", "canary", "start", "embed", "e5")
    assert "greater than 0 and less than 100" in fails(
        "models", "canary", "start", "chat", "new", "--share", "100"
    )
    assert "No canary of `chat` is under way" in fails("models", "canary", "promote", "chat")


def test_a_configuration_may_be_named_before_the_action_too(
    llmgw: Callable[..., str], file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "--config", str(file), "canary", "status"]) == 0
    assert capsys.readouterr().out == "There has been no canary.\n"


def test_an_alias_of_embeddings_changes_with_force_only(
    llmgw: Callable[..., str], fails: Callable[..., str], file: Path
) -> None:
    assert llmgw("check").startswith(f"{file} is valid: 5 models, 2 aliases, 5 deployments")
    record_targets(file)
    file.write_text(CONFIG.replace("{model: bge}", "{model: e5}"))
    told = fails("check")
    assert ": aliases.embed: the alias has led to `bge` with 1024 dimensions until now" in told
    assert re.search(r"llmgw.yaml:2\d:3: aliases.embed", told)
    assert "repeat it with --force" in fails("models", "retarget", "embed")
    assert llmgw("models", "retarget", "embed", "--force") == (
        "`embed` may lead to `e5` from now on, in place of `bge` with 1024 dimensions.\n"
    )
    assert "is valid" in llmgw("check")


def test_a_check_makes_no_database_and_takes_an_older_one_as_it_is(
    llmgw: Callable[..., str], file: Path, tmp_path: Path
) -> None:
    assert "is valid" in llmgw("check")
    assert not (tmp_path / "llmgw.db").exists()
    (tmp_path / "llmgw.db").write_bytes(b"")
    assert "is valid" in llmgw("check")
    assert (tmp_path / "llmgw.db").read_bytes() == b""


def test_what_is_hardly_meant_is_a_warning_and_no_error(
    llmgw: Callable[..., str], file: Path
) -> None:
    file.write_text(CONFIG.replace("2999-03-01", "2026-11-02"))
    lines = llmgw("check").splitlines()
    assert lines[1].startswith("warning: ")
    assert "llmgw.yaml:6:" in lines[1]
    assert "models.old.life.sunset: the day has come" in lines[1]
    document = json.loads(llmgw("check", "--format", "json"))
    assert (document["valid"], document["errors"]) == (True, [])
    [warning] = document["warnings"]
    assert (warning["path"], warning["line"]) == ("models.old.life.sunset", 6)
