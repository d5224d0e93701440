"""What differs between two configurations, and what may not while a gateway runs. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from llmgw_core.config.errors import join
from llmgw_core.domain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from llmgw_core.config.schema import Config

_FIXED: Final = (
    "store.url",
    "accounting.journal",
    "accounting.segment_bytes",
    "accounting.fsync",
    "limits.limiter",
)


class ReloadResult(msgspec.Struct, frozen=True, kw_only=True):
    """A reload that succeeded. `changed` are paths of what was added, changed or removed; empty
    when the configuration says what it said before: then nothing was done. `kept` are plugins
    that went on with their state."""

    generation: int
    changed: tuple[str, ...]
    kept: tuple[str, ...]
    seconds: float


def refusals(old: Config, new: Config) -> list[ConfigError]:
    """What a reload from `old` to `new` cannot do."""
    found = changes(old, new)
    fixed = [path for path in found if path in _FIXED or path.startswith("server.")]
    remedy = "it cannot change while the gateway runs; restart the gateway, or set it back."
    return [ConfigError(remedy, path=path) for path in fixed]


def changed_backends(old: Config, new: Config) -> set[str]:
    """The backends of which some deployment is not what it was, as far as a backend is told:
    weights, prices and timeouts are none of its business."""
    before, after = _prepared(old), _prepared(new)
    return {
        backend
        for backend in {**before, **after}
        if not same(before.get(backend), after.get(backend))
    }


def _prepared(config: Config) -> dict[str, dict[tuple[str, str], tuple[Any, ...]]]:
    found: dict[str, dict[tuple[str, str], tuple[Any, ...]]] = {}
    for name, model in config.models.items():
        for each in model.deployments:
            told = (each.model or name, each.credential, each.credentials, each.options)
            found.setdefault(each.backend, {})[name, each.name] = told
    return found


def same(one: Any, other: Any) -> bool:
    """Whether two values of configurations say the same. Python's own equality takes 1, 1.0 and
    true for one another, and two secret files for one if they hold the same now."""
    if isinstance(one, str):
        return bool(one == other) and getattr(one, "file", None) == getattr(other, "file", None)
    if type(one) is not type(other):
        return False
    if isinstance(one, msgspec.Struct):
        return all(
            same(getattr(one, field), getattr(other, field)) for field in one.__struct_fields__
        )
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def changes(old: Config, new: Config) -> tuple[str, ...]:
    """The paths of all differences: single models and plugins, and the keys of sections."""
    return tuple(_changes(old, new))


def _changes(old: Config, new: Config) -> Iterator[str]:
    for section in new.__struct_fields__:
        before, after = getattr(old, section), getattr(new, section)
        if section in {"models", "aliases"}:
            found = list(_keys(section, before, after))
            if not found and list(before) != list(after):
                found = [section]  # nothing but the order in which they are listed
            yield from found
        elif same(before, after):
            continue
        elif section == "plugins":
            names = {plugin.name: plugin for plugin in before}, {p.name: p for p in after}
            found = list(_keys(section, *names))
            yield from found or [section]  # nothing but their order
        else:
            for field in after.__struct_fields__:
                if not same(getattr(before, field), getattr(after, field)):
                    yield join(section, field)


def _keys(section: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for name in {**before, **after}:
        if not same(before.get(name), after.get(name)):
            yield join(section, name)
