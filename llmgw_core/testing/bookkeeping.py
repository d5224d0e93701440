"""Books for tests of statements: priced calls that add up, without a gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from llmgw_core.accounting.price_sheet import ClassRates, PriceSheet, rounded
from llmgw_core.domain.usage import AttemptRecord, Usage, UsageRecord
from llmgw_core.store.ledger_tables import SUMS
from llmgw_core.store.price_sheets import put_sheets
from llmgw_core.testing.usage_records import usage_record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmgw_core.store.engine import Store
    from llmgw_core.store.ledger import Ledger


def rates(input: int, output: int, **more: int) -> ClassRates:
    """Nano-units per million tokens. What is not named is priced like what it is a part of."""
    values = {
        "cached_input": input,
        "cache_write": input,
        "audio_input": input,
        "image_input": input,
        "reasoning": output,
        "audio_output": output,
        "image_output": output,
        "accepted_prediction": output,
        "rejected_prediction": output,
        "image": 0,
        "call": 0,
    }
    return ClassRates(**{**values, "input": input, "output": output, **more})


def sheet(cost: ClassRates, charge: ClassRates | None = None) -> PriceSheet:
    """A price sheet in euros; charged what it costs unless it says otherwise."""
    return PriceSheet(currency="EUR", cost=cost, charge=charge or cost)


def priced(number: int, price: PriceSheet, usage: Usage, **changes: Any) -> UsageRecord:
    """The record of call `number`, as settlement would have written it at `price`."""
    cost, charge = amounts(price, usage, calls=1)
    deployment = changes.get("deployment", "small/local")
    model = deployment.rpartition("/")[0]
    attempt = AttemptRecord(deployment, model, "ok", 200, 1000, cost, charge, "", price.id)
    values = {"served_model": model, "currency": "EUR", **changes}
    return usage_record(
        number, usage=usage, cost=cost, charge=charge, attempts=(attempt,), **values
    )


def amounts(price: PriceSheet, usage: Usage, *, calls: int) -> tuple[int, int]:
    """Cost and charge of `usage`, each rounded once."""
    sums = {name: getattr(usage, name) for name in SUMS if hasattr(usage, name)}
    if usage.details is not None:
        sums |= msgspec.structs.asdict(usage.details)
    found = price.amounts_by_class({**sums, "calls": calls})
    return rounded(sum(each.cost for each in found)), rounded(sum(each.charge for each in found))


def repriced(record: UsageRecord, price: PriceSheet, number: int = 1) -> list[UsageRecord]:
    """The two rows by which `record` comes to another price: taken back, and booked anew."""
    usage = record.usage
    back = msgspec.structs.replace(
        record,
        call_id=f"{record.call_id}~r{number}",
        entry="reversal",
        corrects=record.call_id,
        usage=Usage(
            -usage.input_tokens,
            -usage.output_tokens,
            -usage.cached_input_tokens,
            -usage.reasoning_tokens,
            usage.source,
        ),
        cost=-record.cost,
        charge=-record.charge,
    )
    cost, charge = amounts(price, usage, calls=1)
    attempts = (
        msgspec.structs.replace(record.attempts[-1], cost=cost, charge=charge, price=price.id),
    )
    anew = msgspec.structs.replace(
        record,
        call_id=f"{record.call_id}~b{number}",
        entry="rebooking",
        corrects=record.call_id,
        cost=cost,
        charge=charge,
        attempts=attempts,
    )
    return [back, anew]


async def book(
    store: Store, ledger: Ledger, records: Sequence[UsageRecord], *sheets: PriceSheet
) -> None:
    """Put price sheets and records into the books."""
    async with store.begin() as connection:
        await put_sheets(connection, sheets, 0)
    await ledger.insert(records, ())
