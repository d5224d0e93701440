"""`budgets`: what is wrong is a sentence with its path, and no secret is shown."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from llmgw_core.config.load import typed
from llmgw_core.config.schema import Config
from llmgw_core.config.schema_budgets import BudgetsConfig
from llmgw_core.config.validate import validate


def errors(**fields: Any) -> list[str]:
    config = typed(Config(budgets=BudgetsConfig(**fields)))
    return [str(error) for error in validate(config, today=dt.date(2026, 1, 1))]


def test_a_webhook_with_a_secret_is_right() -> None:
    assert errors(webhook="https://example.org/hook", webhook_secret="x" * 16) == []


@pytest.mark.parametrize(
    "url",
    [
        "example.org",
        "ftp://example.org/",
        "https://",
        "https://user:pw@example.org/",
        "http://a:0/",
        "http://a..b/",
    ],
)
def test_what_is_no_address_is_refused_and_not_quoted(url: str) -> None:
    [error] = errors(webhook=url)
    assert error.startswith("budgets.webhook: must be a URL like")
    assert "pw" not in error


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"webhook": "http://a/", "webhook_secret": "short"}, "webhook_secret: must have at least"),
        ({"webhook_secret": "x" * 16}, "webhook_secret: signs what the `webhook` is told"),
        ({"webhook_timeout": 0.0}, "webhook_timeout: must be a number of seconds greater than 0"),
        ({"webhook_timeout": float("inf")}, "webhook_timeout: must be a number of seconds"),
        ({"webhook_attempts": 0}, "webhook_attempts: must be from 1 to 20"),
    ],
)
def test_each_error_has_its_path(fields: dict[str, Any], error: str) -> None:
    [found] = errors(**fields)
    assert found.startswith(f"budgets.{error}")


def test_neither_address_nor_secret_is_shown() -> None:
    shown = repr(BudgetsConfig(webhook="https://secret.example/", webhook_secret="s" * 20))
    assert shown == "BudgetsConfig(reply_headers=False)"
