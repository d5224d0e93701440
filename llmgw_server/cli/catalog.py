"""`models`: what the configuration has, and what it costs; `models canary` and `models retarget`
change where aliases lead while the gateway runs."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from llmgw_core.config.load import load
from llmgw_core.config.schema_prices import starts_at
from llmgw_server.cli import canary
from llmgw_server.cli.options import add_config, add_json, run_with
from llmgw_server.cli.output import say, say_json, say_table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from llmgw_core.config.schema import Config, ModelConfig
    from llmgw_core.config.schema_aliases import AliasConfig
    from llmgw_core.config.schema_prices import PriceEntry
    from llmgw_core.domain.life import Life

_KEYS = ("name", "kind", "state", "deployments", "zones", "fallbacks", "prices")


def configure(parser: argparse.ArgumentParser, command: str) -> None:
    """Add the options and the subcommands."""
    add_config(parser)
    add_json(parser)
    run_with(parser, _models)
    actions = parser.add_subparsers(metavar="ACTION", required=False)
    canary.configure(actions)


def _models(args: argparse.Namespace) -> None:
    config = load(args.config)
    now = dt.datetime.now(dt.UTC)
    rows = [_model(name, model, config, now) for name, model in config.models.items()]
    rows += [_alias(name, alias, config) for name, alias in config.aliases.items()]
    if args.json:
        say_json(rows)
    elif not rows:
        say("There are no models.")
    else:
        say_table(
            [key.upper() for key in _KEYS],
            [
                [row[key] for key in _KEYS[:2]] + [_state(row)] + [row[key] for key in _KEYS[3:]]
                for row in rows
            ],
        )


def _model(name: str, model: ModelConfig, config: Config, now: dt.datetime) -> dict[str, Any]:
    return {
        "name": name,
        "kind": model.kind,
        **_life(model.life),
        "deployments": [f"{each.name} ({each.backend})" for each in model.deployments],
        "zones": sorted({each.zone for each in model.deployments}),
        "fallbacks": model.fallbacks,
        "prices": _prices(model, now, config.accounting.currency),
    }


def _alias(name: str, alias: AliasConfig, config: Config) -> dict[str, Any]:
    targets = [config.models[variant.model] for variant in alias.variants]
    total = sum(variant.weight for variant in alias.variants)
    return {
        "name": name,
        "kind": targets[0].kind,
        **_life(alias.life),
        "deployments": [
            f"→ {variant.model} {100 * variant.weight / total:.3g} %" for variant in alias.variants
        ],
        "zones": sorted({each.zone for model in targets for each in model.deployments}),
        "fallbacks": (),
        "prices": [],
        "variants": alias.variants,
    }


def _life(life: Life) -> dict[str, Any]:
    told = {
        "deprecated": life.deprecated,
        "sunset": life.sunset,
        "successor": life.successor,
        "link": life.link,
    }
    return {"state": life.state, **{key: value for key, value in told.items() if value}}


def _state(row: dict[str, Any]) -> str:
    """The state with what follows: until when, and what to use instead."""
    text = str(row["state"])
    if "sunset" in row:
        text += f" until {row['sunset']}"
    return f"{text}, then {row['successor']}" if "successor" in row else text


def _prices(model: ModelConfig, now: dt.datetime, currency: str) -> list[str]:
    """What tenants are charged now; several where deployments differ."""
    entries = [_current(each.prices or model.prices, now) for each in model.deployments]
    return list(dict.fromkeys(_price(entry, currency) for entry in entries if entry)) or ["none"]


def _current(prices: Sequence[PriceEntry], now: dt.datetime) -> PriceEntry | None:
    past = [entry for entry in prices if starts_at(entry.valid_from) <= now]
    return past[-1] if past else None


def _price(entry: PriceEntry, currency: str) -> str:
    price = entry.charge or entry.cost
    if price is None:
        text = f"{entry.catalogue} of the catalogue"
    else:
        currency = currency if entry.charge else entry.currency or currency
        text = f"{price.input:f} in + {price.output:f} out {currency}/M"
        text += f" + {price.call:f}/call" if price.call else ""
    if entry.charge is None and entry.discount:
        text += f" - {entry.discount.normalize():f} %"
    if entry.markup:
        text += f" + {entry.markup.normalize():f} %"
    return text + (", more for long calls" if entry.tiers else "")
