"""`prices` and `reprice`."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import msgspec
import pytest

from llmgw_core.accounting.price_sheet import PriceSheet
from llmgw_core.accounting.prices import PriceBook
from llmgw_core.config.load import load
from llmgw_core.domain.usage import AttemptRecord, Usage, UsageDetails, UsageRecord
from llmgw_core.store.engine import Store
from llmgw_core.store.ledger import Ledger
from llmgw_core.store.price_sheets import store_sheets
from llmgw_core.testing.usage_records import usage_record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from llmgw_core.config.schema import ModelConfig

CONFIG = """
accounting: {unpriced: zero}
plugins: [{name: lists, path: plugin.py}]
models:
  m:
    prices:
      - cost: {input: 2, cached_input: 0.5, output: 4, image: 0.01, cache_write: 2.5}
        markup: 50
        tiers: [{above: 1000, cost: {input: 3}}]
    deployments:
      - {name: a, backend: nothing, zone: eu}
      - {name: listed, backend: nothing, zone: eu, prices: [{catalogue: there/small}]}
      - {name: later, backend: nothing, zone: eu, prices: [{from: 2999-01-01, cost: {}}]}
"""
PLUGIN = """
import datetime as dt
from decimal import Decimal
from llmgw_core import CatalogueEntry, TokenPrices, hookimpl

class Plugin:
    def __init__(self, config: None, context) -> None: ...

    @hookimpl
    def register_prices(self):
        cost = TokenPrices(Decimal("0.1"), Decimal(1), Decimal("0.05"))
        return {"there/small": [CatalogueEntry(cost, "https://x.example", dt.date(2026, 1, 2))]}
