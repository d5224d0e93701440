"""What reports show of people. Every call is charged a power of two, so that an amount tells which
calls are in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.config.schema_reports import ReportsConfig
from llmgw_core.domain.errors import GatewayError
from llmgw_core.reports.privacy import usage
from llmgw_core.testing.usage_records import STARTED_NS, usage_record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmgw_core.domain.usage import UsageRecord
    from llmgw_core.store.usage_report import Dimension, UsageRow

    from .conftest import Books

HOUR_NS = 3_600 * 10**9
ATTRIBUTES = {"team": "team_id", "key": "key_id", "model": "model"}
PERIODS = ("hour", "day", "month")

people = st.sampled_from([None, "ada", "bob", "eve", "joe"])
calls = st.lists(
    st.tuples(
        people,
        st.sampled_from([None, "t1", "t2", "t3"]),
        st.sampled_from(["m1", "m2"]),
        st.integers(0, 2),
        st.booleans(),
    ),
    min_size=1,
    max_size=14,
)
dimensions = st.lists(st.sampled_from([*ATTRIBUTES, *PERIODS]), unique=True, max_size=4)


def record(example: int, number: int, call: tuple[Any, ...], **changes: Any) -> UsageRecord:
    user, team, model, hour, with_key = call
    values = {
        "organization_id": f"org-{example}",
        "team_id": team,
        "user_id": user,
        "key_id": f"key of {user or team}" if with_key else None,
        "model": model,
        "started_ns": STARTED_NS + hour * HOUR_NS,
        "charge": 1 << number,
    }
    return usage_record(example * 100 + number, **{**values, **changes})


def inside(row: UsageRow, records: Sequence[UsageRecord]) -> list[UsageRecord]:
    """The calls that `row` is the sum of."""
    found = [each for number, each in enumerate(records) if row.charge >> number & 1]
    assert row.calls == len(found)
    assert row.charge < 1 << len(records)
    return found


def users(records: Sequence[UsageRecord]) -> set[str]:
    return {each.user_id for each in records if each.user_id is not None}


def ids(by: Sequence[Dimension], each: UsageRecord) -> tuple[str, ...]:
    """What the call itself has, apart from periods."""
    return tuple(getattr(each, ATTRIBUTES[name]) or "" for name in by if name in ATTRIBUTES)


@given(calls=calls, by=dimensions, minimum=st.integers(1, 5))
def test_nobody_is_shown_alone_and_totals_stay_true(
    books: Books, calls: list[tuple[Any, ...]], by: list[Dimension], minimum: int
) -> None:
    example = books.example()
    records = [record(example, number, call) for number, call in enumerate(calls)]
    books.run(books.ledger.insert(records, []))
    rules = ReportsConfig(minimum_group=minimum)
    only: dict[Dimension, str] = {"organization": f"org-{example}"}
    report = books.run(usage(books.ledger, rules, by, filters=only))
    of_users = {each.key_id for each in records if each.user_id is not None}
    seen: list[UsageRecord] = []
    periods: dict[tuple[str, ...], list[UsageRecord]] = {}
    for row in report:
        found = inside(row, records)
        seen += found
        assert len(users(found)) in {0, *range(minimum, 6)}
        assert not of_users & {id for name, id in zip(by, row.ids, strict=True) if name == "key"}
        shown = tuple(id for name, id in zip(by, row.ids, strict=True) if name in ATTRIBUTES)
        if any(shown):  # else it may be the remainder
            for each in found:
                own = ids(by, each)
                hidden = "key" in by and each.user_id is not None
                assert all(
                    (a == b) or (hidden and name == "key" and a == "")
                    for a, b, name in zip(
                        shown, own, (n for n in by if n in ATTRIBUTES), strict=True
                    )
                )
        period = tuple(id for name, id in zip(by, row.ids, strict=True) if name in PERIODS)
        periods.setdefault(period, []).extend(found)
    assert len(seen) == len({each.call_id for each in seen})
    for missing in (each for each in records if each not in seen):
        # Nothing is missing but where too few people are, and then all of them are.
        assert missing.user_id is not None or not by or minimum > 1
        same = [each for each in records if _together(by, each, missing)]
        assert len(users(same)) < minimum
        assert not users([each for each in same if each in seen])


def _together(by: Sequence[Dimension], one: UsageRecord, other: UsageRecord) -> bool:
    """Whether two calls are in the same period of the report."""
    hours = "hour" in by
    return not hours or one.started_ns // HOUR_NS == other.started_ns // HOUR_NS


@given(calls=calls, by=dimensions)
def test_with_permission_everything_is_there(
    books: Books, calls: list[tuple[Any, ...]], by: list[Dimension]
) -> None:
    example = books.example()
    records = [record(example, number, call) for number, call in enumerate(calls)]
    books.run(books.ledger.insert(records, []))
    only: dict[Dimension, str] = {"organization": f"org-{example}"}
    rules = ReportsConfig(users=True)
    report = books.run(usage(books.ledger, rules, [*by, "user"], filters=only))
    assert report == books.run(books.ledger.usage([*by, "user"], filters=only))
    assert sum(row.charge for row in report) == (1 << len(records)) - 1


@pytest.mark.parametrize(
    ("by", "filters"), [(["user"], {}), (["team", "user"], {}), ([], {"user": "ada"})]
)
def test_reports_by_user_are_refused(
    books: Books, by: list[Dimension], filters: dict[Dimension, str]
) -> None:
    with pytest.raises(GatewayError, match=r"`reports\.users`") as error:
        books.run(usage(books.ledger, ReportsConfig(), by, filters=filters))
    assert error.value.status == 403


def test_a_filter_by_the_key_of_a_user_finds_nothing(books: Books) -> None:
    example = books.example()
    calls = [("ada", "t1", "m1", 0, True), (None, "t1", "m1", 0, True)]
    records = [record(example, number, call) for number, call in enumerate(calls)]
    books.run(books.ledger.insert(records, []))
    for key, charge in (("key of ada", 0), ("key of t1", 2)):
        filters: dict[Dimension, str] = {"organization": f"org-{example}", "key": key}
        [row] = books.run(usage(books.ledger, ReportsConfig(), [], filters=filters))
        assert row.charge == charge


def test_one_small_group_takes_the_next_larger_one_with_it(books: Books) -> None:
    """Else the total would tell what it is."""
    example = books.example()
    calls = [
        *((user, "large", "m1", 0, False) for user in ("ada", "bob", "eve")),
        *((user, "medium", "m1", 0, False) for user in ("ada", "bob")),
        ("joe", "small", "m1", 0, False),
        (None, "service", "m1", 0, False),
    ]
    records = [record(example, number, call) for number, call in enumerate(calls)]
    books.run(books.ledger.insert(records, []))
    only: dict[Dimension, str] = {"organization": f"org-{example}"}
    rules = ReportsConfig(minimum_group=2)
    report = books.run(usage(books.ledger, rules, ["team"], filters=only))
    assert {row.ids[0]: row.charge for row in report} == {
        "": 0b111000,
        "large": 0b111,
        "service": 0b1000000,
    }
    # The same two people in two small groups are still two: the third takes the largest along.
    rules = ReportsConfig(minimum_group=3)
    report = books.run(usage(books.ledger, rules, ["team"], filters=only))
    assert {row.ids[0]: row.charge for row in report} == {
        "": 0b111000,
        "large": 0b111,
        "service": 0b1000000,
    }
    rules = ReportsConfig(minimum_group=4)
    report = books.run(usage(books.ledger, rules, ["team"], filters=only))
    assert {row.ids[0]: row.charge for row in report} == {"": 0b111111, "service": 0b1000000}
    rules = ReportsConfig(minimum_group=5)
    report = books.run(usage(books.ledger, rules, ["team"], filters=only))
    assert {row.ids[0]: row.charge for row in report} == {"service": 0b1000000}
    assert books.run(usage(books.ledger, rules, [], filters=only))[0].calls == 0


def test_the_remainder_and_what_has_no_team_are_one_line(books: Books) -> None:
    example = books.example()
    calls = [
        (None, None, "m1", 0, False),
        ("ada", "t1", "m1", 0, False),
        ("bob", "t2", "m1", 0, False),
    ]
    records = [record(example, number, call) for number, call in enumerate(calls)]
    books.run(books.ledger.insert(records, []))
    only: dict[Dimension, str] = {"organization": f"org-{example}"}
    rules = ReportsConfig(minimum_group=2)
    [row] = books.run(usage(books.ledger, rules, ["team", "day"], filters=only))
    assert (row.ids, row.names, row.charge) == (("", "2026-02-02"), ("", "2026-02-02"), 0b111)
