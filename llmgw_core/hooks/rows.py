"""What can be said about the plugins of a running gateway, ready to be written as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from llmgw_core.hooks.compile import CompiledHook


class HookRow(msgspec.Struct, frozen=True):
    """One hook of one plugin, with what it did so far. Seconds are from a call to its result;
    `timeouts` are part of `failures`; `blockings` counts how often it kept the event loop from
    everybody else; `dropped` and `waiting` are records of an observer."""

    hook: str
    calls: int
    failures: int
    timeouts: int
    blockings: int
    mean_seconds: float
    max_seconds: float
    dropped: int = 0
    waiting: int = 0

    @classmethod
    def of(cls, hook: CompiledHook, dropped: int = 0, waiting: int = 0) -> HookRow:
        """The row of a hook."""
        return cls(
            hook.hook,
            hook.calls,
            hook.failures,
            hook.timeouts,
            hook.blockings,
            hook.seconds / hook.calls if hook.calls else 0.0,
            hook.slowest,
            dropped,
            waiting,
        )


class PluginRow(msgspec.Struct, frozen=True):
    """One enabled plugin. `distribution` and `version` are empty for one given in code or by a
    `path`. `state`: `made`, `started`, `standby` (another process of the installation runs it)
    or `closed`. `tasks` run now, the counts are sums over its hooks."""

    order: int
    name: str
    distribution: str
    version: str
    path: str
    state: str
    hooks: tuple[str, ...]
    calls: int
    failures: int
    timeouts: int
    dropped: int
    tasks: int
    details: tuple[HookRow, ...]
