"""What examples/prices.yaml promises happens."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from llmgw_server.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def run(
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., str]:
    """Runs a command on a copy of the example; returns what it prints."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-first")
    monkeypatch.setenv("PROVIDER_KEY", "sk-second")
    for name in ("prices.yaml", "exchange-rates.csv"):
        shutil.copy(repository / "examples" / name, tmp_path)

    def runs(*words: str) -> str:
        assert main([*words, "--config", str(tmp_path / "prices.yaml")]) == 0
        return capsys.readouterr().out

    return runs


def test_check_says_how_old_the_prices_of_the_catalogue_are(run: Callable[..., str]) -> None:
    said = run("check").splitlines()
    assert said[0].endswith("prices.yaml is valid: 3 models, 3 deployments, 2 plugins.")
    assert said[1].startswith("note: 1 price of a catalogue, seen on 2026-")
    assert "(`openai/gpt-4o`)" in said[1]


def test_prices_are_those_of_the_page(run: Callable[..., str]) -> None:
    rows: list[dict[str, Any]] = json.loads(run("prices", "list", "--json"))
    sheets = {(row["deployment"], row["sheet"].get("tier", 0)): row["sheet"] for row in rows}
    listed = sheets["gpt-4o/openai", 0]
    assert listed["currency"] == "EUR"
    currency, rate = listed["exchange"].split()
    assert currency == "USD"
    # 2.5 dollars less 20 percent, and 5 percent more for tenants.
    assert listed["cost"]["input"] == 2 * int(float(rate) * 10**9)
    assert listed["charge"]["input"] == round(listed["cost"]["input"] * 1.05)
    short, long = sheets["long-reader/provider", 0], sheets["long-reader/provider", 200_000]
    if dt.datetime.now(dt.UTC).year < 2027:
        assert long["cost"]["input"] == 2 * short["cost"]["input"]
    own = sheets["house-model/rack", 0]
    assert (own["cost"]["input"], own["charge"]["image"]) == (50_000_000, 1_000_000)
    assert "exchange" not in own
