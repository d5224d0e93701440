"""`models`: what the configuration has, and what it costs."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from llmgw_core.config.load import load
from llmgw_server.cli.options import add_config, add_json, run_with
from llmgw_server.cli.output import say, say_json, say_table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from llmgw_core.config.schema import ModelConfig, PriceEntry, TokenPrices


def configure(parser: argparse.ArgumentParser, command: str) -> None:
    """Add the options."""
    add_config(parser)
    add_json(parser)
    run_with(parser, _models)


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
    if args.json:
        say_json(rows)
    elif not rows:
        say("There are no models.")
    else:
        keys = ("name", "kind", "deployments", "zones", "fallbacks", "prices")
        say_table([key.upper() for key in keys], [[row[key] for key in keys] for row in rows])


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
