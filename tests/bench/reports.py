"""How long reports take over a year of a million calls a day: `Ledger.usage` as the command line
and the usage API ask for it.

The year is synthetic and rolled up: 20 organisations, 200 teams, 50 cost centres, 1,000 users and
2,000 keys; every key uses three of 20 models, a quarter of which have two deployments; the prices
change once. On every day four fifths of these 7,500 groups have calls. Sums are generated in SQL,
without rows of calls, which no report reads; sums by the hour are there for the days that the
reports cut, and for a day that is asked for by the hour.

Each report is asked for several times; what counts is the median, with everything from the query
to the last row. In the environment, REPORT_RUNS says how often.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import random
import shutil
import sqlite3
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from report import Fact, show

from llmgw_core.store.engine import Store
from llmgw_core.store.ledger import Ledger
from llmgw_core.store.ledger_tables import COARSE, GROUP, SUMS
from llmgw_core.store.usage_plan import month_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llmgw_core.store.usage_report import Dimension

RUNS: Final = int(os.environ.get("REPORT_RUNS", "3"))
BOUND_MS: Final = 300.0
FILE: Final = Path(__file__).parents[2] / "build" / "reports" / "llmgw.db"
FIRST: Final = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
DAYS: Final = 365
CALLS_A_DAY: Final = 1_000_000
LAST: Final = FIRST + dt.timedelta(days=DAYS)
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_DAY: Final = (FIRST - _EPOCH).days
_CUT_DAYS: Final = (20, 200, 340)
"""Days (from the first) which some report cuts at an hour."""


class Question(NamedTuple):
    """A report: by what, from which day and hour on and to which, of whom."""

    by: tuple[Dimension, ...]
    since: dt.datetime
    until: dt.datetime
    filters: dict[Dimension, str]

    def __str__(self) -> str:
        span = self.until - self.since
        length = f"{span.days} d" + (f" {span.seconds // 3600} h" if span.seconds else "")
        whose = "".join(f", one {name}" for name in self.filters)
        return f"{' and '.join(self.by) or 'in total'}{whose}; {length}"


def groups() -> list[tuple[str, ...]]:
    """What calls are kept apart by, with the first of the two price sheets of each model."""
    found: list[tuple[str, ...]] = []
    for key in range(2000):
        team, organization = key % 200, key % 20
        for use in range(3):
            model = (key * 7 + key // 200 + use * 5) % 20
            whose = (
                f"org_{organization:022d}",
                f"team_{team:021d}",
                f"user_{key // 2:021d}",
                f"key_{key:022d}",
                f"cc_{team // 4:021d}",
                "embeddings" if model > 17 else "chat.completions",
                f"model-{model}",
                f"model-{model}",
            )
            sheet = f"sheet_{model:030d}"
            places = range(1 + (model % 4 == 0))
            found += [(*whose, f"model-{model}/place-{place}", sheet) for place in places]
    return found


_FIGURES: Final = """
    {calls} AS calls, {calls} / 50 AS estimated_calls, {calls} * (700 + g.id % 300) AS input_tokens,
    {calls} * (200 + g.id % 100) AS output_tokens, {calls} * (g.id % 3) * 50 AS cached_input_tokens,
    {calls} * (g.id % 2) * 70 AS reasoning_tokens, {calls} * (2500001 + g.id % 1009) AS cost,
    {calls} * (3000001 + g.id % 1013) AS charge
"""
_COLUMNS: Final = (*SUMS[:6], *SUMS[-2:])


def generate(database: sqlite3.Connection) -> None:
    """Fill the tables of sums."""
    names = ", ".join(GROUP)
    marks = ", ".join("?" * len(GROUP))
    base = groups()
    later = [(*group[:-1], group[-1].replace("sheet_", "later_")) for group in base]
    database.executemany(f"INSERT INTO usage_groups ({names}) VALUES ({marks})", base + later)
    database.create_function("month_of", 1, month_of, deterministic=True)
    columns = ", ".join(_COLUMNS)
    per_group = CALLS_A_DAY * 10 // 8 // len(base)
    # Two sheets: the first half of the groups until July, the second half after it.
    span = f"""
        usage_groups AS g ON (g.id <= {len(base)}) = (day < {_DAY + 181})
        WHERE (day * 31 + g.id % {len(base)} * 7) % 10 < 8
    """
    calls = f"({per_group - 30} + (day * 7919 + g.id * 104729) % 61)"
    database.execute(
        f"""INSERT INTO usage_days (day, group_id, {columns})
        WITH RECURSIVE days(day) AS (
            SELECT {_DAY} UNION ALL SELECT day + 1 FROM days WHERE day < {_DAY + DAYS - 1}
        ) SELECT day, g.id, {_FIGURES.format(calls=calls)} FROM days JOIN {span}"""
    )
    sums = ", ".join(f"SUM({name})" for name in _COLUMNS)
    database.execute(
        f"""INSERT INTO usage_months (month, group_id, {columns})
        SELECT month_of(day), group_id, {sums} FROM usage_days GROUP BY 1, 2"""
    )
    _generate_totals(database, columns, sums)
    _generate_hours(database, columns)
    database.commit()


def _generate_totals(database: sqlite3.Connection, columns: str, sums: str) -> None:
    names, coarse = ", ".join(GROUP), ", ".join(COARSE)
    blank = ", ".join(name if name in COARSE else "''" for name in GROUP)
    database.execute(
        f"INSERT INTO usage_groups ({names}) SELECT DISTINCT {blank} FROM usage_groups"
    )
    database.execute(
        f"""CREATE TEMP TABLE wider AS SELECT id AS wide, {coarse} FROM usage_groups
        WHERE key_id = ''"""
    )
    database.execute(
        f"""CREATE TEMP TABLE parts AS SELECT id, wide FROM usage_groups JOIN wider USING ({coarse})
        WHERE key_id <> ''"""
    )
    database.execute("CREATE INDEX parts_id ON parts (id)")
    database.execute(
        f"""INSERT INTO usage_day_totals (day, group_id, {columns})
        SELECT day, wide, {sums} FROM usage_days JOIN parts ON id = group_id GROUP BY 1, 2"""
    )


def _generate_hours(database: sqlite3.Connection, columns: str) -> None:
    """Each day's sums in equal shares, the rest in the first hour."""
    days = ", ".join(str(_DAY + day) for day in (*_CUT_DAYS, DAYS - 1))
    shares = ", ".join(
        f"{name} / 24 + CASE WHEN h = 0 THEN {name} % 24 ELSE 0 END" for name in _COLUMNS
    )
    database.execute(
        f"""INSERT INTO usage_hours (hour, group_id, {columns})
        WITH RECURSIVE hours(h) AS (SELECT 0 UNION ALL SELECT h + 1 FROM hours WHERE h < 23)
        SELECT day * 24 + h, group_id, {shares} FROM usage_days CROSS JOIN hours
        WHERE day IN ({days})"""
    )


