from __future__ import annotations

import datetime as dt
import math
from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.domain.limits import Limits
from llmgw_core.tenancy import rules
from llmgw_core.tenancy.errors import TenancyError

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        (rules.name, ""),
        (rules.name, " acme"),
        (rules.name, "a" * 101),
        (rules.name, "two\nlines"),
        (rules.name, "\ud800"),
        (rules.name, "team_" + "a" * 22),
        (rules.email, "nobody"),
        (rules.email, "a b@example.org"),
        (rules.email, "a@" + "b" * 320),
        (rules.email, ""),
        (rules.actor, ""),
        (rules.actor, "a\x00"),
        (rules.actor, "a" * 201),
        (rules.role, "owner"),
        (rules.models, "gpt-4o"),
        (rules.models, ["gpt 4"]),
        (rules.models, ["tag:"]),
        (rules.models, ["*"] * 1001),
        (rules.zones, "eu"),
        (rules.zones, ["e u"]),
        (rules.zones, [""]),
        (rules.zones, ["*"]),
        (rules.limits, Limits(rpm=0)),
        (rules.limits, Limits(tpm=-1)),
        (rules.limits, Limits(parallel=10**15 + 1)),
        (rules.limits, Limits(rpm=True)),
    ],
)
def test_what_is_not_valid_is_refused_with_a_sentence(
    rule: Callable[[Any], Any], value: Any
) -> None:
    with pytest.raises(TenancyError) as refused:
        rule(value)
    assert str(refused.value)[0] in "AT'"
    assert len(str(refused.value)) > 20


def test_lists_lose_repetitions_and_keep_their_order() -> None:
    assert rules.models(("b", "a*", "b", "tag:x")) == ["b", "a*", "tag:x"]
    assert rules.zones(["eu", "onprem", "eu"]) == ["eu", "onprem"]


def test_none_and_empty_lists_stay_different() -> None:
    assert rules.models(None) is None
    assert rules.models([]) == []
    assert rules.zones(None) is None
    assert rules.zones([]) == []


def test_what_is_valid_is_given_back() -> None:
    assert rules.name("Größe 9, Ltd.") == "Größe 9, Ltd."
    assert rules.email(None) is None
    assert rules.email("a@example.org") == "a@example.org"
    assert rules.role("admin") == "admin"
    assert rules.limits(Limits(rpm=1)) == {
        "rpm": 1,
        "tpm": None,
        "parallel": None,
        "limits": None,
    }


@pytest.mark.parametrize("moment", [99.0, 100.0, math.nan, math.inf, -math.inf])
def test_an_expiry_lies_in_the_future(moment: float) -> None:
    with pytest.raises(TenancyError, match="future"):
        rules.expiry(moment, now=100.0)


def test_an_expiry_has_a_date_that_can_be_written() -> None:
    last = dt.datetime(9999, 12, 31, 23, 59, tzinfo=dt.UTC).timestamp()
    assert rules.expiry(last, now=100.0) == last
    with pytest.raises(TenancyError, match="before the year 10000"):
        rules.expiry(last + 60, now=100.0)


def test_a_key_may_expire_later_or_never() -> None:
    assert rules.expiry(101, now=100.0) == 101.0
    assert rules.expiry(None, now=100.0) is None
