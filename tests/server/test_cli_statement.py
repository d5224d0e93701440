"""The command `statement`, on books that are put into the database directly."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from typing import TYPE_CHECKING

import msgspec
import pytest

from llmgw_core.accounting.refused import RefusedFile
from llmgw_core.domain.usage import Usage
from llmgw_core.store.engine import Store
from llmgw_core.store.ledger import Ledger
from llmgw_core.store.ledger_tables import pruned
from llmgw_core.tenancy.costing import Costing
from llmgw_core.testing.bookkeeping import book, priced, rates, sheet
from llmgw_core.testing.usage_records import usage_record
from llmgw_server.cli import main

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

OCTOBER_NS = 1_790_000_000 * 10**9 + 30 * 86_400 * 10**9
"""2026-10-21."""
PRICE = msgspec.structs.replace(
    sheet(rates(10**9, 2 * 10**9), rates(2 * 10**9, 4 * 10**9)), currency="USD"
)


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


def test_a_line_is_explained_down_to_its_calls(
    books: None, llmgw: Callable[..., str], fails: Callable[..., str]
) -> None:
    llmgw("statement", "create", "2026-10")
    told = llmgw("statement", "explain", "2026-10", "--line", "3").splitlines()
    assert told[0] == (
        "Line 3: usage of 2026-10 on CC-1, small, input: 1,000 x 1.00 = 0.001000 cost, x 2.00 ="
        " 0.002000 charge (USD per million tokens)."
    )
    assert told[2].split() == [
        "call-0", "2026-10-21T14:13:20.000000000Z", "call", "small/local", "provider", "1,000",
        "0.001", "0.002",
    ]  # fmt: skip
    assert told[3] == (
        "1 row: quantity 1,000, cost 0.001, charge 0.002 before rounding, as the line says."
    )
    rows = list(
        csv.DictReader(
            llmgw("statement", "explain", "2026-10", "--line", "3", "--csv").splitlines()
        )
    )
    assert [(row["call"], row["quantity"], row["key"]) for row in rows] == [
        ("call-0", "1000", "key-1")
    ]
    assert fails("statement", "explain", "2026-10", "--line", "9") == (
        "The statement of 2026-10 has 5 lines; there is no line 9."
    )


def test_only_the_first_calls_are_listed_unless_all_are_asked_for(
    llmgw: Callable[..., str], tmp_path: Path
) -> None:
    async def work(store: Store) -> None:
        records = [
            priced(number, PRICE, Usage(1, 0), started_ns=OCTOBER_NS) for number in range(1030)
        ]
        await book(store, Ledger(store), records, PRICE)

    llmgw("statement", "list")
    on_store(tmp_path, work)
    llmgw("statement", "create", "2026-10")
    short = llmgw("statement", "explain", "2026-10", "--line", "1").splitlines()
    assert len(short) == 1 + 1 + 20 + 2
    assert short[-2] == "... and 1,010 more; --calls or --csv lists them all."
    whole = llmgw("statement", "explain", "2026-10", "--line", "1", "--calls").splitlines()
    assert len({line.split()[0] for line in whole[2:-1]}) == 1030


def test_an_invoice_is_compared_with_the_books(
    books: None,
    llmgw: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    llmgw("statement", "create", "2026-10")
    invoice = tmp_path / "invoice.csv"
    invoice.write_text(
        "Month,Model,Type,Tokens,Cost\n"
        "2026-10,small,input,1003,0.001003\n2026-10,small,output,500,0.001\n2026-09,x,input,1,1\n"
    )
    words = ["statement", "reconcile", "2026-10", "--file", str(invoice)]
    told = llmgw(*words).splitlines()
    assert told[1].split()[:3] == ["small", "input", "matched"]
    assert told[-2] == "Not about 2026-10: 1 line of the invoice."
    assert told[-1] == "Booked 0.002003, invoiced 0.002003, difference +0.000000 USD."
    [first, _] = json.loads(llmgw(*words, "--json"))
    assert (first["booked_quantity"], first["difference"]) == ("1003", "+0.000000")
    config = ["--config", str(tmp_path / "llmgw.yaml")]
    invoice.write_text("model,class,amount\n=small,input,7\nsmall,input,0.002\n")
    strict = [*words, "--amount", "0", "--percent", "1", "--csv", *config]
    assert main(strict) == 1
    captured = capsys.readouterr()
    assert "3 of 3 lines of the invoice and the books do not agree." in captured.err
    rows = {row["model"]: row for row in csv.DictReader(captured.out.splitlines()[:2])}
    assert rows["'=small"]["verdict"] == "only invoiced"
    assert main([*words, "--file", str(tmp_path / "absent.csv"), *config]) == 1
    assert "cannot be read" in capsys.readouterr().err
    for wrong in (["--unit", "x"], ["--column", "x"]):
        with pytest.raises(SystemExit):
            main([*words, *wrong])


def test_closing_names_what_stands_against_it(
    fails: Callable[..., str], llmgw: Callable[..., str], tmp_path: Path
) -> None:
    """With the reason from the configuration: no price began that early."""

    async def work(store: Store) -> None:
        old = usage_record(
            0, started_ns=1_700_000_000 * 10**9, cost=0, charge=0,
            deployment="smart/a", served_model="smart",
        )  # fmt: skip
        gone = usage_record(
            1, started_ns=1_700_000_000 * 10**9, cost=0, charge=0,
            deployment="gone/a", served_model="gone",
        )  # fmt: skip
        await book(store, Ledger(store), [old, gone])

    llmgw("statement", "list")
    on_store(tmp_path, work)
    llmgw("statement", "create", "2023-11")
    told = fails("statement", "close", "2023-11").splitlines()
    assert told[0] == "The statement of 2023-11 cannot be closed:"
    assert told[1].startswith(
        "- There is no price for 1 call with 15 tokens on gone/a (it is not configured). Give"
    )
    assert told[2].startswith("- There is no price for 1 call with 15 tokens on smart/a (its pric")
    llmgw("statement", "create", "2023-10")
    assert llmgw("statement", "close", "2023-10").startswith("Closed the statement of 2023-10 (st_")


def test_what_the_ledger_has_refused_is_shown_and_tried_again(
    llmgw: Callable[..., str], fails: Callable[..., str], tmp_path: Path
) -> None:
    assert llmgw("refused") == llmgw("refused", "--retry") == "The ledger has refused nothing.\n"

    async def prune(store: Store) -> None:
        async with store.begin() as connection:
            await connection.execute(pruned.insert().values(name="ledger", before_ns=10**18))

    on_store(tmp_path, prune)
    file = RefusedFile(tmp_path / "journal")
    file.add(usage_record(1, started_ns=5))
    file.add(priced(2, PRICE, Usage(1000, 0), started_ns=OCTOBER_NS))
    titles, first, second = (line.split() for line in llmgw("refused").splitlines())
    assert titles == ["CALL", "STARTED", "ORGANIZATION", "MODEL", "TOKENS", "COST", "CHARGE"]
    assert first[0] == "call-1"
    assert second[:2] == ["call-2", "2026-10-21T14:13:20Z"]
    assert second[4:] == ["1,000", "0.001", "0.002"]
    shown = llmgw("refused", "--retry").splitlines()
    assert shown[0] == "1 calls are on the books now; 1 are refused again."
    assert shown[2].startswith("call-1 ")
    assert "no longer keeps the time" in shown[2]
    [left] = json.loads(llmgw("refused", "--json"))
    assert left["call"] == "call-1"
    file.path.unlink()
    file.path.mkdir()
    assert fails("refused").endswith("refused.segment: Is a directory.")
