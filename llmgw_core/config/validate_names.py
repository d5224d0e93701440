"""What the types cannot say about public names: aliases, the life of a model, dimensions, and
fallbacks in other zones. Pure: a `Config` in, errors and warnings out.

A warning is about something that works and is hardly meant. Whatever becomes wrong because a day
has come is a warning: a gateway that ran yesterday starts today.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from llmgw_core.config.errors import join, listed, suggestion
from llmgw_core.config.validate_limits import limit_errors
from llmgw_core.domain.access import valid_zone
from llmgw_core.domain.errors import ConfigError

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator, Mapping

    from llmgw_core.config.schema import Config, ModelConfig
    from llmgw_core.config.schema_aliases import AliasConfig
    from llmgw_core.domain.alias import CanaryRules
    from llmgw_core.domain.life import Life

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A token of RFC 9110, section 5.6.2."""
_ADDRESS = re.compile(r"https?://[!#-;=?-~]+")
_LONGEST_NAME = 100


def name_errors(config: Config) -> Iterator[ConfigError]:
    """Every error that concerns names."""
    names: dict[str, ModelConfig | AliasConfig] = {**config.models, **config.aliases}
    for name, model in config.models.items():
        path = join("models", name)
        yield from _life(name, model.life, names, config, join(path, "life"))
        yield from _dimensions(model, config, path)
        yield from _retired(model, config, path)
    for name, alias in config.aliases.items():
        path = join("aliases", name)
        yield from _alias(name, alias, config, path)
        yield from _life(name, alias.life, names, config, join(path, "life"))


def warnings(config: Config, *, today: dt.date) -> list[ConfigError]:
    """What works and is hardly meant, as of `today` (UTC)."""
    found = [*_fallbacks_elsewhere(config), *_mixed_vectors(config)]
    for name, model in config.models.items():
        found += _dates(model.life, today, join(join("models", name), "life"))
    for name, alias in config.aliases.items():
        found += _dates(alias.life, today, join(join("aliases", name), "life"))
    return found


def _alias(name: str, alias: AliasConfig, config: Config, path: str) -> Iterator[ConfigError]:
    if not 1 <= len(name) <= _LONGEST_NAME:
        message = f"the name of an alias has 1 to {_LONGEST_NAME} characters."
        yield ConfigError(message, path=path)
    if name in config.models:
        message = f"`{name}` is a model already; give the alias or the model another name."
        yield ConfigError(message, path=path)
    if not alias.variants:
        yield ConfigError("an alias needs at least one variant.", path=join(path, "variants"))
    counts = Counter(variant.model for variant in alias.variants)
    for model, count in counts.items():
        if count > 1:
            message = f"`{model}` is named {count} times; give it one weight."
            yield ConfigError(message, path=join(path, "variants"))
    for index, variant in enumerate(alias.variants):
        place = join(join(path, "variants"), index)
        yield from _target(variant.model, config, join(place, "model"))
        if variant.weight < 1:
            message = "must be at least 1; to send nobody there, remove the variant."
            yield ConfigError(message, path=join(place, "weight"))
    yield from _of_one_kind(alias, config, join(path, "variants"))
    if not _HEADER.fullmatch(alias.session_header):
        message = "must be the name of a header, e.g. `x-session-id`."
        yield ConfigError(message, path=join(path, "session_header"))
    yield from _canary(alias.canary, join(path, "canary"))
    yield from limit_errors(alias.limits, join(path, "limits"), "")


def _target(name: str, config: Config, path: str) -> Iterator[ConfigError]:
    if name in config.aliases:
        message = f"`{name}` is an alias itself; name the model that it leads to."
        yield ConfigError(message, path=path)
    elif name not in config.models:
        hint = suggestion(name, config.models) or f"; there are {listed(config.models)}."
        yield ConfigError(f"unknown model `{name}`{hint}", path=path)
    elif config.models[name].life.state == "retired":
        message = f"the model `{name}` is retired and serves nobody{_instead(name, config)}."
        yield ConfigError(message, path=path)


def _instead(name: str, config: Config) -> str:
    successor = config.models[name].life.successor
    return f"; its successor is `{successor}`" if successor else ""


def _of_one_kind(alias: AliasConfig, config: Config, path: str) -> Iterator[ConfigError]:
    models = config.models
    kinds = {models[each.model].kind for each in alias.variants if each.model in models}
    if len(kinds) > 1:
        message = "the variants of an alias are of one kind, `chat` or `embedding`."
        yield ConfigError(message, path=path)
    elif kinds == {"embedding"} and len(alias.variants) > 1:
        message = (
            "vectors of different models cannot be compared: an alias of kind `embedding` has one"
            " variant."
        )
        yield ConfigError(message, path=path)


def _canary(rules: CanaryRules, path: str) -> Iterator[ConfigError]:
    steps = rules.steps
    if not steps or any(not 0 < step < 100 for step in steps) or list(steps) != sorted(set(steps)):
        message = "must be growing shares in percent, greater than 0 and less than 100."
        yield ConfigError(message, path=join(path, "steps"))
    if rules.minimum_calls < 1:
        yield ConfigError("must be at least 1.", path=join(path, "minimum_calls"))
    if rules.errors is not None and not 0.01 <= rules.errors <= 0.9:
        message = "must be a share from 0.01 to 0.9, or null for no abort on errors."
        yield ConfigError(message, path=join(path, "errors"))
    if rules.slower is not None and not 1.1 <= rules.slower <= 100:
        message = "must be a factor from 1.1 to 100, or null for no abort on slowness."
        yield ConfigError(message, path=join(path, "slower"))


