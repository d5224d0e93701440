"""What the types cannot say about `accounting.retention`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgw_core.domain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmgw_core.config.schema import Config


def retention_errors(config: Config) -> Iterator[ConfigError]:
    """Every error in the section: sums stay at least as long as what they are sums of."""
    retention, path = config.accounting.retention, "accounting.retention"
    before, finer = 1, "rows"
    for name in ("rows", "hours", "days"):
        days = getattr(retention, name)
        if days < 0:
            yield ConfigError(f"{days} is no number of days; 0 is for ever.", path=f"{path}.{name}")
        elif days and (before == 0 or days < before):
            kept = "for ever" if before == 0 else f"for {before} days"
            yield ConfigError(
                f"these sums would be deleted after {days} days, but `{finer}` stays {kept};"
                " give at least as many days, or 0 for ever.",
                path=f"{path}.{name}",
            )
        before, finer = days, name
