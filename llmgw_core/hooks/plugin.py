"""One enabled plugin: its instance, what it implements, and its life.

Hosts come and go when the configuration is loaded again; a plugin whose section has not changed
goes from one host to the next as it is. So each host holds its plugins while it lives, and the
last one to let go closes them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from llmgw_core.config.changes import same
from llmgw_core.domain.errors import ConfigError
from llmgw_core.hooks.compile import compile_plugin
from llmgw_core.hooks.dispatch import invoke
from llmgw_core.hooks.following import Following
from llmgw_core.hooks.foreign import Foreign
from llmgw_core.hooks.observers import Observer
from llmgw_core.hooks.once import InstallationLock
from llmgw_core.hooks.registry import parts_of
from llmgw_core.hooks.rows import HookRow, PluginRow
from llmgw_core.hooks.specs import HOOK_KINDS
from llmgw_core.hooks.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    import pluggy

    from llmgw_core.hooks.context import PluginContext
    from llmgw_core.hooks.enabled import Enabled
    from llmgw_core.hooks.host import PluginHost

TAKEOVER_SECONDS: Final = 1.0
"""Between two looks of a process in standby whether the plugin's lock has come free."""


class Plugin:
    """Made when the host is loaded, started and closed once, whichever hosts hold it."""

    def __init__(
        self,
        enabled: Enabled,
        context: PluginContext,
        manager: pluggy.PluginManager,
        *,
        queue_size: int,
        clock: Callable[[], float],
    ) -> None:
        self.enabled = enabled
        self.name = enabled.section.name
        self.context = context
        self.state = "made"
        self.holders: list[PluginHost] = []
        self.following = Following()
        self._beginning = asyncio.Lock()
        self.takeover_seconds = TAKEOVER_SECONDS
        context.opened = False
        with Foreign(self.name, "__init__", "stop"):
            self.instance: Any = enabled.plugin(enabled.config, context)
        with Foreign(self.name, "register", "stop"):
            manager.register(self.instance, self.name)
        threaded: frozenset[str] = getattr(enabled.plugin, "threads", frozenset())
        self._threads = Threads(self.name) if threaded else None
        self.hooks = compile_plugin(
            manager, enabled.section, threaded=threaded, threads=self._threads, clock=clock
        )
        self.parts = parts_of(self.hooks)
        self.observers = {
            name: Observer(hook, queue_size)
            for name, hook in self.hooks.items()
            if HOOK_KINDS[name] == "OBSERVE"
        }
        self.needs: frozenset[str] = getattr(enabled.plugin, "needs", frozenset())
        self._once = getattr(enabled.plugin, "once_per", "process") == "installation"
        self._lock: InstallationLock | None = None
        self._takeover: asyncio.Task[None] | None = None

    def stays(self, enabled: Enabled, changed: Collection[str]) -> bool:
        """Whether this is what `enabled` would be made into. A plugin that prepares the
        deployments of its backends when it starts has to start anew when they have `changed`,
        unless it can follow them."""
        return (
            self.state != "closed"
            and self.enabled.plugin is enabled.plugin
            and same(self.enabled.section, enabled.section)
            and not (self._starts_deployments() and set(changed) & set(self.parts.backends))
        )

    def _starts_deployments(self) -> bool:
        """Whether it prepares deployments when it starts and at no other time."""
        return "startup" in self.hooks and "deployments_added" not in self.hooks

    async def start(self) -> None:
        """Run `startup`, or wait for its turn when another process of the installation runs it.
        Does nothing for a plugin that runs already. Raises `ConfigError`."""
        if self.state == "closed":
            message = f"the plugin `{self.name}` was closed before it could be taken over."
            raise ConfigError(message)
        if self.state != "made":
            return
        self.context.opened = True
        if self._once and not self._first():
            self.state = "standby"
            self.context.logger.info("Another process runs the plugin %s.", self.name)
            self._takeover = self.context.spawn(self._take_over(), "takeover")
            return
        await self._run()

    async def _run(self) -> None:
        hook = self.hooks.get("startup")
        async with self._beginning:
            seen = self.following.visible()
            if hook is not None:
                await invoke(hook)
            self.following.learn(seen)
            if self.state != "closed":
                self.state = "started"

    def _first(self) -> bool:
        try:
            if self._lock is None:
                self._lock = InstallationLock(self.context.data_dir)
            return self._lock.acquire()
        except OSError as error:
            message = f"the plugin `{self.name}` cannot lock its data directory: {error.strerror}."
            raise ConfigError(message) from None

    async def _take_over(self) -> None:
        """Become the process that runs the plugin as soon as no other does."""
        logger = self.context.logger
        while self.state == "standby":
            await asyncio.sleep(self.takeover_seconds)
            try:
                if self._first():
                    await self._run()
                    logger.warning("This process runs the plugin %s now.", self.name)
            except ConfigError:
                logger.exception("The plugin %s cannot be taken over.", self.name)
                self._release()

    async def follow(self, holder: PluginHost) -> None:
        """Have it prepare what is new among the deployments of `holder`. One that stands by has
        prepared none and will see them all when its turn comes. Raises `ConfigError`."""
        if self.state == "standby" and not self._beginning.locked():
            return
        async with self._beginning:
            new = self.following.learn_new(holder) if self.state == "started" else ()
            hook = self.hooks.get("deployments_added")
            if new and hook is not None:
                await invoke(hook, new)

    async def drop(self, seconds: float) -> None:
        """Have it clear away, within `seconds`, the deployments that no holder uses any more.
        Failures are logged."""
        unused = self.following.forget_unused()
        hook = self.hooks.get("deployments_dropped")
        if unused and hook is not None:
            hook.timeout = seconds
            await invoke(hook, unused)

    def observe(self) -> None:
        """Begin to hand records to its observers. Idempotent."""
        for observer in self.observers.values():
            observer.start()

    async def drain(self, seconds: float) -> None:
        """Hand over what its observers still wait for, for `seconds` at most."""
        await asyncio.gather(*(observer.stop(seconds) for observer in self.observers.values()))

    async def close(self, seconds: float) -> None:
        """Run `shutdown` if it was started, and end everything that it has opened. Failures are
        logged. Idempotent."""
        started, self.state = self.state == "started", "closed"
        hook = self.hooks.get("shutdown")
        if started and hook is not None:
            hook.timeout = seconds if hook.timeout is None else min(hook.timeout, seconds)
            await invoke(hook)
        with Foreign(self.name, "close", "continue"):
            await self.context.aclose(seconds)
        if self._threads is not None:
            self._threads.close()
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()

    @property
    def dropped(self) -> int:
        """Records that its observers did not get."""
        return sum(observer.dropped for observer in self.observers.values())

    def row(self, order: int, *, muted: bool = False) -> PluginRow:
        """What it is and what it did so far; `muted`: its hooks are not run."""
        details = []
        for name, hook in self.hooks.items():
            observer = self.observers.get(name)
            lost = (observer.dropped, observer.waiting) if observer else (0, 0)
            details.append(HookRow.of(hook, *lost))
        return PluginRow(
            order=order,
            name=self.name,
            distribution=self.enabled.distribution,
            version=self.enabled.version,
            path=self.enabled.section.path,
            state="switched off" if muted else self.state,
            hooks=tuple(self.hooks),
            calls=sum(row.calls for row in details),
            failures=sum(row.failures for row in details),
            timeouts=sum(row.timeouts for row in details),
            dropped=self.dropped,
            tasks=self.context.tasks,
            details=tuple(details),
        )