SINGLE: Final[tuple[Dimension, ...]] = (
    "organization", "team", "user", "key", "cost_center", "endpoint", "model", "served_model",
    "deployment", "price",
)  # fmt: skip
WHOSE: Final[dict[Dimension, str]] = {
    "organization": f"org_{7:022d}",
    "team": f"team_{7:021d}",
    "key": f"key_{7:022d}",
    "cost_center": f"cc_{7:021d}",
    "model": "model-7",
}


def questions() -> Iterable[Question]:
    """Every dimension over a year, a month and a day, and the usual pairs and filters."""
    year = (FIRST, LAST)
    cut = (FIRST + dt.timedelta(days=20, hours=9), FIRST + dt.timedelta(days=340, hours=15))
    month = (FIRST + dt.timedelta(days=181), FIRST + dt.timedelta(days=212))
    thirty = (LAST - dt.timedelta(days=30), LAST)
    day = (LAST - dt.timedelta(days=1), LAST)
    pairs: Sequence[tuple[Dimension, ...]] = [
        (), ("organization", "model"), ("month",), ("month", "organization"),
        ("month", "cost_center"), ("month", "team"), ("day",),
    ]  # fmt: skip
    for span in (year, cut, month, thirty, day):
        for by in [*((name,) for name in SINGLE), *pairs]:
            yield Question(by, *span, {})
    for name, id in WHOSE.items():
        for by in ((), ("month",), ("day",), ("model",), ("key",), ("day", "model")):
            yield Question(by, *year, {name: id})
            yield Question(by, *cut, {name: id})
    for span in (month, thirty):
        yield Question(("day", "organization"), *span, {})
        yield Question(("day", "team"), *span, {})
        yield Question(("day", "model"), *span, {})
    yield Question(("day", "model"), *year, {})
    yield Question(("day", "organization"), *year, {})
    for by in (("hour",), ("hour", "organization"), ("hour", "model"), ("hour", "endpoint")):
        yield Question(by, *day, {})
        yield Question(by, *day, {"key": WHOSE["key"]})


async def measure(ledger: Ledger) -> list[Fact]:
    """The median time of each report."""
    facts = []
    asked = list(questions())
    random.Random(5).shuffle(asked)
    for question in asked:
        times = []
        for _ in range(RUNS):
            start = time.perf_counter()
            rows = await ledger.usage(*question)
            times.append((time.perf_counter() - start) * 1000)
            assert sum(row.calls for row in rows) > 0, question
        median = statistics.median(times)
        facts.append(Fact(f"{question}: {len(rows)} rows", median, "ms", BOUND_MS))
    return sorted(facts, key=lambda fact: fact.value)


async def main() -> int:
    """Exit status 0 when every report is within its bound."""
    shutil.rmtree(FILE.parent, ignore_errors=True)
    FILE.parent.mkdir(parents=True)
    store = Store(f"sqlite:///{FILE}")
    await store.open()
    print("Making a year of sums ...", flush=True)
    database = sqlite3.connect(FILE)
    database.execute("PRAGMA synchronous=OFF")
    generate(database)
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    counts = {
        table: database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]
        for table in ("usage_hours", "usage_days", "usage_months", "usage_day_totals")
    }
    database.close()
    print(", ".join(f"{table}: {count:,} rows" for table, count in counts.items()))
    facts: list[Any] = await measure(Ledger(store))
    [total] = await Ledger(store).usage([])
    await store.aclose()
    print(f"{total.calls:,} calls; {FILE.stat().st_size / 1e6:,.0f} MB; slowest last")
    show([], facts)
    return 0 if all(fact.passed for fact in facts) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
