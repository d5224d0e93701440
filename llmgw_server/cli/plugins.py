"""`plugins`: what is installed, what is enabled and in which order, with which hooks; and what a
running gateway says of their times and failures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from llmgw_core.config.load import load
from llmgw_core.gateway import load_plugins
from llmgw_core.hooks.discovery import distribution, installed
from llmgw_core.hooks.rows import PluginRow  # noqa: TC001 -- decoded at run time
from llmgw_server.cli.asking import add_gateway, admin_key, ask
from llmgw_server.cli.options import DEFAULT_CONFIG, add_config, add_json, run_with
from llmgw_server.cli.output import say, say_json, say_table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

_NUMBERS = ("CALLS", "FAILURES", "TIMEOUTS", "BLOCKINGS", "MEAN/ms", "MAX/ms", "DROPPED")


class _Told(msgspec.Struct):
    data: tuple[PluginRow, ...]


def configure(parser: argparse.ArgumentParser, command: str) -> None:
    """Add the options."""
    add_config(parser)
    add_json(parser)
    add_gateway(parser, "ask the gateway that runs there for the times and failures of its plugins")
    run_with(parser, _plugins)


def _plugins(args: argparse.Namespace) -> None:
    if args.url:
        _running(args)
    else:
        _configured(args)


def _configured(args: argparse.Namespace) -> None:
    path = Path(args.config)
    enabled: dict[str, PluginRow] = {}
    if path.exists() or args.config != DEFAULT_CONFIG:  # whoever names a file means it
        host = load_plugins(load(path), path.absolute().parent)
        enabled = {row.name: row for row in host.describe()}
    found = {
        name: distribution(entries[0]) if len(entries) == 1 else ("(several)", "")
        for name, entries in installed().items()
    }
    others = sorted(set(found) - set(enabled))
    rows = [
        *(_row(row) for row in enabled.values()),
        *(
            {
                **_NOT_ENABLED,
                "name": name,
                "distribution": found[name][0],
                "version": found[name][1],
            }
            for name in others
        ),
    ]
    _print(args, rows, ("order", "name", "distribution", "version", "hooks"))


_NOT_ENABLED = dict.fromkeys(("order", "name", "distribution", "version", "path", "hooks"))


def _row(row: PluginRow) -> dict[str, Any]:
    return {
        "order": row.order,
        "name": row.name,
        "distribution": row.distribution or Path(row.path).name,
        "version": row.version,
        "path": row.path,
        "hooks": row.hooks,
    }


def _running(args: argparse.Namespace) -> None:
    rows = ask(args.url, admin_key(args), "/plugins", _Told).data
    if args.json:
        say_json(rows)
        return
    lines = [{**_row(row), "state": row.state, "tasks": row.tasks} for row in rows]
    _print(args, lines, ("order", "name", "distribution", "version", "state", "tasks"))
    if rows:
        say("")
        titles = ("PLUGIN", "HOOK", *_NUMBERS)
        say_table(titles, _times(rows), right=" ".join(_NUMBERS))


def _times(rows: Sequence[PluginRow]) -> list[list[Any]]:
    return [
        [
            row.name,
            hook.hook,
            hook.calls,
            hook.failures,
            hook.timeouts,
            hook.blockings,
            f"{hook.mean_seconds * 1e3:.3f}",
            f"{hook.max_seconds * 1e3:.3f}",
            hook.dropped,
        ]
        for row in rows
        for hook in row.details
    ]


def _print(args: argparse.Namespace, rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> None:
    if args.json:
        say_json(rows)
    elif not rows:
        say("There are no plugins.")
    else:
        say_table([key.upper() for key in keys], [[row[key] for key in keys] for row in rows])
