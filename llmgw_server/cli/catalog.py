"""`models`: what the configuration has, and what it costs; `models canary` and `models retarget`
change where aliases lead while the gateway runs."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from llmgw_core.config.load import load
from llmgw_server.cli import canary
from llmgw_server.cli.options import add_config, add_json, run_with
from llmgw_server.cli.output import say, say_json, say_table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from llmgw_core.config.schema import Config, ModelConfig, PriceEntry, TokenPrices
    from llmgw_core.config.schema_aliases import AliasConfig
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
    today = dt.datetime.now(dt.UTC).date()
    rows = [_model(name, model, config, today) for name, model in config.models.items()]
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


def _model(name: str, model: ModelConfig, config: Config, today: dt.date) -> dict[str, Any]:
    return {
        "name": name,
        "kind": model.kind,
        **_life(model.life),
        "deployments": [f"{each.name} ({each.backend})" for each in model.deployments],
        "zones": sorted({each.zone for each in model.deployments}),
        "fallbacks": model.fallbacks,
        "prices": _prices(model, today, config.accounting.currency),
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
