"""What can be said about a plugin's class before there is an instance of it. Pure: a class in,
sentences out. Everything that pluggy would accept in silence and never call is an error."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final

import msgspec

from llmgw_core.config.errors import listed, suggestion
from llmgw_core.hooks.compile import spec_arguments, spec_is_coroutine
from llmgw_core.hooks.specs import HOOK_API, HOOK_KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pluggy

NEEDS: Final = frozenset({"request", "reply"})
"""The decoded views that a plugin can declare to want."""
ONCE_PER: Final = ("process", "installation")
"""Where a plugin's `startup`, `shutdown` and what they begin run: everywhere, or in one place."""

_ORDERING: Final = ("wrapper", "hookwrapper", "tryfirst", "trylast")
_NAMED: Final = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
)


def check_class(plugin: type[Any], manager: pluggy.PluginManager) -> Iterator[str]:
    """Everything that is wrong with the class `plugin`, as sentences."""
    version: object = getattr(plugin, "hook_api", 1)
    if isinstance(version, int) and version > HOOK_API:
        # What else looks wrong is perhaps only new.
        yield (
            f"it was written for hook API {version}, and this gateway has {HOOK_API}; upgrade"
            " llmgw, or use an older version of the plugin."
        )
        return
    yield from _check_attributes(plugin, version)
    implemented: list[str] = []
    for name in dir(plugin):
        options = manager.parse_hookimpl_opts(plugin, name)
        if options is None:
            if name in HOOK_KINDS:
                yield f"its `{name}` is not marked with `@hookimpl` and would never be called."
            continue
        hook = options.get("specname") or name
        if hook in implemented:
            yield f"it implements `{hook}` twice, and only one of them would be called."
        implemented.append(hook)
        if hook not in HOOK_KINDS:
            if not options.get("optionalhook"):
                hint = suggestion(hook, HOOK_KINDS) or f"; there are {listed(HOOK_KINDS)}."
                yield f"there is no hook `{hook}`{hint}"
            continue
        yield from _check_order(hook, options)
        yield from _check_function(plugin, name, hook)
        if hook in _threads(plugin):
            yield from _check_thread(plugin, name, hook)
    for hook in sorted(_threads(plugin) - set(implemented)):
        yield f"its `threads` names `{hook}`, which it does not implement."
    if not implemented:
        yield "it implements no hook."


def _check_attributes(plugin: type[Any], version: object) -> Iterator[str]:
    config = getattr(plugin, "Config", None)
    if config is not None and not _is_struct(config):
        yield "its `Config` must be a msgspec.Struct."
    needs: object = getattr(plugin, "needs", NEEDS)
    if not isinstance(needs, frozenset) or not needs <= NEEDS:
        yield f"its `needs` must be a frozenset of some of {listed(NEEDS)}."
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        yield f"its `hook_api` must be the number of a hook API; this gateway has {HOOK_API}."
    once = getattr(plugin, "once_per", ONCE_PER[0])
    if once not in ONCE_PER:
        yield f"its `once_per` must be one of {listed(ONCE_PER)}."
    threads: object = getattr(plugin, "threads", frozenset())
    if not isinstance(threads, frozenset) or not all(isinstance(name, str) for name in threads):
        yield "its `threads` must be a frozenset of names of hooks."


def _threads(plugin: type[Any]) -> frozenset[str]:
    threads: object = getattr(plugin, "threads", frozenset())
    return threads if isinstance(threads, frozenset) else frozenset()


def _check_thread(plugin: type[Any], name: str, hook: str) -> Iterator[str]:
    if not spec_is_coroutine(hook):
        yield f"its `{hook}` cannot run in a thread, because nobody awaits this hook."
    elif inspect.iscoroutinefunction(getattr(plugin, name)):
        yield f"its `{hook}` is a coroutine and cannot run in a thread; make it a plain function."


def _is_struct(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _check_order(hook: str, options: pluggy.HookimplOpts) -> Iterator[str]:
    for option in _ORDERING:
        if options.get(option):
            yield (
                f"its `{hook}` asks for `{option}`, which does not exist here:"
                " hooks run in the order of `plugins` in the configuration."
            )


def _check_function(plugin: type[Any], name: str, hook: str) -> Iterator[str]:
    function = getattr(plugin, name)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        yield f"its `{hook}` contains `yield`; a hook returns."
    elif inspect.iscoroutinefunction(function) and not spec_is_coroutine(hook):
        yield f"its `{hook}` is a coroutine; this hook must be a plain function."
    parameters = list(inspect.signature(function).parameters.values())
    if not isinstance(inspect.getattr_static(plugin, name), (staticmethod, classmethod)):
        parameters = parameters[1:]
    offered = spec_arguments(hook)
    for parameter in parameters:
        if parameter.kind not in _NAMED:
            yield f"its `{hook}` must name the arguments that it wants (not `{parameter}`)."
        elif parameter.name not in offered:
            hint = suggestion(parameter.name, offered) or f"; it has {listed(offered)}."
            yield f"the hook `{hook}` has no argument `{parameter.name}`{hint}"
