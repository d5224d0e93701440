"""The books after everything that can happen to a gateway: clients that leave, upstreams that break
or tell no usage, kills, stops, and a database that comes and goes, all at once.

A run of half a minute belongs to all tests; `nox -s soak` takes `LLMGW_SOAK_SECONDS` (300).
The figures are printed. What notes of calls under way are good for is shown by a run without them.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections import Counter, defaultdict
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import msgspec
import pytest
from sqlalchemy import text

from llmgw_core.domain.limits import Budget, Limits
from llmgw_core.gateway import Gateway
from llmgw_core.pipeline.noting import AGE_SECONDS, LATE_SECONDS
from llmgw_core.testing.installation import INPUT_PRICE, OUTPUT_PRICE
from llmgw_core.testing.tenants import create_tenant
from llmgw_core.testing.upstream import Upstream

from .soak_gateway import BUDGET, PLUGIN, Restarted, configuration
from .soak_world import POOR, Counting, Crowd, Served

if TYPE_CHECKING:
    from pathlib import Path

    from llmgw_core.domain.usage import Usage, UsageRecord
    from llmgw_core.store.usage_report import UsageRow

SECONDS = float(os.environ.get("LLMGW_SOAK_SECONDS", "300"))
CLIENTS = 24
LATE = 0.5
"""Seconds by which a busy machine may be late with a note, or with what it is about."""
DAY = 10**9
"""Requests, and tokens, of a day, which are enough for everybody."""


class Books(msgspec.Struct):
    """What is on the books in the end."""

    rows: list[UsageRecord]
    sums: list[UsageRow]
    rolled: dict[str, tuple[int, ...]]
    spent: dict[str, int]


class Run(msgspec.Struct):
    """Both sides of a run, and the books."""

    gateway: Restarted
    crowd: Crowd
    served: list[Served]
    books: Books
    organizations: tuple[str, str]


async def run(folder: Path, seconds: float = 0.0, kills: int = 0, mode: str = "honest") -> Run:
    """Trouble of every kind for so long, then so many kills and nothing else."""
    chance, served = random.Random(9), list[Served]()
    async with AsyncExitStack() as stack:
        ports = {}
        for kind in ("end", "grows", "never", "embed", "clean", "refuse"):
            script = Counting(kind, chance, served)
            ports[kind] = (await stack.enter_async_context(Upstream(script))).port
        (folder / "llmgw.yaml").write_text(configuration(ports))
        (folder / "canonical.py").write_text(PLUGIN)
        async with Gateway.open(folder / "llmgw.yaml") as first:
            limits = Limits(parallel=3 * CLIENTS, tpm=10**12, rpd=DAY, tpd=DAY)
            budget = Budget("money", BUDGET, "total")
            rich = await create_tenant(first.store, limits=limits, budgets=[budget])
            budget = Budget("money", POOR, "total")
            poor = await create_tenant(first.store, "poor", budgets=[budget])
        gateway = Restarted(folder, chance, rich.key, mode)
        crowd = Crowd(chance, gateway.door, (rich.key, poor.key))
        await gateway.start()
        async with asyncio.TaskGroup() as clients:
            for _ in range(CLIENTS):
                clients.create_task(crowd.client())
            clients.create_task(crowd.client(poor=True))
            if seconds:
                await gateway.run(seconds)
                await asyncio.wait_for(crowd.refused.wait(), 60)  # on a slow machine
            await gateway.die(kills)
            crowd.ending = True
        await gateway.end(killed=False)
        books = await read_books(folder)
    return Run(gateway, crowd, served, books, (rich.organization_id, poor.organization_id))


async def read_books(folder: Path) -> Books:
    async with Gateway.open(folder / "llmgw.yaml") as gateway:
        await gateway.mover.move_once()
        rows = [row.record for row in await gateway.ledger.rows(limit=10**7)]
        names = "calls, input_tokens, output_tokens, cost, charge"
        summed = ", ".join(f"SUM({name})" for name in names.split(", "))
        rolled = {}
        async with gateway.store.connect() as connection:
            for table in ("usage_hours", "usage_days"):
                [found] = await connection.execute(text(f"SELECT {summed} FROM {table}"))
                rolled[table] = tuple(found)
        spent = {each.id: each.spent for each in gateway.budgets.states()}
        return Books(rows, await gateway.ledger.usage([]), rolled, spent)


def own_usage(row: UsageRecord) -> tuple[int, int]:
    """Input and output without what failed attempts are paid for."""
    paid = failed_usages(row)
    return (
        row.usage.input_tokens - sum(usage.input_tokens for usage in paid),
        row.usage.output_tokens - sum(usage.output_tokens for usage in paid),
    )


def failed_usages(row: UsageRecord) -> list[Usage]:
    return [attempt.usage for attempt in row.attempts if attempt.usage is not None]


class Check:
    """Compares the books with both sides. `problems` are those of single calls."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.problems: Counter[str] = Counter()
        self.figures: Counter[str] = Counter()
        self.examples: dict[str, object] = {}
        self.kills = [death.at for death in run.gateway.deaths if death.killed]
        self.requests: defaultdict[int, list[Served]] = defaultdict(list)
        for served in run.served:
            self.requests[served.number].append(served)
        self.rows: defaultdict[int, list[UsageRecord]] = defaultdict(list)
        for row in run.books.rows:
            number = own_usage(row)[0]
            failed = failed_usages(row)
            if number or failed:
                self.rows[number or failed[0].input_tokens].append(row)
        self.by_id = {row.call_id: row for row in run.books.rows}

    def problem(self, kind: str, *about: object) -> None:
        self.problems[kind] += 1
        self.examples.setdefault(kind, about)

    def all(self) -> None:
        self.doubled()
        self.lost()
        self.clients()
        self.exact()
        self.estimated()
        self.failed_attempts()

    def doubled(self) -> None:
        if len(self.by_id) != len(self.run.books.rows):
            self.problem("doubled: one id")
        for number, rows in self.rows.items():
            if len(rows) > 1:
                self.problem("doubled: one call", number, rows)
            if number not in self.requests:
                self.problem("invented", number, rows)

    def lost(self) -> None:
        """What an upstream has served must have a row, unless it had only just begun when the
        process was killed."""
        for number, requests in self.requests.items():
            counted = [each for each in requests if each.reports or each.sent]
            if not counted or number in self.rows:
                continue
            last = max(each.began for each in counted)
            ages = [kill - last for kill in self.kills if -LATE < kill - last < LATE_SECONDS + LATE]
            if ages:
                self.figures["without a row, begun just before a kill"] += 1
                oldest = "milliseconds before it, at most"
                self.figures[oldest] = max(self.figures[oldest], int(1000 * ages[0]))
            else:
                self.problem("lost", number, counted)

    def clients(self) -> None:
        """Every reply that came has a row, and a whole one that of a whole reply."""
        for call in self.run.crowd.calls:
            if not call.id or call.status == 429:
                continue
            row = self.by_id.get(call.id)
            if call.whole:
                self.figures["whole replies"] += 1
                if row is None:
                    self.problem("lost: a whole reply", call)
                elif row.status not in ("completed", "client_left"):
                    self.problem("a whole reply that is not complete", call, row)
                elif own_usage(row)[1] != call.got[-1][1] or own_usage(row)[0] != call.number:
                    self.problem("a whole reply with another usage", call, row)
            elif call.left and row is None and not self.near_a_kill(call.number):
                self.problem("lost: a client that left", call)

    def near_a_kill(self, number: int) -> bool:
        """Whether the call was under way when the process was killed."""
        return any(
            each.began - LATE <= kill <= (each.ended or kill) + LATE
            for each in self.requests[number]
            for kill in self.kills
        )

    def exact(self) -> None:
        """What is booked as reported has been reported so, and is what was reported last where the
        stream was read to its end."""
        reported_whole = exact_whole = 0
        whole = {call.number for call in self.run.crowd.calls if call.whole}
        for number, rows in self.rows.items():
            for row in rows:
                own, requests = own_usage(row), self.requests[number]
                reports = {report for each in requests for report in each.reports}
                if row.usage.source == "provider":
                    self.figures["exact rows"] += 1
                    self.figures["exact tokens on the books"] += sum(own)
                    if own != (0, 0) and own not in reports:
                        self.problem("an exact row that nobody has reported", row, requests)
                if number in whole and requests[-1].reports and requests[-1].whole:
                    reported_whole += 1
                    exact_whole += (
                        row.attempts[-1].usage is None and own == requests[-1].reports[-1]
                    )
                    self.figures["exact tokens as reported"] += sum(requests[-1].reports[-1])
                    self.figures["exact tokens as booked"] += sum(own)
        self.figures["reported and read to the end"] = reported_whole
        if exact_whole != reported_whole:
            self.problem("not exact although reported", exact_whole, reported_whole)

    def estimated(self) -> None:
        """Between what the client has got and what the upstream has sent; after a kill, what it
        had got a second before."""
        calls = {call.number: call for call in self.run.crowd.calls}
        for number, rows in self.rows.items():
            for row in rows:
                input, output = own_usage(row)
                if row.usage.source != "estimated" or not input:
                    continue
                self.figures["estimated rows"] += 1
                kill = self.kill_of(number) if row.error_code == "interrupted" else None
                got = calls[number].got_by(
                    1e99 if kill is None else kill - AGE_SECONDS - 0.1 - LATE
                )
                sent = max((each.tokens for each in self.requests[number]), default=0)
                self.figures["estimated output tokens"] += output
                self.figures["output tokens sent for them"] += sent
                if row.error_code == "interrupted":
                    self.figures["interrupted rows"] += 1
                if input != number or not got <= output <= sent + 1:
                    self.problem("an estimate out of bounds", number, got, sent, row, kill)

    def kill_of(self, number: int) -> float | None:
        began = self.requests[number][-1].began
        return min((kill for kill in self.kills if kill >= began - LATE), default=None)

    def failed_attempts(self) -> None:
        """A failed attempt that told usage is paid."""
        for number, requests in self.requests.items():
            failing = sum(each.failing for each in requests)
            paid = sum(len(failed_usages(row)) for row in self.rows.get(number, ()))
            self.figures["failed attempts that were paid"] += paid
            calls = [call for call in self.run.crowd.calls if call.number == number and call.left]
            certain = not calls and not self.near_a_kill(number)
            if paid > failing or (certain and paid != failing):
                self.problem("failed attempts paid wrongly", number, failing, paid, requests)


