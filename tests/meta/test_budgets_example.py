"""What examples/budgets.yaml and the page on budgets promise, by the page's own commands."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from typing import TYPE_CHECKING

import msgspec

from llmgw_core.config.load import load
from llmgw_core.config.schema_budgets import BudgetsConfig
from llmgw_core.gateway import Gateway
from llmgw_core.testing.canonical_plugin import CanonicalPlugin
from llmgw_core.testing.client import Client
from llmgw_core.testing.installation import at
from llmgw_core.testing.model_server import ModelServer, completion
from llmgw_server.cli import main

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from llmgw_core.config.schema import Config

EURO = 10**9
DEAR = 21_000_000
"""Tokens of output that cost 210 euros."""


def test_the_commands_of_the_page_do_what_it_says(
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("OPENAI_API_KEY", "BUDGET_WEBHOOK_SECRET"):
        monkeypatch.setenv(name, "a secret of some length")
    monkeypatch.setenv("BUDGET_WEBHOOK", "https://chat.example.org/hooks/llm-budgets")
    file = tmp_path / "budgets.yaml"
    file.write_text((repository / "examples" / "budgets.yaml").read_text())

    def run(*words: str) -> str:
        assert main([*words, "--config", str(file)]) == 0
        return capsys.readouterr().out

    run("orgs", "create", "acme", "--models", "*")
    run("teams", "create", "research", "--org", "acme")
    key = run("keys", "create", "--team", "research", "--name", "ci")
    page = (repository / "docs" / "how-to" / "budgets.md").read_text()
    commands = re.findall(r"^llmgw-server (budgets .*)$", page, re.MULTILINE)
    assert len(commands) == 8
    for command in commands:
        run(*shlex.split(command))
    states = json.loads(run("budgets", "list", "--json"))
    found = {(each["level"], each["period"], each["fallback"]): each["amount"] for each in states}
    assert found == {
        ("organization", "total", ""): 10_000 * EURO,
        ("team", "month", "small"): 200 * EURO,
        ("team", "month", ""): 250 * EURO,
        ("key", "day", ""): 2_000_000,
    }
    run("budgets", "remove", "key", "ci")  # or its tokens would be used up first
    asyncio.run(call(load(file), tmp_path, key.split()[-1]))


async def call(config: Config, base: Path, key: str) -> None:
    """From 200 on the small model answers, and says so."""
    async with ModelServer() as server:
        models = {
            name: msgspec.structs.replace(model, deployments=(at(server, name),))
            for name, model in config.models.items()
        }
        told = BudgetsConfig(reply_headers=True)
        own = msgspec.structs.replace(config, models=models, plugins=(), budgets=told)
        server.reply = msgspec.json.encode(completion(input=1, output=DEAR))
        plugins = [("canonical", CanonicalPlugin)]
        async with Gateway.open(own, base_dir=base, plugins=plugins) as gateway:
            client = Client(gateway, key)
            replies = [await client.chat("smart", max_tokens=100) for _ in range(2)]
            assert [reply.status for reply in replies] == [200, 200]
            fallbacks = [reply.headers.get("x-llmgw-budget-fallback") for reply in replies]
            assert fallbacks == [None, "small"]
            assert replies[1].headers["x-llmgw-budget-remaining-money"] == "0"
