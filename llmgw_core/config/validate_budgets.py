"""What the types cannot say about `budgets`. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from llmgw_core.config.errors import join
from llmgw_core.domain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmgw_core.config.schema_budgets import BudgetsConfig

_SHORTEST_SECRET: Final = 16
_MOST_ATTEMPTS: Final = 20


def budgets_errors(budgets: BudgetsConfig, path: str) -> Iterator[ConfigError]:
    """Every error in `budgets`. Addresses and secrets are not quoted."""
    if budgets.webhook and not _is_url(budgets.webhook):
        message = "must be a URL like https://host/path, without user and password in it."
        yield ConfigError(message, path=join(path, "webhook"))
    if budgets.webhook_secret and len(budgets.webhook_secret) < _SHORTEST_SECRET:
        message = f"must have at least {_SHORTEST_SECRET} characters."
        yield ConfigError(message, path=join(path, "webhook_secret"))
    if budgets.webhook_secret and not budgets.webhook:
        message = "signs what the `webhook` is told; give that as well."
        yield ConfigError(message, path=join(path, "webhook_secret"))
    if not 0 < budgets.webhook_timeout < math.inf:
        message = "must be a number of seconds greater than 0."
        yield ConfigError(message, path=join(path, "webhook_timeout"))
    if not 1 <= budgets.webhook_attempts <= _MOST_ATTEMPTS:
        message = f"must be from 1 to {_MOST_ATTEMPTS}."
        yield ConfigError(message, path=join(path, "webhook_attempts"))


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        port = parts.port
        (parts.hostname or "").encode("idna")
    except ValueError:
        return False
    known = parts.scheme in {"http", "https"} and bool(parts.hostname) and port != 0
    return known and parts.username is None and not parts.fragment and text.isprintable()
