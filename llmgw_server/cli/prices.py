"""`prices`: what is configured, what a call was priced by, what catalogues have, and the import of
a public price map."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from llmgw_core.accounting.call_price import call_prices
from llmgw_core.accounting.price_sheet import UNITS
from llmgw_core.store.ledger import Ledger
from llmgw_core.store.price_sheets import read_sheets
from llmgw_core.store.repricing_queries import corrections
from llmgw_core.tenancy.errors import NotFound
from llmgw_server.cli import price_import, sentence_of
from llmgw_server.cli.database import on_store
from llmgw_server.cli.options import add_config, add_json, run_with
from llmgw_server.cli.output import money, say, say_json, say_table
from llmgw_server.cli.price_book import priced

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from llmgw_core.accounting.call_price import AttemptPrice
    from llmgw_core.accounting.price_sheet import ClassAmount, PriceSheet
    from llmgw_core.config.schema_prices import CatalogueEntry
    from llmgw_core.domain.usage import UsageRecord
    from llmgw_core.store.engine import Store

_SIDES = ("IN", "CACHED", "OUT", "MORE")
_SHOWN = ("input", "cached_input", "output")


def configure(parser: argparse.ArgumentParser, _command: str) -> None:
    """Add the actions."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    text = "what every deployment costs now, and what tenants are charged"
    one = actions.add_parser("list", help=text, description=sentence_of(text))
    add_config(one)
    add_json(one)
    run_with(one, _list)
    text = "what one call was priced by, with the arithmetic of every class"
    one = actions.add_parser("explain", help=text, description=sentence_of(text))
    one.add_argument("call", metavar="CALL_ID", help="x-request-id of its reply")
    add_config(one)
    add_json(one)
    run_with(one, _explain)
    text = "the prices that plugins bring, with their sources"
    one = actions.add_parser("catalogue", help=text, description=sentence_of(text))
    add_config(one)
    add_json(one)
    run_with(one, _catalogue)
    text = "make prices of a configuration out of LiteLLM's public price map"
    price_import.configure(actions.add_parser("import", help=text, description=sentence_of(text)))


def _list(args: argparse.Namespace) -> None:
    found = priced(args.config)
    now, config = time.time_ns(), found.config
    rows: list[tuple[str, PriceSheet | None, str]] = []
    for name, model in config.models.items():
        for deployment in model.deployments:
            id = f"{name}/{deployment.name}"
            price = found.prices.price(name, id, now)
            if price is None:
                rows.append((id, None, found.prices.reason(name, id, now)))
            else:
                rows += [(id, sheet, "") for sheet in price.sheets]
    if args.json:
        say_json([_json(*row) for row in rows])
    else:
        unit = f"{config.accounting.currency}/M"
        titles = ("DEPLOYMENT", "ABOVE", *(f"COST {side}" for side in _SIDES))
        charged = tuple(f"CHARGE {side}" for side in _SIDES)
        say(f"Prices in {unit} tokens; MORE: other classes, and prices each.")
        say_table((*titles, *charged, "PRICE"), [_row(*row) for row in rows])


def _json(id: str, sheet: PriceSheet | None, reason: str) -> dict[str, Any]:
    if sheet is None:
        return {"deployment": id, "price": "", "reason": reason, "sheet": None}
    return {"deployment": id, "price": sheet.id, "reason": "", "sheet": sheet}


def _row(id: str, sheet: PriceSheet | None, reason: str) -> Sequence[str]:
    if sheet is None:
        return (id, "", *[""] * 8, f"none: {reason}")
    above = str(sheet.tier) if sheet.tier else ""
    exchange = f" (from {sheet.exchange})" if sheet.exchange else ""
    return (id, above, *_side(sheet.cost), *_side(sheet.charge), sheet.id[:8] + exchange)


def _side(rates: msgspec.Struct) -> list[str]:
    """The usual classes, and whatever differs from what it is a part of."""
    said = msgspec.structs.asdict(rates)
    parents = {"cache_write": "input", "audio_input": "input", "image_input": "input"}
    more = []
    for name, rate in said.items():
        usual = 0 if name in UNITS else said[parents.get(name, "output")]
        if name not in _SHOWN and rate != usual:
            more.append(f"{name} {money(rate)}")
    return [*(money(said[name]) for name in _SHOWN), ", ".join(more)]