def check_sums(run: Run) -> None:
    """Rows, reports, roll-ups and meters say the same."""
    books = run.books
    rows = books.rows
    [sums] = books.sums
    usages = [row.usage for row in rows]
    expected = (
        len(rows),
        sum(usage.input_tokens for usage in usages),
        sum(usage.output_tokens for usage in usages),
        sum(row.cost for row in rows),
        sum(row.charge for row in rows),
    )
    assert (sums.calls, sums.input_tokens, sums.output_tokens, sums.cost, sums.charge) == expected
    assert books.rolled == {"usage_hours": expected, "usage_days": expected}
    for row in rows:
        usage = row.usage
        assert row.cost == usage.input_tokens * INPUT_PRICE + usage.output_tokens * OUTPUT_PRICE
    rich, poor = (
        [row for row in rows if row.organization_id == each] for each in run.organizations
    )
    assert books.spent == {
        run.organizations[0]: sum(row.charge for row in rich),
        run.organizations[1]: sum(row.charge for row in poor),
    }
    assert POOR / 2 < books.spent[run.organizations[1]] <= POOR
    assert any(call.poor and call.status == 429 for call in run.crowd.calls)
    for probe in run.gateway.probes:
        before = [row for row in rich if row.started_ns < probe.at_ns]
        charged = sum(row.charge for row in before)
        assert BUDGET - probe.remaining == charged, "the budget did not come back right"
        assert DAY - probe.requests == len(before) + 1, "requests of the day did not come back"
        tokens = sum(row.usage.total_tokens for row in before)
        assert DAY - probe.tokens == tokens, "tokens of the day did not come back right"


