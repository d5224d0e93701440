"""From pluggy's implementations to what is called: tuples in the configured order.

pluggy collects and names implementations; it never calls them, because it neither awaits nor
folds. What an implementation takes and returns is decided here once, at start-up.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final

from llmgw_core.domain.access import Principal
from llmgw_core.domain.call import Head
from llmgw_core.domain.errors import GatewayError
from llmgw_core.domain.reply import Reply
from llmgw_core.hooks.filters import StreamFilter
from llmgw_core.hooks.foreign import Foreign, OnFailure
from llmgw_core.hooks.specs import HOOK_KINDS, GatewayHooks
from llmgw_core.wire.request import RequestView

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pluggy

    from llmgw_core.config.schema import PluginConfig

_RETURNS: Final[dict[str, tuple[type, ...]]] = {
    "pre_auth": (Head,),
    "authenticate": (Principal,),
    "authorize": (str,),
    "pre_route": (RequestView, Reply),
    "post_process": (Reply,),
    "open_stream": (StreamFilter,),
}

_REVERSED: Final = frozenset({"post_process", "open_stream", "shutdown"})

_FIXED_POLICY: Final[dict[str, OnFailure]] = {
    "register_backends": "stop",
    "startup": "stop",
    "shutdown": "continue",
    "on_usage": "continue",
    "authorize": "refuse",  # a denial that cannot be asked for is a denial
}


def spec_arguments(hook: str) -> tuple[str, ...]:
    """The names of the arguments of `hook`, in order."""
    return tuple(inspect.signature(getattr(GatewayHooks, hook)).parameters)[1:]


def spec_is_coroutine(hook: str) -> bool:
    """Whether implementations of `hook` may be coroutines."""
    return inspect.iscoroutinefunction(getattr(GatewayHooks, hook))


class CompiledHook(Foreign):
    """One implementation of one hook. `function` takes all the arguments of the hook, whatever
    the implementation takes; call it inside `with` this object."""

    __slots__ = ("arguments", "function", "is_coroutine", "returns", "timeout")

    def __init__(self, hook: str, function: Callable[..., Any], config: PluginConfig) -> None:
        policy: OnFailure = "continue" if config.on_error == "open" else "refuse"
        if hook in _FIXED_POLICY:
            super().__init__(config.name, hook, _FIXED_POLICY[hook])
        else:  # an answer of the plugin is none of its failures, open or not
            super().__init__(config.name, hook, policy, passes=(GatewayError,))
        self.arguments = tuple(inspect.signature(function).parameters)
        self.function = _selecting(function, self.arguments, spec_arguments(hook))
        self.is_coroutine = inspect.iscoroutinefunction(function)
        self.returns = _RETURNS.get(hook, ())
        self.timeout = config.timeout

    def check(self, result: object) -> None:
        """Raise `TypeError` if an implementation may not return this."""
        if not isinstance(result, self.returns):
            expected = " or ".join(kind.__name__ for kind in (*self.returns, type(None)))
            message = f"{self.hook} returned {type(result).__name__} instead of {expected}"
            raise TypeError(message)


def _selecting(
    function: Callable[..., Any], wanted: Sequence[str], offered: Sequence[str]
) -> Callable[..., Any]:
    """`function` itself if it takes everything in order, else a function that picks for it."""
    if tuple(wanted) == tuple(offered):
        return function
    indices = tuple(offered.index(name) for name in wanted)
    if not indices:
        return lambda *_: function()
    if len(indices) == 1:
        index = indices[0]
        return lambda *arguments: function(arguments[index])
    return lambda *arguments: function(*[arguments[index] for index in indices])


def compile_hooks(
    manager: pluggy.PluginManager, configs: Mapping[str, PluginConfig]
) -> dict[str, tuple[CompiledHook, ...]]:
    """Every hook's implementations, in the order of `configs`; those of `post_process`,
    `open_stream` and `shutdown` in reverse."""
    compiled: dict[str, tuple[CompiledHook, ...]] = {}
    for hook in HOOK_KINDS:
        found = {item.plugin_name: item for item in getattr(manager.hook, hook).get_hookimpls()}
        hooks = tuple(
            CompiledHook(hook, found[name].function, config)
            for name, config in configs.items()
            if name in found
        )
        compiled[hook] = hooks[::-1] if hook in _REVERSED else hooks
    return compiled
