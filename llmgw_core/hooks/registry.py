"""What plugins register at start-up: backends, factories of balancers, limiters, queues and
tokenizers, and prices, by name.
The gateway's own ones stand in the same tables, so that a configuration chooses among them all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import msgspec

from llmgw_core.config.errors import listed, raise_all, suggestion
from llmgw_core.config.schema_prices import CatalogueEntry, starts_at
from llmgw_core.domain.errors import ConfigError

if TYPE_CHECKING:
    from llmgw_core.backends.port import Backend
    from llmgw_core.hooks.compile import CompiledHook
    from llmgw_core.limits.port import Limiter
    from llmgw_core.limits.tokenizers import Tokenizer
    from llmgw_core.routing.balance import Balancer, BalancerContext
    from llmgw_core.routing.queue import Queue

T = TypeVar("T")

ITSELF: Final = "the gateway itself"
_METHODS: Final = {
    "register_balancers": ("pick", "took"),
    "register_limiters": ("bind", "reserve", "state", "aclose"),
    "register_queues": ("put", "take", "leave", "__len__"),
    "register_tokenizers": ("count",),
}


class Parts(NamedTuple):
    """What one plugin, or the gateway itself, brings."""

    backends: Mapping[str, Backend] = {}
    balancers: Mapping[str, Callable[[BalancerContext], Balancer]] = {}
    limiters: Mapping[str, Callable[[], Limiter]] = {}
    queues: Mapping[str, Callable[[], Queue]] = {}
    prices: Mapping[str, Sequence[CatalogueEntry]] = {}
    tokenizer_factories: Mapping[str, Callable[[], Tokenizer]] = {}


def parts_of(hooks: Mapping[str, CompiledHook]) -> Parts:
    """Ask a plugin. Raises `ConfigError` when it fails, or registers what is none."""
    return Parts(
        _asked(hooks.get("register_backends"), _backends),
        _asked(hooks.get("register_balancers"), _factories),
        _asked(hooks.get("register_limiters"), _factories),
        _asked(hooks.get("register_queues"), _factories),
        _asked(hooks.get("register_prices"), _prices),
        _asked(hooks.get("register_tokenizers"), _factories),
    )


def _asked(
    hook: CompiledHook | None, read: Callable[[CompiledHook, Any], dict[str, Any]]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if hook is not None:
        with hook:
            found = read(hook, hook.function())
    return found


def _backends(hook: CompiledHook, given: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for backend in given:
        if not _is_backend(backend):
            message = f"registered {type(backend).__name__}, which is no Backend"
            raise TypeError(message)
        if backend.name in found:
            message = f"registered two backends `{backend.name}`"
            raise ValueError(message)
        found[backend.name] = backend
    return found


def _is_backend(value: Any) -> bool:
    options = getattr(value, "Options", None)
    return (
        isinstance(getattr(value, "name", None), str)
        and isinstance(options, type)
        and issubclass(options, msgspec.Struct)
        and all(callable(getattr(value, name, None)) for name in ("origin", "begin", "check"))
    )


def _prices(_hook: CompiledHook, given: Any) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        message = f"registered {type(given).__name__}, which is no mapping of names to prices"
        raise TypeError(message)
    found = {}
    for name, entries in given.items():
        fits = isinstance(name, str) and not isinstance(entries, str)
        found[name] = tuple(entries) if fits and isinstance(entries, Iterable) else ()
        if not found[name] or not all(isinstance(each, CatalogueEntry) for each in found[name]):
            message = f"registered a price {name!r} that is no sequence of CatalogueEntry"
            raise TypeError(message)
        for entry in found[name]:
            starts_at(entry.valid_from)
    return found


def _factories(hook: CompiledHook, given: Any) -> dict[str, Any]:
    if not isinstance(given, Mapping) or not all(
        isinstance(name, str) and callable(factory) for name, factory in given.items()
    ):
        message = f"registered {type(given).__name__}, which is no mapping of names to factories"
        raise TypeError(message)
    return {name: _Guarded(hook, factory) for name, factory in given.items()}


class _Guarded:
    """A factory whose failure is its plugin's and whose product is looked at."""

    def __init__(self, hook: CompiledHook, factory: Callable[..., Any]) -> None:
        self.plugin = hook.plugin
        self.Options = _options(factory)
        self._hook = hook
        self._factory = factory

    def __call__(self, *given: Any) -> Any:
        with self._hook:
            thing = self._factory(*given)
            needed = _METHODS[self._hook.hook]
            missing = [name for name in needed if not callable(getattr(thing, name, None))]
            if missing:
                message = f"made {type(thing).__name__}, which has no {listed(missing)}"
                raise TypeError(message)
            return thing
        raise AssertionError  # "stop" always raises


def _options(factory: Callable[..., Any]) -> type[msgspec.Struct] | None:
    """What the configuration may say to what `factory` makes. Raises `TypeError`."""
    kind = getattr(factory, "Options", None)
    if kind is not None and not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        raise TypeError("registered a factory whose `Options` is no msgspec.Struct")
    return kind


def merged(what: str, found: Iterable[tuple[str, Mapping[str, T]]]) -> dict[str, T]:
    """All of one kind by name, from (owner, registered). Raises `ConfigErrors` for every name
    that is there twice."""
    result: dict[str, T] = {}
    owners: dict[str, str] = {}
    errors: list[ConfigError] = []
    for owner, registered in found:
        for name, thing in registered.items():
            first = owners.setdefault(name, owner)
            if name in result:
                errors.append(ConfigError(_twice(what, name, first, owner), path="plugins"))
            result[name] = thing
    raise_all(errors)
    return result


def _twice(what: str, name: str, first: str, second: str) -> str:
    if first == ITSELF:
        return (
            f"the plugin `{second}` registers a {what} `{name}`, which is a name of the gateway's"
            " own; the plugin has to choose another one."
        )
    return (
        f"the plugins `{first}` and `{second}` both register a {what} `{name}`; enable one of them."
    )


def chosen(what: str, registered: Mapping[str, T], name: str, path: str) -> T:
    """The one that the configuration names at `path`. Raises `ConfigError`."""
    if name not in registered:
        hint = suggestion(name, registered) or f"; there are {listed(registered)}."
        message = f"no {what} `{name}` is registered{hint} A plugin may bring it; is it enabled?"
        raise ConfigError(message, path=path)
    return registered[name]
