from __future__ import annotations

import pytest

from llmgw_core.config.schema import AccountingConfig, Config
from llmgw_core.config.schema_retention import RetentionConfig
from llmgw_core.config.validate_retention import retention_errors


def errors(rows: int, hours: int, days: int) -> list[str]:
    section = AccountingConfig(retention=RetentionConfig(rows, hours, days))
    return [str(error) for error in retention_errors(Config(accounting=section))]


@pytest.mark.parametrize("kept", [(400, 400, 0), (0, 0, 0), (30, 0, 0), (30, 60, 90), (1, 1, 1)])
def test_sums_may_stay_longer_than_what_they_are_sums_of(kept: tuple[int, int, int]) -> None:
    assert errors(*kept) == []


@pytest.mark.parametrize(
    ("kept", "name", "reason"),
    [
        ((-1, 0, 0), "rows", "no number of days"),
        ((60, 30, 0), "hours", "stays for 60 days"),
        ((0, 30, 0), "hours", "stays for ever"),
        ((30, 60, 31), "days", "stays for 60 days"),
    ],
)
def test_sums_may_not_go_before_what_they_are_sums_of(
    kept: tuple[int, int, int], name: str, reason: str
) -> None:
    [error] = errors(*kept)
    assert f"accounting.retention.{name}" in error
    assert reason in error
