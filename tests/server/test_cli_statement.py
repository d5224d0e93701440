"""The command `statement`, on books that are put into the database directly."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from typing import TYPE_CHECKING

import pytest

from llmgw_core.domain.usage import Usage
from llmgw_core.store.engine import Store
from llmgw_core.store.ledger import Ledger
from llmgw_core.tenancy.costing import Costing
from llmgw_core.testing.bookkeeping import book, priced, rates, sheet
from llmgw_server.cli import main

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

OCTOBER_NS = 1_790_000_000 * 10**9 + 30 * 86_400 * 10**9
"""2026-10-21."""
PRICE = sheet(rates(10**9, 2 * 10**9), rates(2 * 10**9, 4 * 10**9))


def on_store(directory: Path, work: Callable[[Store], Awaitable[None]]) -> None:
    async def session() -> None:
        store = Store(f"sqlite:///{directory / 'llmgw.db'}")
        await store.open()
        try:
            await work(store)
        finally:
            await store.aclose()

    asyncio.run(session())


@pytest.fixture
def books(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        center = await Costing(store).create("CC-1", name="=1+1", actor="test")
        records = [
            priced(0, PRICE, Usage(1000, 500), started_ns=OCTOBER_NS, cost_center=center.id),
            priced(1, PRICE, Usage(3, 0), started_ns=OCTOBER_NS),
        ]
        await book(store, Ledger(store), records, PRICE)

    on_store(tmp_path, work)


@pytest.mark.usefixtures("books")
def test_a_month_is_made_shown_and_exported(llmgw: Callable[..., str], tmp_path: Path) -> None:
    made = llmgw("statement", "create", "2026-10", "--tz", "Europe/Berlin").splitlines()
    assert made[0].startswith("Made the statement of 2026-10 (st_")
    assert made[1] == "5 lines, 2 calls: cost 0.002003, charge 0.004006 USD."
    assert made[2] == (
        "2026-10 cost: ledger total 0.002003000, statement total 0.002003000, rounding difference"
        " 0.000000000; charge: ledger total 0.004006000, statement total 0.004006000, rounding"
        " difference 0.000000000; bound 0.0000025010."
    )
    shown = llmgw("statement", "show", "2026-10").splitlines()
    assert shown[0] == (
        "2026-10 of Europe/Berlin, open: 2026-10-01T00:00+02:00 to 2026-11-01T00:00+01:00"
        ", 745 hours."
    )
    assert [line.split() for line in shown[4:6]] == [
        ["1", "usage", "-", "small", "input", "3", "0.000003", "0.000006"],
        ["2", "usage", "-", "small", "call", "1", "0.000000", "0.000000"],
    ]
    file = tmp_path / "october.csv"
    llmgw("statement", "export", "2026-10", "--csv", "--output", str(file))
    assert llmgw("statement", "export", "2026-10", "--csv").encode() == file.read_bytes()
    rows = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"), newline="")))
    assert [row["cost"] for row in rows] == [
        "0.000003", "0.000000", "0.001000", "0.001000", "0.000000",
    ]  # fmt: skip
    assert {row["cost_center_name"] for row in rows} == {"", "'=1+1"}
    exported = json.loads(llmgw("statement", "export", "2026-10", "--json"))
    assert exported == json.loads(llmgw("statement", "show", "2026-10", "--json"))
    assert [line["cost_center_name"] for line in exported["lines"]][-1] == "=1+1"
    [listed] = json.loads(llmgw("statement", "list", "--json"))
    assert (listed["hours"], listed["state"], listed["cost"]) == ("745", "open", "0.002003")
    assert llmgw("statement", "list").splitlines()[1].split()[:5] == [
        "2026-10", "Europe/Berlin", "everybody", "open", "0.002003",
    ]  # fmt: skip


@pytest.mark.usefixtures("books")
def test_what_cannot_be_is_told_in_a_sentence(
    llmgw: Callable[..., str], fails: Callable[..., str], tmp_path: Path
) -> None:
    llmgw("statement", "create", "2026-10")
    assert fails("statement", "create", "2026-9") == "'2026-9' is no month; write it like 2026-10."
    assert "no time zone" in fails("statement", "create", "2026-11", "--tz", "Berlin")
    assert "There is no statement of 2026-08" in fails("statement", "show", "2026-08")
    gone = str(tmp_path / "absent" / "x.csv")
    assert fails("statement", "export", "2026-10", "--csv", "--output", gone).endswith(
        "cannot be written: No such file or directory."
    )
    with pytest.raises(SystemExit):
        main(["statement", "export", "2026-10"])
