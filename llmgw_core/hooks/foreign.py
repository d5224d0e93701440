"""The border to code that is not ours: the one place of this package that handles every
`Exception`. Plugins may raise anything, and what that means is decided here and nowhere else.

Cancellation and Ctrl-C always pass; `sys.exit()` in a plugin is its failure and ends nothing.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, Literal

from llmgw_core.domain.errors import ConfigError, GatewayError
from llmgw_core.hooks.results import soundness

if TYPE_CHECKING:
    from types import TracebackType

OnFailure = Literal["refuse", "continue", "stop"]
"""`refuse`: the call ends with `plugin_error`. `continue`: logged, and nothing else.
`stop`: start-up or the reload ends with a `ConfigError`."""

FIXED_POLICY: Final[dict[str, OnFailure]] = {
    "register_backends": "stop",
    "register_balancers": "stop",
    "register_limiters": "stop",
    "register_queues": "stop",
    "register_prices": "stop",
    "register_tokenizers": "stop",
    "startup": "stop",
    "deployments_added": "stop",
    "deployments_dropped": "continue",
    "shutdown": "continue",
    "authorize": "refuse",  # a denial that cannot be asked for is a denial
    "on_usage": "continue",
    "on_attempt": "continue",
    "on_audit": "continue",
    "on_health": "continue",
}
"""What a failure means where `on_error` has no say."""

_logger = logging.getLogger(__name__)

_NEVER_OURS = (asyncio.CancelledError, KeyboardInterrupt, GeneratorExit)

_PASSES: dict[OnFailure, tuple[type[Exception], ...]] = {
    "refuse": (GatewayError,),
    "continue": (),
    "stop": (ConfigError,),
}


def plugin_error() -> GatewayError:
    """500: an extension failed; the caller learns nothing about it."""
    return GatewayError(
        500,
        "plugin_error",
        "The request could not be processed because an extension of the gateway failed.",
        type="server_error",
    )


class Foreign:
    """`with foreign:` around code of `plugin`. Reusable, also by calls that overlap: it keeps
    nothing but counts. With `continue`, the rest of the block is skipped on a failure.

    `passes` are exceptions that are an answer and no failure, as long as they are sound.
    """

    __slots__ = ("calls", "failures", "hook", "on_failure", "passes", "plugin")

    def __init__(
        self,
        plugin: str,
        hook: str,
        on_failure: OnFailure,
        *,
        passes: tuple[type[Exception], ...] | None = None,
    ) -> None:
        self.plugin = plugin
        self.hook = hook
        self.on_failure: OnFailure = on_failure
        self.passes = _PASSES[on_failure] if passes is None else passes
        self.calls = 0
        self.failures = 0

    def __enter__(self) -> None:
        self.calls += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if error is None or isinstance(error, _NEVER_OURS):
            return False
        if isinstance(error, self.passes) and not soundness(error):
            return False
        self.failed(error)
        return True

    def failed(self, error: BaseException) -> None:
        """Count and log a failure, and raise what the policy says."""
        self.failures += 1
        if self.on_failure == "stop":
            text = f"{type(error).__name__}: {error}".removesuffix(": ")
            message = f"the plugin `{self.plugin}` failed in `{self.hook}`: {text}"
            raise ConfigError(message) from error
        problem = soundness(error)
        said = f": it raised a {type(error).__name__} {problem}" if problem else ""
        _logger.error("Plugin %s failed in %s%s.", self.plugin, self.hook, said, exc_info=error)
        if self.on_failure == "refuse":
            raise plugin_error() from error
