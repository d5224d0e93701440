"""What examples/reports.yaml promises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgw_core.config.load import load

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_the_example_of_reports_shows_nobody_alone(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
    monkeypatch.setenv("LLMGW_ADMIN_KEY", "an admin key of some length")
    config = load(repository / "examples" / "reports.yaml")
    assert not config.reports.users
    assert config.reports.minimum_group == 5
    assert config.reports.cost_header
    assert config.server.admin_key
