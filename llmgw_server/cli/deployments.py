"""`deployments`: how every deployment is, as the routing of the gateway that runs sees it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from llmgw_core import planning
from llmgw_core.pipeline.deployment_rows import DeploymentRow  # noqa: TC001 -- decoded at run time
from llmgw_server.cli.asking import add_gateway, ask_running
from llmgw_server.cli.options import add_config, add_json, run_with
from llmgw_server.cli.output import remark, say, say_json, say_table

if TYPE_CHECKING:
    import argparse

    from llmgw_core.pipeline.deployment_rows import LoadReport

_NUMBERS = "IN-FLIGHT FIRST/ms WHOLE/ms EJECTIONS"


class _Told(msgspec.Struct):
    data: list[DeploymentRow]


def configure(parser: argparse.ArgumentParser, _command: str) -> None:
    """Add the options."""
    add_config(parser)
    add_gateway(parser, "where the gateway is (default: where the configuration says)")
    add_json(parser)
    run_with(parser, _deployments)


def _deployments(args: argparse.Namespace) -> None:
    told, where = ask_running(args, "/deployments", _Told)
    if told is not None:
        rows = told.data
    else:
        rows = [_unknown(row) for row in asyncio.run(planning.rows(args.config))]
        remark(f"{where} Only what is configured and switched off is known.")
    if args.json:
        say_json(rows)
    elif not rows:
        say("There are no deployments.")
    else:
        titles = ("DEPLOYMENT", "ZONE", "STATE", *_NUMBERS.split(), "ENGINE", "WHY")
        say_table(titles, [_cells(row) for row in rows], right=_NUMBERS)


def _unknown(row: DeploymentRow) -> DeploymentRow:
    """Nobody has said that it is healthy."""
    return msgspec.structs.replace(row, state="unknown") if row.state == "healthy" else row


def _cells(row: DeploymentRow) -> tuple[object, ...]:
    return (
        row.deployment,
        row.zone,
        row.state,
        row.in_flight,
        _ms(row.first_content),
        _ms(row.complete),
        row.ejections,
        _engine(row.load),
        _why(row),
    )


def _ms(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds * 1e3:.0f}"


def _engine(load: LoadReport | None) -> str | None:
    if load is None:
        return None
    cache = "" if load.kv_use is None else f", KV {load.kv_use:.0%}"
    return f"{load.running} running, {load.waiting} waiting{cache}"


def _why(row: DeploymentRow) -> str | None:
    if not row.reason:
        return None
    return row.reason if row.seconds is None else f"{row.reason} (for {row.seconds:.0f} s more)"
