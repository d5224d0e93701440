"""`models` and `plugins`: what the configuration and the installation have."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmgw_core.config.load import load
from llmgw_core.gateway import load_plugins
from llmgw_core.hooks.discovery import distribution, installed
from llmgw_server.cli.options import DEFAULT_CONFIG, add_config, add_json, run_with
from llmgw_server.cli.output import say, say_json, say_table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from llmgw_core.config.schema import ModelConfig, PriceEntry, TokenPrices
    from llmgw_core.hooks.rows import PluginRow


def configure(parser: argparse.ArgumentParser, command: str) -> None:
    """Add the options."""
    add_config(parser)
    add_json(parser)
    run_with(parser, _models if command == "models" else _plugins)


def _models(args: argparse.Namespace) -> None:
    config = load(args.config)
    today = dt.datetime.now(dt.UTC).date()
    rows = [
        {
            "name": name,
            "kind": model.kind,
            "deployments": [f"{each.name} ({each.backend})" for each in model.deployments],
            "zones": sorted({each.zone for each in model.deployments}),
            "fallbacks": model.fallbacks,
            "prices": _prices(model, today, config.accounting.currency),
        }
        for name, model in config.models.items()
    ]
    _print(args, rows, ("name", "kind", "deployments", "zones", "fallbacks", "prices"), "models")


def _prices(model: ModelConfig, today: dt.date, currency: str) -> list[str]:
    """What tenants are charged today; several where deployments differ."""
    entries = [_current(each.prices or model.prices, today) for each in model.deployments]
    texts = [_price(entry.charge or entry.cost, currency) for entry in entries if entry]
    return list(dict.fromkeys(texts)) or ["none"]


def _current(prices: Sequence[PriceEntry], today: dt.date) -> PriceEntry | None:
    past = [entry for entry in prices if entry.valid_from <= today]
    return past[-1] if past else None


def _price(price: TokenPrices, currency: str) -> str:
    text = f"{price.input:f} in + {price.output:f} out {currency}/M"
    return f"{text} + {price.call:f}/call" if price.call else text


def _plugins(args: argparse.Namespace) -> None:
    path = Path(args.config)
    enabled: dict[str, PluginRow] = {}
    if path.exists() or args.config != DEFAULT_CONFIG:  # whoever names a file means it
        host = load_plugins(load(path), path.absolute().parent)
        enabled = {row.name: row for row in host.describe()}
    found = {
        name: distribution(entries[0]) if len(entries) == 1 else ("(several)", "")
        for name, entries in installed().items()
    }
    rows = [
        {
            "name": name,
            "distribution": found[name][0],
            "version": found[name][1],
            "order": enabled[name].order if name in enabled else None,
            "hooks": enabled[name].hooks if name in enabled else None,
        }
        for name in (*enabled, *sorted(set(found) - set(enabled)))
    ]
    _print(args, rows, ("order", "name", "distribution", "version", "hooks"), "plugins")


def _print(
    args: argparse.Namespace, rows: Sequence[dict[str, Any]], keys: Sequence[str], what: str
) -> None:
    if args.json:
        say_json(rows)
    elif not rows:
        say(f"There are no {what}.")
    else:
        say_table([key.upper() for key in keys], [[row[key] for key in keys] for row in rows])
