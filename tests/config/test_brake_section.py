"""`brake`: what is wrong is a sentence with its path."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest

from llmgw_core.config.schema import Config
from llmgw_core.config.schema_brake import BrakeConfig, brake_of
from llmgw_core.config.validate import validate
from llmgw_core.domain.brake import NO_BRAKE, Brake


def errors(**fields: Any) -> list[str]:
    config = Config(brake=BrakeConfig(**fields))
    return [str(error) for error in validate(config, today=dt.date(2026, 1, 1))]


def test_off_by_default() -> None:
    assert errors() == []
    assert brake_of(BrakeConfig()) == (NO_BRAKE, b"x-session-id", 16384)


def test_money_is_written_in_the_currency() -> None:
    section = BrakeConfig(session_money=Decimal("2.5"), velocity_floor=Decimal("0.000000001"))
    assert errors(session_money=Decimal("2.5")) == []
    assert brake_of(section)[0] == Brake(session_money=2_500_000_000, velocity_floor=1)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"session_money": Decimal(0)}, "brake.session_money: is an amount above 0"),
        ({"key_money": Decimal("NaN")}, "brake.key_money: is an amount"),
        ({"key_money": Decimal("1e30")}, "brake.key_money: is an amount"),
        ({"key_calls": 0}, "brake.key_calls: is a whole number from 1"),
        ({"key_repeats": 1}, "brake.key_repeats: is a whole number from 2"),
        ({"key_seconds": 0.5}, "brake.key_seconds: is a number of seconds"),
        ({"velocity_factor": 0.0}, "brake.velocity_factor: is a number from 1"),
        ({"shadow": ("rpm",)}, "brake.shadow: knows no `rpm`"),
        ({"shadow": ("key_calls",)}, "brake.shadow: names key_calls, which is not set"),
        ({"idle_seconds": 0.0}, "brake.idle_seconds: must be a number of seconds"),
        ({"session_header": "no header"}, "brake.session_header: must be the name of a header"),
        ({"session_header": "größe"}, "brake.session_header: must be the name of a header"),
        ({"session_bytes": 0}, "brake.session_bytes: must be from 1"),
    ],
)
def test_what_cannot_be_meant_is_said_with_its_path(fields: dict[str, Any], path: str) -> None:
    [error] = errors(**fields)
    assert error.startswith(path)