def _life(
    name: str,
    life: Life,
    names: Mapping[str, ModelConfig | AliasConfig],
    config: Config,
    path: str,
) -> Iterator[ConfigError]:
    if life.state == "deprecated" and life.deprecated is None:
        message = "say since when, with `deprecated: DATE`: clients are told in a header."
        yield ConfigError(message, path=path)
    if life.sunset is not None:
        if life.deprecated is None:
            message = "a name that ends is deprecated before; add `deprecated: DATE`."
            yield ConfigError(message, path=join(path, "sunset"))
        elif life.sunset < life.deprecated:
            message = f"lies before the day of `deprecated` ({life.deprecated})."
            yield ConfigError(message, path=join(path, "sunset"))
    if life.link and not _ADDRESS.fullmatch(life.link):
        message = "must be the address of a page, `https://...`, in ASCII."
        yield ConfigError(message, path=join(path, "link"))
    if life.successor:
        yield from _successor(name, life.successor, names, config, join(path, "successor"))


def _successor(
    name: str,
    successor: str,
    names: Mapping[str, ModelConfig | AliasConfig],
    config: Config,
    path: str,
) -> Iterator[ConfigError]:
    if successor == name:
        yield ConfigError("a name cannot be its own successor.", path=path)
        return
    if successor not in names:
        hint = suggestion(successor, names) or f"; there are {listed(names)}."
        yield ConfigError(f"unknown model or alias `{successor}`{hint}", path=path)
        return
    if names[successor].life.state == "retired":
        message = f"`{successor}` is retired itself; name what is to be used now."
        yield ConfigError(message, path=path)
    if _kind(successor, config) != _kind(name, config):
        message = f"`{successor}` is of another kind and cannot be used instead."
        yield ConfigError(message, path=path)
    seen = [name]
    while successor in names and successor not in seen:
        seen.append(successor)
        successor = names[successor].life.successor
    if successor == name:
        chain = " → ".join((*seen, name))
        yield ConfigError(f"successors run in a circle ({chain}).", path=path)


def _kind(name: str, config: Config) -> str:
    alias = config.aliases.get(name)
    if name in config.models or alias is None:
        return config.models[name].kind
    kinds = [config.models[v.model].kind for v in alias.variants if v.model in config.models]
    return kinds[0] if kinds else "chat"


def _dimensions(model: ModelConfig, config: Config, path: str) -> Iterator[ConfigError]:
    if model.dimensions is None:
        return
    if model.kind != "embedding":
        message = "only a model of `kind: embedding` has dimensions."
        yield ConfigError(message, path=join(path, "dimensions"))
    elif model.dimensions < 1:
        yield ConfigError("must be at least 1.", path=join(path, "dimensions"))
    for place, name, other in _stand_ins(model, config, path):
        if other.dimensions not in {None, model.dimensions}:
            message = f"`{name}` has {other.dimensions} dimensions, not {model.dimensions}."
            yield ConfigError(message, path=place)


def _stand_ins(
    model: ModelConfig, config: Config, path: str
) -> Iterator[tuple[str, str, ModelConfig]]:
    """The models that serve in place of `model`, each with the path where it is named."""
    for key in ("fallbacks", "context_fallbacks", "content_policy_fallbacks"):
        for index, name in enumerate(getattr(model, key)):
            if name in config.models:
                yield join(join(path, key), index), name, config.models[name]


def _retired(model: ModelConfig, config: Config, path: str) -> Iterator[ConfigError]:
    for place, name, other in _stand_ins(model, config, path):
        if other.life.state == "retired":
            message = f"the model `{name}` is retired and serves nobody{_instead(name, config)}."
            yield ConfigError(message, path=place)


def _fallbacks_elsewhere(config: Config) -> Iterator[ConfigError]:
    """Fallbacks that have no zone in common with their model."""
    for name, model in config.models.items():
        own = {each.zone for each in model.deployments}
        for place, fallback, other in _stand_ins(model, config, join("models", name)):
            zones = {each.zone for each in other.deployments}
            sound = own and zones and all(map(valid_zone, own | zones))
            if sound and own.isdisjoint(zones):
                message = (
                    f"`{fallback}` is in {listed(zones)} only, `{name}` in {listed(own)}: callers"
                    f" who are confined to {listed(own)} never fall back to it."
                )
                yield ConfigError(message, path=place)


def _mixed_vectors(config: Config) -> Iterator[ConfigError]:
    """Models of embeddings that stand in for one that their upstreams call otherwise."""
    for name, model in config.models.items():
        if model.kind != "embedding":
            continue
        own = _upstream_names(name, model)
        for place, fallback, other in _stand_ins(model, config, join("models", name)):
            if other.kind == "embedding" and own.isdisjoint(_upstream_names(fallback, other)):
                message = (
                    f"if `{fallback}` is another model than `{name}`, callers get vectors of both,"
                    " which cannot be compared, and no reply says so."
                )
                yield ConfigError(message, path=place)


def _upstream_names(name: str, model: ModelConfig) -> set[str]:
    return {each.model or name for each in model.deployments}


def _dates(life: Life, today: dt.date, path: str) -> Iterator[ConfigError]:
    if life.sunset is not None and life.sunset <= today and life.state != "retired":
        message = (
            f"the day has come, and it still is {life.state}: set `state: retired`, or a later day."
        )
        yield ConfigError(message, path=join(path, "sunset"))
    elif (
        life.deprecated is not None
        and life.deprecated <= today
        and life.state in {"active", "preview"}
    ):
        message = f"the day has come, and it still is {life.state}: set `state: deprecated`."
        yield ConfigError(message, path=join(path, "deprecated"))
