"""What the types cannot say about a configuration. Pure: a `Config` in, errors out."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from typing import TYPE_CHECKING

from llmgw_core.config.errors import join, listed, suggestion
from llmgw_core.config.outgoing import section_errors
from llmgw_core.config.validate_brake import brake_errors
from llmgw_core.config.validate_budgets import budgets_errors
from llmgw_core.config.validate_limits import cap_errors, limit_errors
from llmgw_core.config.validate_names import name_errors
from llmgw_core.config.validate_prices import price_errors
from llmgw_core.config.validate_retention import retention_errors
from llmgw_core.config.validate_routing import routing_errors
from llmgw_core.config.validate_server import server_errors
from llmgw_core.config.validate_statements import statements_errors
from llmgw_core.config.validate_streams import overload_errors, streams_errors, tokenizer_errors
from llmgw_core.domain.access import NO_ZONE, valid_zone
from llmgw_core.domain.errors import ConfigError

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Iterator

    from llmgw_core.config.schema import Config, DeploymentConfig

_PLUGIN_NAME = re.compile(r"\w[\w.-]*", re.ASCII)


def validate(config: Config, *, today: dt.date) -> list[ConfigError]:
    """Every error in `config`; prices are looked up as of `today` (UTC)."""
    return [
        *_models(config),
        *price_errors(config, today),
        *_fallbacks(config),
        *routing_errors(config),
        *name_errors(config),
        *_plugins(config),
        *section_errors(config.outgoing, None, "outgoing"),
        *server_errors(config.server),
        *streams_errors(config.routing.streams, "routing.streams"),
        *overload_errors(config.routing.overload, "routing.overload"),
        *statements_errors(config),
        *budgets_errors(config.budgets, "budgets"),
        *brake_errors(config.brake, "brake"),
        *_reports(config),
        *_numbers(config),
    ]


def _reports(config: Config) -> Iterator[ConfigError]:
    if config.reports.minimum_group < 1:
        yield ConfigError("must be at least 1 (no rule).", path="reports.minimum_group")
    elif config.reports.users and config.reports.minimum_group > 1:
        yield ConfigError(
            "protects nobody while `reports.users` allows reports of single users: leave one of"
            " the two out.",
            path="reports.minimum_group",
        )


def _models(config: Config) -> Iterator[ConfigError]:
    for name, model in config.models.items():
        path = join("models", name)
        if not name:
            yield ConfigError("a model needs a name.", path=path)
        if not model.deployments and model.life.state != "retired":
            yield ConfigError("a model needs at least one deployment.", path=path)
        yield from limit_errors(model.limits, join(path, "limits"))
        if model.tokenizer is not None:
            yield from tokenizer_errors(model.tokenizer, join(path, "tokenizer"))
        yield from _duplicates(
            (deployment.name for deployment in model.deployments), join(path, "deployments")
        )
        for index, deployment in enumerate(model.deployments):
            place = join(join(path, "deployments"), index)
            yield from _deployment(deployment, place)
            if deployment.outgoing is not None:
                yield from section_errors(
                    deployment.outgoing, config.outgoing, join(place, "outgoing")
                )


def _deployment(deployment: DeploymentConfig, path: str) -> Iterator[ConfigError]:
    if not deployment.name or "/" in deployment.name:
        message = "a deployment needs a name, and `/` cannot be part of it."
        yield ConfigError(message, path=join(path, "name"))
    if not deployment.zone.strip():
        message = "a deployment must say in which zone it is, e.g. `onprem`, `eu` or `world`."
        yield ConfigError(message, path=join(path, "zone"))
    elif not valid_zone(deployment.zone):
        message = f"is no zone that could be granted: {NO_ZONE}"
        yield ConfigError(message, path=join(path, "zone"))
    if deployment.weight < 1:
        message = "must be at least 1; to take a deployment out of use, remove it."
        yield ConfigError(message, path=join(path, "weight"))
    yield from cap_errors(deployment.caps, join(path, "caps"))


_LISTS = ("fallbacks", "context_fallbacks", "content_policy_fallbacks")


def _fallbacks(config: Config) -> Iterator[ConfigError]:
    for (name, model), key in itertools.product(config.models.items(), _LISTS):
        path = join(join("models", name), key)
        fallbacks: tuple[str, ...] = getattr(model, key)
        yield from _duplicates(fallbacks, path)
        for index, fallback in enumerate(fallbacks):
            place = join(path, index)
            target = config.models.get(fallback)
            if fallback == name:
                yield ConfigError("a model cannot fall back to itself.", path=place)
            elif fallback in config.aliases and target is None:
                message = f"`{fallback}` is an alias; name the model that it leads to."
                yield ConfigError(message, path=place)
            elif target is None:
                hint = suggestion(fallback, config.models) or (
                    f"; there are {listed(config.models)}."
                )
                yield ConfigError(f"unknown model `{fallback}`{hint}", path=place)
            elif target.kind != model.kind:
                message = (
                    f"a model of kind `{model.kind}` cannot fall back to `{fallback}`,"
                    f" which is of kind `{target.kind}`."
                )
                yield ConfigError(message, path=place)
    for cycle in _cycles({name: model.fallbacks for name, model in config.models.items()}):
        chain = " → ".join((*cycle, cycle[0]))
        message = f"fallbacks run in a circle ({chain}); remove one of them."
        yield ConfigError(message, path=join(join("models", cycle[0]), "fallbacks"))


def _cycles(edges: dict[str, tuple[str, ...]]) -> list[tuple[str, ...]]:
    """One cycle of more than one member for each edge that closes one, found depth-first
    without recursion. Self references are somebody else's error."""
    found: list[tuple[str, ...]] = []
    done: set[str] = set()
    for start, first in edges.items():
        if start in done:
            continue
        trail, pending = [start], [(start, iter(first))]
        while pending:
            name, targets = pending[-1]
            target = next(targets, None)
            if target is None:
                pending.pop()
                trail.pop()
                done.add(name)
            elif target in trail and target != name:
                found.append(tuple(trail[trail.index(target) :]))
            elif target in edges and target not in done and target != name:
                pending.append((target, iter(edges[target])))
                trail.append(target)
    return found