"""


@pytest.fixture
def file(tmp_path: Path, llmgw: Callable[..., str]) -> Path:
    (tmp_path / "plugin.py").write_text(PLUGIN)
    config = tmp_path / "llmgw.yaml"
    config.write_text(CONFIG)
    return config


def booked(file: Path, *records: UsageRecord, sheets: tuple[PriceSheet, ...] = ()) -> None:
    async def put() -> None:
        store = Store(load(file).store.url)
        await store.open()
        await store_sheets(store, sheets)
        await Ledger(store).insert(records, [])
        await store.aclose()

    asyncio.run(put())


def call(file: Path, usage: Usage, number: int = 1) -> tuple[UsageRecord, tuple[PriceSheet, ...]]:
    """A call as it is booked at the prices of the configuration."""
    price = PriceBook({"m": with_own(file)}).price("m", "m/a", 0)
    assert price is not None
    cost, charge, id = price.priced(usage)
    attempt = AttemptRecord("m/a", "m", "ok", 200, 1, cost, charge, "", id)
    record = usage_record(
        number, model="m", usage=usage, cost=cost, charge=charge, attempts=(attempt,)
    )
    return record, price.sheets


def with_own(file: Path) -> ModelConfig:
    model = load(file).models["m"]
    return msgspec.structs.replace(model, deployments=model.deployments[:1])


def test_what_everything_costs_now(llmgw: Callable[..., str], file: Path) -> None:
    lines = llmgw("prices", "list").splitlines()
    assert lines[0] == "Prices in USD/M tokens; MORE: other classes, and prices each."
    first, long, listed, later = (line.split() for line in lines[2:])
    assert first[:5] == ["m/a", "-", "2.00", "0.50", "4.00"]
    assert "cache_write 2.50,image 0.01" in lines[2].replace(", ", ",")
    assert "3.00" in first
    assert long[:3] == ["m/a", "1000", "3.00"]
    assert listed[:5] == ["m/listed", "-", "0.10", "0.05", "1.00"]
    assert lines[5].endswith("none: its prices begin later")
    assert later[0] == "m/later"
    rows = json.loads(llmgw("prices", "list", "--json"))
    assert [row["deployment"] for row in rows] == ["m/a", "m/a", "m/listed", "m/later"]
    sheet = msgspec.convert(rows[0]["sheet"], PriceSheet)
    assert sheet.id == rows[0]["price"]
    assert rows[3] == {
        "deployment": "m/later",
        "price": "",
        "reason": "its prices begin later",
        "sheet": None,
    }


def test_what_a_catalogue_has(llmgw: Callable[..., str], file: Path) -> None:
    [_, line] = llmgw("prices", "catalogue").splitlines()
    assert line.split() == [
        *("there/small", "-", "USD", "0.1", "0.05", "1", "2026-01-02", "https://x.example")
    ]
    [row] = json.loads(llmgw("prices", "catalogue", "--json"))
    assert (row["name"], row["price"]["source"]) == ("there/small", "https://x.example")
    file.write_text("{}")
    assert llmgw("prices", "catalogue") == "No enabled plugin brings a catalogue of prices.\n"


def test_a_call_is_explained_class_by_class(llmgw: Callable[..., str], file: Path) -> None:
    usage = Usage(100, 11, 40, 1, details=UsageDetails(cache_write_tokens=10, images=2))
    record, sheets = call(file, usage)
    booked(file, record, sheets=sheets)
    lines = llmgw("prices", "explain", "call-1").splitlines()
    assert lines[0] == "call-1: cost 0.020189, charge 0.0302835 USD"
    assert lines[1] == f"m/a (ok): price {record.attempts[0].price}"
    table = [line.split() for line in lines[3:]]
    assert table == [
        ["input", "50", "2.00/M", "0.0001", "3.00/M", "0.00015"],
        ["cached_input", "40", "0.50/M", "0.00002", "0.75/M", "0.00003"],
        ["cache_write", "10", "2.50/M", "0.000025", "3.75/M", "0.0000375"],
        ["output", "10", "4.00/M", "0.00004", "6.00/M", "0.00006"],
        ["reasoning", "1", "4.00/M", "0.000004", "6.00/M", "0.000006"],
        ["image", "2", "0.01", "0.02", "0.015", "0.03"],
        ["call", "1", "0.00", "0.0", "0.00", "0.0"],
        ["on", "the", "books", "-", "-", "0.020189", "-", "0.0302835"],
    ]
    [told] = json.loads(llmgw("prices", "explain", "call-1", "--json"))
    assert (told["call_id"], told["entry"], told["cost_nano"]) == ("call-1", "call", 20_189_000)
    line = told["attempts"][0]["lines"][0]
    assert (line["name"], line["quantity"], line["cost"]) == ("input", 50, 50 * 2 * 10**9)
    assert told["attempts"][0]["sheet"]["currency"] == "USD"


def test_a_call_without_a_price_and_one_without_any_use_are_explained(
    llmgw: Callable[..., str], fails: Callable[..., str], file: Path
) -> None:
    record, _ = call(file, Usage(10, 10), 1)
    [attempt] = record.attempts
    free = msgspec.structs.replace(attempt, price="")
    booked(
        file,
        msgspec.structs.replace(record, attempts=(free,)),
        usage_record(2, attempts=()),
        call(file, Usage(10, 10), 3)[0],
    )
    assert "m/a (ok): it had no price and was booked at zero" in llmgw(
        "prices", "explain", "call-1"
    )
    assert "It used nothing." in llmgw("prices", "explain", "call-2")
    assert "which is not in the store" in llmgw("prices", "explain", "call-3")
    assert "The books have no call nothing" in fails("prices", "explain", "nothing")


def test_a_period_is_re_priced_and_the_pairs_are_explained(
    llmgw: Callable[..., str], file: Path
) -> None:
    booked(file, *(usage_record(n, model="m", attempts=attempts()) for n in (1, 2)))
    period = ("--since", "2026-02-01", "--until", "2026-02-03")
    lines = llmgw("reprice", *period, "--dry-run").splitlines()
    assert lines[1].split() == [
        *("m", "2", "2", "0.000003", "0.000074", "0.000005", "0.000111"),
    ]
    assert lines[-1] == "Nothing was booked: this was a dry run."
    found = json.loads(llmgw("reprice", *period, "--json"))
    assert (found["dry_run"], found["currency"]) == (False, "USD")
    assert found["models"][0]["changed"] == 2
    assert llmgw("reprice", *period).splitlines()[1].split()[:3] == ["m", "2", "0"]
    lines = llmgw("prices", "explain", "call-1").splitlines()
    heads = [line.partition(":")[0] for line in lines if line.startswith("call-1")]
    assert heads == ["call-1", "call-1~r1 (reversal)", "call-1~b1 (rebooking)"]
    assert llmgw("usage", "--by", "model").split()[-7:-1] == [
        *("m", "2", "20", "10", "0.000074", "0.000111"),
    ]


def attempts() -> tuple[AttemptRecord, ...]:
    return (AttemptRecord("m/a", "m", "ok", 200, 1, 1_500, 2_500),)


def test_what_re_pricing_leaves_alone_is_said(llmgw: Callable[..., str], file: Path) -> None:
    assert llmgw("reprice", "--since", "7d") == "There are no calls in this period.\n"
    booked(file, usage_record(1), usage_record(2, model="other"))
    lines = llmgw("reprice", "--since", "2026-02-01").splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["MODEL", "other", "small", "TOTAL"]
    assert lines[-1].startswith("2 attempts are on deployments without a price now")


def test_what_cannot_be_re_priced_is_one_sentence(fails: Callable[..., str], file: Path) -> None:
    told = fails("reprice", "--since", "2026-02-03", "--until", "2026-02-01")
    assert told == "The period ends before it begins."
