"""What examples/billing.yaml promises: departments share what a rack costs, to the last place."""

from __future__ import annotations

import csv
import datetime as dt
import io
from decimal import Decimal
from typing import TYPE_CHECKING

from llmgw_core.config.load import load
from llmgw_core.domain.usage import Usage
from llmgw_core.statements.export import as_csv
from llmgw_core.statements.service import Statements
from llmgw_core.store.engine import Store
from llmgw_core.store.ledger import Ledger
from llmgw_core.testing.bookkeeping import book, priced, rates, sheet

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

FREE = sheet(rates(0, 0))
CLOCK = dt.datetime(2026, 11, 2, tzinfo=dt.UTC).timestamp()
OCTOBER_NS = int(dt.datetime(2026, 10, 5, tzinfo=dt.UTC).timestamp()) * 10**9


async def test_the_rack_of_the_example_is_shared_out_and_the_rest_is_idle(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
    config = load(repository / "examples" / "billing.yaml")
    store = Store(f"sqlite:///{tmp_path / 'llmgw.db'}")
    await store.open()
    try:
        records = [
            priced(
                number,
                FREE,
                Usage(10**9, number * 10**9, 5 * 10**8),
                started_ns=OCTOBER_NS,
                deployment="llama/rack-1",
                cost_center=f"cc-{number}",
            )
            for number in range(3)
        ]
        await book(store, Ledger(store), records, FREE)
        statements = Statements(
            store, config.statements, currency=config.accounting.currency, clock=lambda: CLOCK
        )
        await statements.create("2026-10", actor="test")
        closed = await statements.close("2026-10", actor="test")
        exported = as_csv(closed, await statements.lines(closed)).decode()
    finally:
        await store.aclose()
    rows = list(csv.DictReader(io.StringIO(exported, newline="")))
    shares = [row for row in rows if row["kind"] in {"pool", "idle"}]
    assert [row["cost_center"] for row in shares] == ["cc-0", "cc-1", "cc-2", ""]
    assert sum(Decimal(row["cost"]) for row in shares) == Decimal(4000)
    # 745 hours of forty million weighted tokens; 0.55, 3.55 and 6.55 thousand million were used.
    assert [row["cost"] for row in shares] == [
        "73.825503", "476.510067", "879.194631", "2570.469799",
    ]  # fmt: skip