def _plugins(config: Config) -> Iterator[ConfigError]:
    yield from _duplicates((plugin.name for plugin in config.plugins), "plugins")
    for index, plugin in enumerate(config.plugins):
        path = join("plugins", index)
        if not plugin.name:
            yield ConfigError("a plugin needs a name.", path=join(path, "name"))
        elif not _PLUGIN_NAME.fullmatch(plugin.name):
            message = "a plugin's name is made of letters, digits, `-`, `_` and inner `.`."
            yield ConfigError(message, path=join(path, "name"))
        yield from _positive(plugin.timeout, join(path, "timeout"), "seconds")


def _numbers(config: Config) -> Iterator[ConfigError]:
    yield from _not_negative(config.reload.watch, "reload.watch")
    if config.reload.history < 0:
        yield ConfigError("must be 0 or more.", path="reload.history")
    yield from _positive(config.store.staleness, "store.staleness", "seconds")
    yield from _not_negative(config.store.serve_stale, "store.serve_stale")
    yield from _positive(config.accounting.segment_bytes, "accounting.segment_bytes", "bytes")
    yield from _positive(config.accounting.move_interval, "accounting.move_interval", "seconds")
    yield from retention_errors(config)
    for field in config.requests.__struct_fields__:
        yield from _positive(getattr(config.requests, field), join("requests", field))
    for field, text in (
        ("store.url", config.store.url),
        ("accounting.journal", config.accounting.journal),
        ("accounting.currency", config.accounting.currency),
    ):
        if not text.strip():
            yield ConfigError("must not be empty; leave it out for the default.", path=field)


def _positive(value: float, path: str, unit: str = "") -> Iterator[ConfigError]:
    if not 0 < value < math.inf:
        amount = f"a number of {unit} " if unit else ""
        yield ConfigError(f"must be {amount}greater than 0.", path=path)


def _not_negative(value: float, path: str) -> Iterator[ConfigError]:
    if not 0 <= value < math.inf:
        yield ConfigError("must be a number of seconds, 0 or more.", path=path)


def _duplicates(names: Iterable[str], path: str) -> Iterator[ConfigError]:
    for name, count in Counter(names).items():
        if count > 1:
            yield ConfigError(f"`{name}` is named {count} times; names must differ.", path=path)
