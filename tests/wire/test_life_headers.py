from __future__ import annotations

import datetime as dt
from email.utils import parsedate_to_datetime

import pytest

from llmgw_core.domain.life import ACTIVE, Life
from llmgw_core.wire.life import life_headers

SINCE, UNTIL = dt.date(2026, 11, 1), dt.date(2027, 3, 1)


def test_a_name_that_nothing_was_announced_of_has_no_headers() -> None:
    assert life_headers(ACTIVE) == ()
    assert life_headers(Life(state="preview", successor="next", link="https://a/b")) == ()


def test_deprecation_and_sunset_are_said_in_the_forms_of_their_standards() -> None:
    life = Life("deprecated", SINCE, UNTIL, "org/next one", "https://docs.example/old")
    headers = dict(life_headers(life))
    assert headers == {
        b"deprecation": b"@1793491200",
        b"sunset": b"Mon, 01 Mar 2027 00:00:00 GMT",
        b"link": (
            b'</v1/models/org%2Fnext%20one>; rel="successor-version",'
            b' <https://docs.example/old>; rel="deprecation"; type="text/html"'
        ),
    }
    assert dt.datetime.fromtimestamp(1793491200, dt.UTC).date() == SINCE
    assert parsedate_to_datetime(headers[b"sunset"].decode()).date() == UNTIL


def test_a_deprecation_is_announced_ahead_of_its_day() -> None:
    assert [name for name, _ in life_headers(Life(deprecated=SINCE))] == [b"deprecation"]


@pytest.mark.parametrize("state", ["deprecated", "retired"])
def test_a_successor_that_is_not_to_be_known_is_left_out(state: str) -> None:
    life = Life(state, SINCE, successor="secret")  # type: ignore[arg-type]
    assert [name for name, _ in life_headers(life, successor=False)] == [b"deprecation"]
