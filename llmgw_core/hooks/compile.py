"""From pluggy's implementations to what is called: one `CompiledHook` per plugin and hook.

pluggy collects and names implementations; it never calls them, because it neither awaits nor
folds. What an implementation takes and returns is decided here once, at start-up.
"""

from __future__ import annotations

import inspect
import logging
import math
import time
from typing import TYPE_CHECKING, Any, Final

from llmgw_core.domain.access import Principal
from llmgw_core.domain.call import Head
from llmgw_core.domain.errors import GatewayError
from llmgw_core.domain.reply import Reply
from llmgw_core.hooks.filters import StreamFilter
from llmgw_core.hooks.foreign import FIXED_POLICY, Foreign, OnFailure
from llmgw_core.hooks.results import soundness
from llmgw_core.hooks.specs import HOOK_KINDS, GatewayHooks
from llmgw_core.wire.request import RequestView

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pluggy

    from llmgw_core.config.schema import PluginConfig
    from llmgw_core.hooks.threads import Threads

BLOCKING_SECONDS: Final = 0.1
"""A plugin that keeps the event loop to itself for longer is counted and named in the log."""
CLEANUP_SECONDS: Final = 1.0
"""How long a hook that was cancelled may go on awaiting before it is abandoned."""
_QUIET_SECONDS: Final = 60.0
"""Between two lines in the log about one hook that blocks."""

_RETURNS: Final[dict[str, tuple[type, ...]]] = {
    "pre_auth": (Head,),
    "authenticate": (Principal,),
    "authorize": (str,),
    "pre_route": (RequestView, Reply),
    "post_process": (Reply,),
    "open_stream": (StreamFilter,),
}

_PATIENT: Final = frozenset({"startup", "deployments_added"})
"""An engine may take its time to load."""

_logger = logging.getLogger(__name__)


def spec_arguments(hook: str) -> tuple[str, ...]:
    """The names of the arguments of `hook`, in order."""
    return tuple(inspect.signature(getattr(GatewayHooks, hook)).parameters)[1:]


def spec_is_coroutine(hook: str) -> bool:
    """Whether implementations of `hook` may be coroutines."""
    return inspect.iscoroutinefunction(getattr(GatewayHooks, hook))


class CompiledHook(Foreign):
    """One implementation of one hook, with its meters. `function` takes all the arguments of the
    hook, whatever the implementation takes; call it inside `with` this object.

    `seconds` is the time from calls to their results, waiting included, `slowest` the longest;
    `timeouts` are those of the failures that were the gateway's patience ending; `blockings`
    counts how often the event loop had to wait for more than `BLOCKING_SECONDS`.
    """

    __slots__ = (
        "_named",
        "arguments",
        "blockings",
        "cleanup",
        "clock",
        "function",
        "is_coroutine",
        "returns",
        "seconds",
        "slowest",
        "threads",
        "timeout",
        "timeouts",
    )

    def __init__(
        self,
        hook: str,
        function: Callable[..., Any],
        config: PluginConfig,
        *,
        clock: Callable[[], float] = time.perf_counter,
        threads: Threads | None = None,
    ) -> None:
        policy: OnFailure = "continue" if config.on_error == "open" else "refuse"
        if hook in FIXED_POLICY:
            super().__init__(config.name, hook, FIXED_POLICY[hook])
        else:  # an answer of the plugin is none of its failures, open or not
            super().__init__(config.name, hook, policy, passes=(GatewayError,))
        self.arguments = tuple(inspect.signature(function).parameters)
        self.function = _selecting(function, self.arguments, spec_arguments(hook))
        self.is_coroutine = inspect.iscoroutinefunction(function)
        self.threads = threads
        self.returns = _RETURNS.get(hook, ())
        self.timeout: float | None = None if hook in _PATIENT else config.timeout
        self.cleanup = CLEANUP_SECONDS
        self.clock = clock
        self.seconds = 0.0
        self.slowest = 0.0
        self.timeouts = 0
        self.blockings = 0
        self._named = -math.inf

    def check(self, result: object) -> None:
        """Raise `TypeError` if an implementation may not return this."""
        if not isinstance(result, self.returns):
            expected = " or ".join(kind.__name__ for kind in (*self.returns, type(None)))
            message = f"{self.hook} returned {type(result).__name__} instead of {expected}"
            raise TypeError(message)
        if problem := soundness(result):
            message = f"{self.hook} returned a {type(result).__name__} {problem}"
            raise TypeError(message)

    def read(self, result: Any) -> Any:
        """`result`, if an implementation may return it. Raises `TypeError`."""
        if result is not None and self.returns:
            self.check(result)
        return result

    def took(self, seconds: float) -> None:
        """Note how long a call has taken."""
        self.seconds += seconds
        self.slowest = max(self.slowest, seconds)

    def held(self, seconds: float) -> None:
        """Note for how long the event loop had to wait."""
        if seconds > BLOCKING_SECONDS:
            self.blockings += 1
            now = self.clock()
            if now - self._named >= _QUIET_SECONDS:
                self._named = now
                _logger.warning(
                    "Plugin %s blocked the event loop for %.3f s in %s; every call waited.",
                    self.plugin,
                    seconds,
                    self.hook,
                )


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


def compile_plugin(
    manager: pluggy.PluginManager,
    config: PluginConfig,
    *,
    threaded: frozenset[str] = frozenset(),
    threads: Threads | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, CompiledHook]:
    """The hooks of the plugin that is registered with `manager` under its configured name."""
    compiled: dict[str, CompiledHook] = {}
    for hook in HOOK_KINDS:
        for item in getattr(manager.hook, hook).get_hookimpls():
            if item.plugin_name == config.name:
                compiled[hook] = CompiledHook(
                    hook,
                    item.function,
                    config,
                    clock=clock,
                    threads=threads if hook in threaded else None,
                )
    return compiled
