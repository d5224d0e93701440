"""`routing.streams` and `routing.overload`: what is wrong is a sentence with its path."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from llmgw_core.config.load import typed
from llmgw_core.config.schema import Config
from llmgw_core.config.schema_routing import RoutingConfig
from llmgw_core.config.schema_streams import OverloadConfig, QueueRule, StreamsConfig
from llmgw_core.config.validate import validate

DAY = dt.date(2026, 1, 1)


def errors(**sections: Any) -> list[str]:
    config = typed(Config(routing=RoutingConfig(**sections)))
    return [str(error) for error in validate(config, today=DAY)]


@pytest.mark.parametrize("field", ["held_bytes", "held_events", "keep_alive_seconds"])
@pytest.mark.parametrize("value", [0, -1])
def test_what_is_held_and_how_often_a_comment_comes_is_more_than_nothing(
    field: str, value: int
) -> None:
    assert errors(streams=StreamsConfig(**{field: value})) == [
        f"routing.streams.{field}: must be greater than 0."
    ]


@pytest.mark.parametrize("field", ["in_flight", "length", "wait_seconds"])
def test_caps_and_waits_are_more_than_nothing(field: str) -> None:
    fields: dict[str, Any] = {field: 0}
    assert errors(overload=OverloadConfig(**fields)) == [
        f"routing.overload.{field}: must be greater than 0."
    ]


def test_never_is_no_number_of_seconds() -> None:
    assert errors(overload=OverloadConfig(wait_seconds=float("inf"))) == [
        "routing.overload.wait_seconds: must be greater than 0."
    ]


def test_a_rule_says_whom_it_is_for() -> None:
    rules = (QueueRule(organization="a"), QueueRule(priority="high"))
    assert errors(overload=OverloadConfig(rules=rules)) == [
        (
            "routing.overload.rules[1]: fits every call; say for whom it is: `organization`,"
            " `team`, `user`, `key`, `tag`."
        )
    ]


@pytest.mark.parametrize("field", ["team", "user"])
def test_teams_and_users_are_those_of_an_organisation(field: str) -> None:
    rule: Any = QueueRule(**{field: "x"})  # type: ignore[arg-type]
    assert errors(overload=OverloadConfig(rules=(rule,))) == [
        (
            "routing.overload.rules[0]: names of teams and users are known within an `organization`"
            " only; name it, too."
        )
    ]


def test_a_weight_is_more_than_nothing() -> None:
    rules = (QueueRule(tag="batch", weight=0.0),)
    assert errors(overload=OverloadConfig(rules=rules)) == [
        "routing.overload.rules[0].weight: must be greater than 0."
    ]


def test_the_defaults_are_valid() -> None:
    assert errors() == []
