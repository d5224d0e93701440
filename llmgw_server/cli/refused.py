"""`refused`: what the ledger has refused for good and nobody has billed."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmgw_core.accounting.refused import RefusedFile, retry
from llmgw_core.config.load import load
from llmgw_core.store.ledger import Ledger
from llmgw_server.cli.database import on_store
from llmgw_server.cli.errors import CommandError
from llmgw_server.cli.options import add_config, add_json, run_with
from llmgw_server.cli.output import money, remark, say, say_json, say_table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from llmgw_core.domain.usage import UsageRecord
    from llmgw_core.store.engine import Store


def configure(parser: argparse.ArgumentParser, _command: str) -> None:
    """Add the options."""
    add_config(parser)
    parser.add_argument(
        "--retry",
        action="store_true",
        help="book what the ledger takes now, and say why the rest is refused",
    )
    add_json(parser)
    run_with(parser, _refused)


def _refused(args: argparse.Namespace) -> None:
    file = RefusedFile(Path(load(args.config).accounting.journal))
    try:
        reasons = _retry(args, file) if args.retry and file.present() else None
        records, damage = file.read()
    except OSError as error:
        raise CommandError(f"{file.path}: {error.strerror or error}.") from None
    rows = [_row(record, reasons) for record in records]
    if args.json:
        say_json(rows)
    elif rows:
        say_table([name.upper() for name in rows[0]], [list(row.values()) for row in rows])
    elif reasons is None:
        say("The ledger has refused nothing.")
    if damage:
        remark(f"{len(damage)} places of {file.path} cannot be read.")


def _retry(args: argparse.Namespace, file: RefusedFile) -> Mapping[str, str]:
    async def work(store: Store) -> tuple[int, dict[str, str]]:
        return await retry(file, Ledger(store))

    booked, reasons = on_store(args, work)
    if not args.json:
        say(f"{booked:,} calls are on the books now; {len(reasons):,} are refused again.")
    return reasons


def _row(record: UsageRecord, reasons: Mapping[str, str] | None) -> dict[str, Any]:
    begun = dt.datetime.fromtimestamp(record.started_ns / 1e9, dt.UTC)
    row = {
        "call": record.call_id,
        "started": begun.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "organization": record.organization_id,
        "model": record.model,
        "tokens": record.usage.total_tokens,
        "cost": money(record.cost),
        "charge": money(record.charge),
    }
    return row if reasons is None else row | {"why": reasons.get(record.call_id, "")}
