from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest

from llmgw_core.domain.usage import Usage
from llmgw_core.store.ledger import Ledger
from llmgw_core.store.tenancy_tables import api_keys, organizations, teams, users
from llmgw_core.testing.usage_records import STARTED_NS, usage_record

if TYPE_CHECKING:
    from llmgw_core.store.engine import Store
    from llmgw_core.store.usage_report import UsageRow

HOUR_NS = 3_600 * 10**9
START = dt.datetime.fromtimestamp(STARTED_NS // 10**9, dt.UTC)
HOUR = dt.timedelta(hours=1)


@pytest.fixture
def ledger(store: Store) -> Ledger:
    return Ledger(store)


def charges(report: list[UsageRow]) -> dict[tuple[str, ...], int]:
    return {row.ids: row.charge for row in report}


async def test_a_report_without_calls_is_one_line_of_zeros_or_no_groups(ledger: Ledger) -> None:
    (total,) = await ledger.usage([])
    assert (total.calls, total.input_tokens, total.cost, total.charge) == (0, 0, 0, 0)
    assert await ledger.usage(["organization", "day"]) == []


async def test_groups_add_up_what_they_have_in_common(ledger: Ledger) -> None:
    await ledger.insert(
        [
            usage_record(1, organization_id="a", model="x", charge=1, cost=7),
            usage_record(2, organization_id="a", model="y", charge=2, usage=Usage(1, 2, 0, 0)),
            usage_record(3, organization_id="b", model="x", charge=4, team_id=None),
            usage_record(
                4, organization_id="b", model="x", charge=8, usage=Usage(source="estimated")
            ),
        ],
        [],
    )
    assert charges(await ledger.usage(["organization"])) == {("a",): 3, ("b",): 12}
    assert charges(await ledger.usage(["model", "organization"])) == {
        ("x", "a"): 1,
        ("x", "b"): 12,
        ("y", "a"): 2,
    }
    assert charges(await ledger.usage(["team"])) == {("",): 4, ("team-1",): 11}
    assert charges(await ledger.usage(["served_model", "deployment"])) == {
        ("small", "small/local"): 15
    }
    line = (await ledger.usage(["organization"], filters={"organization": "b"}))[0]
    assert (line.calls, line.estimated_calls, line.input_tokens, line.output_tokens) == (
        2,
        1,
        10,
        5,
    )
    assert (line.cached_input_tokens, line.reasoning_tokens, line.cost) == (2, 1, 3_000)


async def test_days_and_hours_are_utc(ledger: Ledger) -> None:
    moments = {0: 1, HOUR_NS: 2, 24 * HOUR_NS: 4}
    await ledger.insert(
        [
            usage_record(charge, started_ns=STARTED_NS + after, charge=charge)
            for after, charge in moments.items()
        ],
        [],
    )
    assert charges(await ledger.usage(["day"])) == {("2026-02-02",): 3, ("2026-02-03",): 4}
    assert charges(await ledger.usage(["hour"])) == {
        ("2026-02-02T02",): 1,
        ("2026-02-02T03",): 2,
        ("2026-02-03T02",): 4,
    }
    assert charges(await ledger.usage([], filters={"day": "2026-02-02"})) == {(): 3}
    assert charges(await ledger.usage([], filters={"hour": "2026-02-02T03"})) == {(): 2}
    with pytest.raises(ValueError, match="yesterday"):
        await ledger.usage([], filters={"day": "yesterday"})


async def test_a_period_covers_the_hours_that_it_touches(ledger: Ledger) -> None:
    await ledger.insert(
        [
            usage_record(hour, started_ns=STARTED_NS + hour * HOUR_NS, charge=1 << hour)
            for hour in range(4)
        ],
        [],
    )

    async def charge(since: dt.datetime | None, until: dt.datetime | None) -> int:
        (total,) = await ledger.usage([], since, until)
        return total.charge

    full_hour = START.replace(minute=0, second=0)
    assert await charge(START + HOUR, None) == 2 + 4 + 8
    assert await charge(None, full_hour + HOUR) == 1
    assert await charge(None, START + HOUR) == 1 + 2
    assert await charge(full_hour + HOUR, full_hour + 3 * HOUR) == 2 + 4
    berlin = dt.timezone(HOUR)
    assert await charge((full_hour + HOUR).astimezone(berlin), None) == 2 + 4 + 8


async def test_ids_are_shown_with_todays_names_and_deleted_ones_as_they_are(
    ledger: Ledger, store: Store
) -> None:
    async with store.begin() as connection:
        await connection.execute(
            organizations.insert(), [{"id": "org-1", "name": "Acme", "created": 0.0}]
        )
        inside = {"organization_id": "org-1", "created": 0.0}
        await connection.execute(teams.insert(), [{"id": "team-1", "name": "Blue", **inside}])
        await connection.execute(users.insert(), [{"id": "user-1", "name": "ada", **inside}])
        key = {"id": "key-1", "name": "laptop", "digest": b"0" * 32, "hint": "abcd", **inside}
        await connection.execute(api_keys.insert(), [key])
    await ledger.insert([usage_record(1), usage_record(2, organization_id="gone", key_id=None)], [])
    report = await ledger.usage(["organization", "team", "user", "key", "model"])
    assert [row.names for row in report] == [
        ("gone", "Blue", "ada", "", "small"),
        ("Acme", "Blue", "ada", "laptop", "small"),
    ]
    assert report[1].ids == ("org-1", "team-1", "user-1", "key-1", "small")


async def test_sums_beyond_64_bits_are_exact(ledger: Ledger) -> None:
    large = 9 * 10**15 + 1
    records = [
        usage_record(n, organization_id=f"o{n}", charge=large, cost=-7 - n) for n in range(1100)
    ]
    await ledger.insert(records, [])
    (total,) = await ledger.usage([])
    assert total.charge == 1100 * large > 2**63
    assert total.cost == sum(record.cost for record in records)
