"""The gateway: one foundation, and on it one generation after the other.

    async with Gateway.open("llmgw.yaml") as gateway:
        await gateway.handle(head, body, sink)
        await gateway.reload()

Nothing in here decides anything; it says what is opened, swapped and closed in which order.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmgw_core.config.changes import ReloadResult, changed_backends, changes, refusals
from llmgw_core.config.errors import raise_all
from llmgw_core.config.history import remember
from llmgw_core.config.load import ConfigFile, load_file
from llmgw_core.config.ready import checked
from llmgw_core.config.schema import Config
from llmgw_core.domain.access import Subject
from llmgw_core.domain.errors import ConfigError, StoreUnavailable, unknown_caller
from llmgw_core.foundation import Foundation
from llmgw_core.generation import (
    Generation,
    load_models,
    load_models_after,
    load_plugins,
    own_parts,
)
from llmgw_core.inprocess.caller import InProcess
from llmgw_core.inprocess.calls import Calls
from llmgw_core.operating import Operated
from llmgw_core.pipeline.identity import new_id
from llmgw_core.pricing import RATES_CHANGED, exchange_rates

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from llmgw_core.domain.access import Principal
    from llmgw_core.domain.call import Body, Handle, Head, Sink, Subcall
    from llmgw_core.domain.deployment import Deployment, Model
    from llmgw_core.domain.usage import UsageRecord
    from llmgw_core.hooks.host import PluginHost
    from llmgw_core.limits.memory import MemoryLimiter
    from llmgw_core.limits.port import Limiter
    from llmgw_core.pipeline.admission import Admission
    from llmgw_core.pipeline.books import Books

log = logging.getLogger(__name__)

_SHUTDOWN_SECONDS = 10.0


class Gateway(Operated, InProcess):
    """A running gateway. Made by `open`; several may live in one process."""

    def __init__(
        self,
        foundation: Foundation,
        generation: Generation,
        base: Path,
        plugins: Sequence[tuple[str, type[Any]]],
    ) -> None:
        super().__init__(foundation, generation)
        self.file: Path | None = None
        """The configuration file, which `reload` reads again; None when there was none."""
        self._base = base
        self._plugins = tuple(plugins)
        self._handle: Handle = generation.entrance.handle
        self._next: Generation | None = None
        self._retiring: dict[asyncio.Task[None], Generation] = {}
        self._reloading = asyncio.Lock()
        self._building: asyncio.Task[ReloadResult] | None = None
        self._closing = False
        self.calls = Calls(lambda: self.handle)
        self._listeners: list[Callable[[], None]] = []

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        source: str | Path | Config | ConfigFile,
        *,
        base_dir: Path | None = None,
        plugins: Sequence[tuple[str, type[Any]]] = (),
        limiter_clock: Callable[[], float] = time.monotonic,
    ) -> AsyncIterator[Gateway]:
        """Start a gateway from a configuration file or a `Config`; closing settles
        everything, also calls that are still under way.

        `base_dir` is what a `Config`'s relative paths are relative to (default: the working
        directory). `plugins` are plugin classes of the embedding application, enabled before
        those that the configuration names. `limiter_clock` gives seconds, never goes backwards
        and moves the windows of all limits. Raises `ConfigError` (with every error found) and
        `StoreUnavailable`."""
        if isinstance(source, str | Path):
            source = load_file(source)
        file = source if isinstance(source, ConfigFile) else None
        base = file.path.parent if file else (base_dir or Path.cwd()).absolute()
        async with AsyncExitStack() as stack:
            with file.locating() if file else nullcontext():
                config = checked(source, base)
                gateway = await cls._compose(stack, config, base, plugins, limiter_clock)
                gateway.file = file.path if file else None
                await gateway._start(stack)
            if file is not None:
                await remember(file, "start")
            yield gateway

    @classmethod
    async def _compose(
        cls,
        stack: AsyncExitStack,
        config: Config,
        base: Path,
        plugins: Sequence[tuple[str, type[Any]]],
        limiter_clock: Callable[[], float],
    ) -> Gateway:
        """The gateway with its first generation, which nothing else holds on to."""
        own = own_parts(limiter_clock)
        host = load_plugins(config, base, plugins, own=own)
        models = load_models(config, host)
        foundation = await Foundation.open(stack, config, own)
        return cls(foundation, Generation(1, config, host, models, foundation), base, plugins)

    async def _start(self, stack: AsyncExitStack) -> None:
        foundation = self._foundation
        # Calls that come later than the end of the generations are settled just before the
        # journal closes, and after that none is admitted.
        stack.push_async_callback(foundation.retain, ())
        stack.callback(self._close_books)
        foundation.close_with(stack)
        # While observers and the mover are still there.
        stack.push_async_callback(self._close_generations)
        await self._generation.count_before(foundation)
        await foundation.control.refresh()
        await foundation.learned.load()
        await foundation.usual.load()
        async with foundation.targets.keeping(self.config):
            await self.host.startup()
        self._generation.watch_health(foundation)
        foundation.start(stack)
        stack.push_async_callback(self.calls.aclose)

    @property
    def handle(self) -> Handle:
        """`await gateway.handle(head, body, sink, principal=None)` answers one request below
        `/v1/` completely, errors included; a `principal` that is given is believed. Raises only
        `asyncio.CancelledError`, after having settled."""
        return self._handle

    @property
    def generation(self) -> int:
        """Counts the configurations that were loaded, from 1."""
        return self._generation.number

    @property
    def generations(self) -> int:
        """How many of them still live: 1, and those whose calls have not all ended."""
        return 1 + len(self._retiring)

    @property
    def config(self) -> Config:
        """The configuration of calls that begin now."""
        return self._generation.config

    @property
    def host(self) -> PluginHost:
        """The plugins of calls that begin now."""
        return self._generation.host

    @property
    def limiter(self) -> Limiter:
        """The meters."""
        return self._generation.limiter

    @property
    def caps(self) -> MemoryLimiter:
        """The caps of deployments."""
        return self._foundation.caps

    @property
    def admission(self) -> Admission:
        """Decides about calls that begin now."""
        return self._generation.admission

    @property
    def catalog(self) -> dict[str, Model]:
        """The models of calls that begin now, by public name."""
        return self._generation.models

    @property
    def books(self) -> Books:
        """The settlement of calls that begin now."""
        return self._generation.books

    def deployments(self, backend: str) -> tuple[Deployment, ...]:
        """Every configured deployment that names `backend`."""
        return self._generation.deployments(backend)

    async def principal(
        self, organization: str, *, team: str | None = None, user: str | None = None
    ) -> Principal:
        """Who calls, by names or ids: what a key of theirs could do now, as current as keys are.
        It is cached, so ask for every call. Raises `GatewayError` 401 for who is unknown or
        disabled, or no member of the team, and 503 when the store is down."""
        subject = Subject(organization=organization, team=team or "", user=user or "")
        principal = await self.principals.resolve_subject(subject)
        if principal is None:
            raise unknown_caller()
        return principal

    def new_call_id(self) -> str:
        """An id for a reply that the server gives by itself."""
        return new_id(time.time_ns())

    def after_reload(self, listener: Callable[[], None]) -> None:
        """Have `listener` called whenever another configuration has come into force. It must
        not raise."""
        self._listeners.append(listener)

    async def reload(
        self, source: str | Path | Config | None = None, *, trigger: str = "application"
    ) -> ReloadResult:
        """Go on with another configuration: `source`, or what the file says now. Whole or not
        at all: the new plugins are started and everything is checked before the first call uses
        it, and an error changes nothing. Running calls end on what they began with; plugins
        whose section is the same keep their instance, meters their counts.

        `trigger` says in the history who or what asked for it.
        One after the other when called at the same time. Raises `ConfigError` with every error
        that was found, also when something changed that cannot change while it runs."""
        async with self._reloading:
            if self._is_closing():
                raise ConfigError("the gateway is closing; there is nothing to reload.")
            self._building = asyncio.create_task(self._reload(source, trigger), name="llmgw reload")
            try:
                return await self._building
            except asyncio.CancelledError:
                if self._is_closing() and self._building.cancelled():
                    raise ConfigError("the gateway was closed during the reload.") from None
                raise
            finally:
                self._building = None

    async def _reload(self, source: str | Path | Config | None, trigger: str) -> ReloadResult:
        started, old = time.monotonic(), self._generation
        read = await asyncio.to_thread(self._read, source)
        file = read if isinstance(read, ConfigFile) else None
        with file.locating() if file else nullcontext():
            changed = await self._renew(old, checked(read, self._base))
        new = self._generation
        if changed:
            log.info("configuration %d is in force; changed: %s", new.number, ", ".join(changed))
        if file is not None:
            await remember(file, trigger)
        return new.result(changed, old, time.monotonic() - started)

    async def _renew(self, old: Generation, config: Config) -> tuple[str, ...]:
        """Build what follows from `config` and swap it in; returns what has changed."""
        raise_all(refusals(old.config, config))
        changed = changes(old.config, config)
        if exchange_rates(config) != old.sources.exchange:
            changed = tuple(dict.fromkeys((*changed, RATES_CHANGED)))
        if not changed and not any(plugin.path for plugin in config.plugins):
            return changed
        host = load_plugins(
            config,
            self._base,
            self._plugins,
            own=self._foundation.own,
            reuse=old.host,
            changed=changed_backends(old.config, config),
        )
        changed = tuple(dict.fromkeys((*changed, *host.rewritten(old.host))))
        if not changed:
            return changed
        models = load_models_after((old, *reversed(self._retiring.values())), config, host)
        new = self._next = Generation(old.number + 1, config, host, models, self._foundation)
        try:
            async with self._foundation.targets.keeping(config):
                await host.startup()
                self._swap(old, new)
        except BaseException:
            self._next = None
            await self._foundation.retain((self._generation, *self._retiring.values()))
            raise
        self._next = None
        return changed

    def _read(self, source: str | Path | Config | None) -> Config | ConfigFile:
        if isinstance(source, Config):
            return source
        if source is None and self.file is None:
            message = "the gateway was opened without a file; give `reload` the configuration."
            raise ConfigError(message)
        return load_file(source or self.file or "")

    def _swap(self, old: Generation, new: Generation) -> None:
        """From this moment on calls begin on `new`. Synchronous: nobody sees a half of it."""
        self._foundation.configure(new.config)
        new.watch_health(self._foundation)
        new.share_anew(old, self._foundation.memory)
        self._generation = new
        self._handle = new.entrance.handle
        old.entrance.retire(self._begin)
        task = asyncio.create_task(self._retire(old), name=f"llmgw generation {old.number}")
        self._retiring[task] = old
        task.add_done_callback(self._retired)
        for listener in self._listeners:
            listener()

    async def _begin(
        self,
        head: Head,
        body: Body,
        sink: Sink,
        principal: Principal | None = None,
        subcall: Subcall | None = None,
    ) -> UsageRecord | None:
        """What a retired entrance does with calls that come late."""
        return await self._handle(head, body, sink, principal, subcall)

    def _is_closing(self) -> bool:
        return self._closing

    async def _retire(self, old: Generation) -> None:
        """Close a generation after its last call, and what only it has used."""
        await old.entrance.idle()
        await old.aclose(_SHUTDOWN_SECONDS)
        others = [each for each in self._retiring.values() if each is not old]
        coming = () if self._next is None else (self._next,)
        await self._foundation.retain((self._generation, *others, *coming))

    def _retired(self, task: asyncio.Task[None]) -> None:
        old = self._retiring.pop(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("configuration %d did not end well", old.number, exc_info=error)

    async def _close_generations(self) -> None:
        """The last call was, or will be interrupted: shut down all plugins."""
        self._closing = True
        if self._building is not None:
            self._building.cancel()
            await asyncio.wait({self._building})
        self._close_books()
        retiring = dict(self._retiring)
        for old in retiring.values():
            old.entrance.abandon()
        if retiring:
            await asyncio.wait(retiring)
        await self._generation.aclose(_SHUTDOWN_SECONDS)

    def _close_books(self) -> None:
        for generation in (self._generation, *self._retiring.values()):
            generation.books.close()


__all__ = [
    "ConfigError",
    "Gateway",
    "ReloadResult",
    "StoreUnavailable",
    "load_models",
    "load_plugins",
]
