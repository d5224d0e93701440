"""Statements of single organisations, and files that spreadsheets open without harm."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
from typing import TYPE_CHECKING

import pytest

from llmgw_core.config.schema_statements import PoolConfig, StatementsConfig
from llmgw_core.domain.usage import Usage
from llmgw_core.statements.errors import StatementError
from llmgw_core.statements.explaining import explained
from llmgw_core.statements.export import COLUMNS, amount, as_csv, as_json, csv_bytes, safe
from llmgw_core.statements.service import Statements
from llmgw_core.store.ledger import Ledger
from llmgw_core.tenancy.costing import Costing
from llmgw_core.tenancy.service import Tenancy
from llmgw_core.testing.bookkeeping import book, priced, rates, sheet

if TYPE_CHECKING:
    from llmgw_core.store.engine import Store

BY = "test"
PRICE = sheet(rates(10**9, 2 * 10**9))
ZONE = "Asia/Kolkata"
"""Half an hour off, so that rows are read as well."""
MARCH = int(dt.datetime(2027, 2, 28, 18, 30, tzinfo=dt.UTC).timestamp()) * 10**9
CLOCK = MARCH / 1e9 + 40 * 86_400


@pytest.fixture
def statements(store: Store) -> Statements:
    pools = {"gpu": PoolConfig(7, models=("small",))}  # type: ignore[arg-type]
    config = StatementsConfig(timezone=ZONE, pools=pools, decimals=0)
    return Statements(store, config, currency="EUR", clock=lambda: CLOCK)


async def test_each_organisation_has_its_own(store: Store, statements: Statements) -> None:
    tenancy = Tenancy(store)
    ids = [(await tenancy.create_organization(name, actor=BY)).id for name in ("one", "two")]
    records = [
        priced(
            number,
            PRICE,
            Usage(10 ** (9 + number), 0),
            started_ns=MARCH + (number // 2) * 3_600 * 10**9,
            organization_id=ids[number % 2],
        )
        for number in range(4)
    ]
    await book(store, Ledger(store), records, PRICE)
    for name, tokens, cost in (("one", 101 * 10**9, 101_000), ("two", 1010 * 10**9, 1_010_000)):
        made = await statements.create("2027-03", organization=name, actor=BY)
        closed = await statements.close("2027-03", organization=name, actor=BY)
        lines = await statements.lines(closed)
        assert closed.id == made.id
        assert [(line.token_class, line.quantity) for line in lines] == [
            ("input", tokens), ("call", 2),
        ]  # fmt: skip
        assert closed.summary.cost == cost * 10**9
        assert closed.summary.pools == ()  # those are everybody's
        shares = [page async for page in explained(store, closed, lines[0])]
        assert {share.organization_id for share in shares[0]} == {closed.scope}
    assert len(await statements.find_all()) == 2
    assert len(await statements.find_all(organization="one")) == 1
    with pytest.raises(StatementError, match="of an organisation of 2027-03"):
        await statements.create("2027-03", actor=BY)
    with pytest.raises(StatementError, match="no statement of 2027-03"):
        await statements.get("2027-03")


async def test_a_file_is_what_rfc_4180_says_and_no_name_is_a_formula(
    store: Store, statements: Statements
) -> None:
    name = '=cmd|" /C calc"!A0, "x"'
    center = await Costing(store).create("CC-1", name=name, owner="@SUM(A1)", actor=BY)
    record = priced(
        0, PRICE, Usage(10, 0), started_ns=MARCH, cost_center=center.id, deployment="-1+1/x"
    )
    await book(store, Ledger(store), [record], PRICE)
    made = await statements.create("2027-03", actor=BY)
    lines = await statements.lines(made)
    data = as_csv(made, lines)
    assert data.count(b"\r\n") == data.count(b"\n") == len(lines) + 1
    rows = list(csv.reader(io.StringIO(data.decode("utf-8"), newline="")))
    assert tuple(rows[0]) == COLUMNS
    for row in rows:
        assert len(row) == len(COLUMNS)
        assert not [cell for cell in row if cell[:1] in {"=", "@", "+"}]
    assert rows[1][5:9] == ["CC-1", "'" + name, "'@SUM(A1)", "'-1+1"]
    [first, *_] = json.loads(as_json(made, lines))["lines"]
    assert (first["cost_center_name"], first["cost"]) == (name, "0")
    assert json.loads(as_json(made, lines))["closed"] is None


def test_numbers_with_a_sign_stay_numbers() -> None:
    assert [safe(text) for text in ("-5.25", "+1", "-", "-5x", "\t1", "＝1", "a")] == [
        "-5.25", "+1", "'-", "'-5x", "'\t1", "'＝1", "a",
    ]  # fmt: skip
    assert csv_bytes(("a",), [("=x",), (-5,), (None,)]) == b'a\r\n\'=x\r\n-5\r\n""\r\n'


def test_amounts_are_written_without_loss() -> None:
    assert amount(-1_500_000, 6) == "-0.001500"
    assert amount(2_000_000_000, 0) == "2"
    with pytest.raises(ValueError, match="more decimals"):
        amount(1, 6)