def _explain(args: argparse.Namespace) -> None:
    rows, sheets = on_store(args, lambda store: _found(store, args.call))
    told = [(record, call_prices(record, sheets)) for record in rows]
    if args.json:
        say_json([_document(record, attempts) for record, attempts in told])
        return
    for record, attempts in told:
        _tell(record, attempts)


def _document(record: UsageRecord, attempts: Sequence[AttemptPrice]) -> dict[str, Any]:
    return {
        "call_id": record.call_id,
        "entry": record.entry,
        "started_ns": record.started_ns,
        "currency": record.currency,
        "cost_nano": record.cost,
        "charge_nano": record.charge,
        "attempts": [
            {**msgspec.structs.asdict(each), "lines": [line._asdict() for line in each.lines]}
            for each in attempts
        ],
    }


async def _found(store: Store, call: str) -> tuple[list[UsageRecord], dict[str, PriceSheet]]:
    record = await Ledger(store).get(call)
    if record is None:
        raise NotFound(f"The books have no call {call}; a second ago it may not have been there.")
    async with store.connect() as connection:
        rows = [record, *await corrections(connection, record)]
        ids = {attempt.price for row in rows for attempt in row.attempts}
        return rows, await read_sheets(connection, ids - {""})


def _tell(record: UsageRecord, attempts: Sequence[AttemptPrice]) -> None:
    kind = "" if record.entry == "call" else f" ({record.entry})"
    amounts = f"cost {money(record.cost)}, charge {money(record.charge)} {record.currency}"
    say(f"{record.call_id}{kind}: {amounts}")
    if not attempts:
        say("It used nothing.")
    for each in attempts:
        say(f"{each.deployment} ({each.outcome}): {_by(each)}")
        if each.lines:
            titles = ("CLASS", "QUANTITY", "COST-RATE", "COST", "CHARGE-RATE", "CHARGE")
            rows = [_line(line) for line in each.lines]
            total = ("on the books", "", "", money(each.cost), "", money(each.charge))
            say_table(titles, [*rows, total], right=" ".join(titles[1:]))


def _by(each: AttemptPrice) -> str:
    if not each.price:
        return "it had no price and was booked at zero"
    if each.sheet is None:
        return f"price {each.price}, which is not in the store"
    tier = f", for more than {each.sheet.tier} input tokens" if each.sheet.tier else ""
    exchange = f", converted from {each.sheet.exchange}" if each.sheet.exchange else ""
    return f"price {each.price}{tier}{exchange}"


def _line(line: ClassAmount) -> tuple[str, ...]:
    unit = "" if line.name in UNITS else "/M"
    return (
        line.name,
        str(line.quantity),
        money(line.cost_rate) + unit,
        _exact(line.cost),
        money(line.charge_rate) + unit,
        _exact(line.charge),
    )


def _exact(numerator: int) -> str:
    """Millionths of a nano-unit in units, with all digits."""
    whole, rest = divmod(abs(numerator), 10**15)
    digits = f"{rest:015d}".rstrip("0")
    return f"{'-' if numerator < 0 else ''}{whole}.{digits or '0'}"


def _catalogue(args: argparse.Namespace) -> None:
    found = priced(args.config).catalogue
    rows = [(name, entry) for name in sorted(found) for entry in found[name]]
    if args.json:
        say_json([{"name": name, "price": entry} for name, entry in rows])
    elif not rows:
        say("No enabled plugin brings a catalogue of prices.")
    else:
        titles = ("NAME", "FROM", "CURRENCY", *_SIDES[:3], "SEEN", "SOURCE")
        say_table(titles, [_entry(name, entry) for name, entry in rows])


def _entry(name: str, entry: CatalogueEntry) -> tuple[str, ...]:
    cost = entry.cost
    cached = "" if cost.cached_input is None else f"{cost.cached_input:f}"
    amounts = (f"{cost.input:f}", cached, f"{cost.output:f}")
    return (name, str(entry.valid_from), entry.currency, *amounts, str(entry.seen), entry.source)