def report(check: Check) -> None:
    """The figures."""
    run = check.run
    deaths = Counter("SIGKILL" if each.killed else "SIGTERM" for each in run.gateway.deaths)
    doubled = sum(count for kind, count in check.problems.items() if kind.startswith("doubled"))
    lines = [
        f"{len(run.crowd.calls)} calls, {len(run.served)} requests upstream, {dict(deaths)}",
        f"store unavailable: {dict(Counter(run.gateway.outages))}",
        f"rows: {len(run.books.rows)}, {dict(Counter(row.status for row in run.books.rows))}",
        *(f"{name}: {figure}" for name, figure in check.figures.items()),
        f"lost: {lost(check)}, doubled: {doubled}, budgets looked at: {len(run.gateway.probes)}",
        *(f"{kind}: {check.problems[kind]}, e.g. {it}" for kind, it in check.examples.items()),
    ]
    sys.stdout.write("\n" + "\n".join(lines) + "\n")


def lost(check: Check) -> int:
    return sum(count for kind, count in check.problems.items() if kind.startswith("lost"))


async def soak(folder: Path, seconds: float) -> None:
    done = await run(folder, seconds)
    check = Check(done)
    check.all()
    report(check)
    assert not check.problems
    check_sums(done)


@pytest.mark.timeout(180)
async def test_the_books_agree_with_both_sides_after_kills_and_outages(tmp_path: Path) -> None:
    await soak(tmp_path, 22.0)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("mode", ["forgetful", "late"])
async def test_books_that_are_kept_worse_are_noticed(tmp_path: Path, mode: str) -> None:
    check = Check(await run(tmp_path, kills=3, mode=mode))
    check.all()
    report(check)
    assert lost(check)


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_the_books_agree_with_both_sides_after_a_long_time(tmp_path: Path) -> None:
    await soak(tmp_path, SECONDS)
