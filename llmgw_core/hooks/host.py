"""The plugin host: enabled plugins, made in order, compiled, started, called and closed.

There is no module-level manager or registry: two hosts in one process know nothing of each
other. The tuples `pre_auth`, `authenticate`... are empty when nobody implements the hook; the
caller looks at them first, so that an unused hook costs one attribute.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pluggy

from llmgw_core.config.errors import join
from llmgw_core.domain.reply import Reply
from llmgw_core.hooks import dispatch, views
from llmgw_core.hooks.enabled import resolve
from llmgw_core.hooks.judging import judge_reply, judges_of
from llmgw_core.hooks.plugin import Plugin
from llmgw_core.hooks.registry import ITSELF, Parts, merged
from llmgw_core.hooks.specs import HOOK_KINDS, PROJECT, REVERSED, GatewayHooks

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from llmgw_core.backends.port import Backend
    from llmgw_core.config.schema import PluginConfig
    from llmgw_core.config.schema_prices import CatalogueEntry
    from llmgw_core.domain.access import Principal
    from llmgw_core.domain.call import Call, Handle, Head
    from llmgw_core.domain.deployment import Deployment
    from llmgw_core.domain.health import HealthChange
    from llmgw_core.domain.usage import EndedAttempt, UsageRecord
    from llmgw_core.hooks.compile import CompiledHook
    from llmgw_core.hooks.context import PluginContext
    from llmgw_core.hooks.judging import Judge, StreamJudges
    from llmgw_core.hooks.observers import Observer
    from llmgw_core.hooks.rows import PluginRow
    from llmgw_core.limits.port import Limiter
    from llmgw_core.limits.tokenizers import Tokenizer
    from llmgw_core.routing.balance import Balancer, BalancerContext
    from llmgw_core.routing.queue import Queue
    from llmgw_core.tenancy.records import AuditEntry
    from llmgw_core.wire.request import RequestView

HELD_BYTES: Final = 64 * 1024 * 1024
"""What one stream filter may hold unless the caller says otherwise."""

OBSERVER_QUEUE: Final = 10_000
"""Records that wait for one observer before new ones are dropped."""

_FAILED_START_SECONDS: Final = 10.0


class Answer(NamedTuple):
    """A reply that `pre_route` gave instead of any upstream, and who judges it on the way back:
    the plugins whose `pre_route` ran, and those that have none."""

    reply: Reply
    judges: tuple[Judge, ...]


class PluginHost:
    """The plugins of one gateway. Made by `load`; `startup` before the first call, `shutdown`
    after the last. What plugins register is known after `load`."""

    def __init__(self, plugins: Sequence[Plugin], own: Parts) -> None:
        self.plugins = tuple(plugins)
        self._closed = False
        self._deployments_of: Callable[[str], tuple[Deployment, ...]] | None = None
        self._handle: Handle | None = None
        self.muted: frozenset[str] = frozenset()
        """Plugins whose hooks are not run: they are switched off."""
        self._resumed: dict[str, float] = {}
        self._compile()
        parts = [(ITSELF, own), *((plugin.name, plugin.parts) for plugin in plugins)]
        self.backends: dict[str, Backend] = merged("backend", ((n, p.backends) for n, p in parts))
        self.balancers: dict[str, Callable[[BalancerContext], Balancer]] = merged(
            "balancer", ((n, p.balancers) for n, p in parts)
        )
        self.limiters: dict[str, Callable[[], Limiter]] = merged(
            "limiter", ((n, p.limiters) for n, p in parts)
        )
        self.queues: dict[str, Callable[[], Queue]] = merged(
            "queue", ((n, p.queues) for n, p in parts)
        )
        self.prices: dict[str, Sequence[CatalogueEntry]] = merged(
            "price", ((n, p.prices) for n, p in parts)
        )
        self.tokenizer_factories: dict[str, Callable[[], Tokenizer]] = merged(
            "tokenizer", ((n, p.tokenizer_factories) for n, p in parts)
        )

    def _compile(self) -> None:
        """Put together what calls ask for, without the plugins that are switched off."""
        self.pre_auth = self._hooks("pre_auth")
        self.authenticate = self._hooks("authenticate")
        self.authorize = self._hooks("authorize")
        self.pre_route = self._hooks("pre_route")
        self.post_process = self._hooks("post_process")
        """In the order of execution: the last plugin first."""
        self.judges = judges_of(
            {"post_process": self.post_process, "open_stream": self._hooks("open_stream")},
            [plugin.name for plugin in self._asked()],
        )
        """Plugins with `post_process` or `open_stream`, the last one first."""
        self.on_usage = self._observers("on_usage")
        self.on_attempt = self._observers("on_attempt")
        self.on_audit = self._observers("on_audit")
        self.on_health = self._observers("on_health")
        self.needs: frozenset[str] = frozenset().union(*(each.needs for each in self._asked()))
        """The decoded views that some plugin declared to want."""
        self._decode_request = "request" in self.needs
        self._decode_reply = "reply" in self.needs
        self._after = {hook.plugin: self._ran(index) for index, hook in enumerate(self.pre_route)}

    @classmethod
    def load(
        cls,
        configs: Sequence[PluginConfig],
        *,
        context_for: Callable[[str], PluginContext],
        extra: Sequence[tuple[str, type[Any]]] = (),
        own: Parts = Parts(),  # noqa: B008 -- immutable
        reuse: PluginHost | None = None,
        changed: Collection[str] = (),
        queue_size: int = OBSERVER_QUEUE,
        clock: Callable[[], float] = time.perf_counter,
    ) -> PluginHost:
        """Find, check and make the enabled plugins and register what they bring. `extra` are
        classes given by the embedding application: they come first, and take a section of
        `configs` that has their name. `own` is what the gateway itself brings. Raises
        `ConfigError`; nothing is started.

        `reuse` is the host before this one: plugins whose section and class are as they were are
        taken from it as they are, running, unless they prepare deployments at start-up only and
        a backend of theirs is among the `changed` ones. They belong to this host from its
        `startup` on; then the other host's `shutdown` leaves them alone."""
        manager = pluggy.PluginManager(PROJECT)
        manager.add_hookspecs(GatewayHooks)
        enabled = resolve(configs, extra, manager)
        before = {plugin.name: plugin for plugin in reuse.plugins} if reuse else {}
        plugins = []
        for item in enabled:
            name = item.section.name
            plugin = before.get(name)
            if plugin is None or not plugin.stays(item, changed):
                plugin = Plugin(
                    item, context_for(name), manager, queue_size=queue_size, clock=clock
                )
            plugins.append(plugin)
        manager.check_pending()
        return cls(plugins, own)

    def _hooks(self, name: str) -> tuple[CompiledHook, ...]:
        """The implementations of a hook in the order in which they run."""
        found = tuple(plugin.hooks[name] for plugin in self._asked() if name in plugin.hooks)
        return found[::-1] if name in REVERSED else found

    def _observers(self, name: str) -> tuple[Observer, ...]:
        found = (plugin.observers.get(name) for plugin in self._asked())
        return tuple(observer for observer in found if observer is not None)

    def _ran(self, index: int) -> tuple[Judge, ...]:
        """Who judges what the `pre_route` at `index` has answered."""
        skipped = {hook.plugin for hook in self.pre_route[index + 1 :]}
        return tuple(judge for judge in self.judges if judge.plugin not in skipped)

    def _asked(self) -> list[Plugin]:
        return [plugin for plugin in self.plugins if plugin.name not in self.muted]

    def mute(self, names: frozenset[str], now: float) -> None:
        """From `now` (as `Call.started`) on, run no hooks of these plugins, and those of all
        others.
        One that comes back does not judge the replies of calls whose requests it has not seen."""
        if names == self.muted:
            return
        self._resumed |= dict.fromkeys(self.muted - names, now)
        self.muted = names
        self._compile()

    def _judging(self, judges: tuple[Judge, ...], call: Call) -> tuple[Judge, ...]:
        if not self._resumed:
            return judges
        return tuple(
            judge for judge in judges if self._resumed.get(judge.plugin, -math.inf) <= call.started
        )

    # Calls

    async def run_pre_auth(self, head: Head, call: Call) -> Head:
        """The head as the plugins leave it. Raises `GatewayError`."""
        return await dispatch.fold(self.pre_auth, head, call)

    async def run_authenticate(self, head: Head, call: Call) -> Principal | None:
        """The first principal that a plugin knows. Raises `GatewayError`."""
        return await dispatch.first(self.authenticate, head, call)

    def run_authorize(self, call: Call, model: str) -> str | None:
        """The sentence of the first plugin that denies `model`; a failing plugin denies."""
        return dispatch.denial(self.authorize, call, model)

    async def run_pre_route(self, request: RequestView, call: Call) -> RequestView | Answer:
        """The request as the plugins leave it, or an answer. Raises `GatewayError`."""
        if self._decode_request:
            views.decoded_request(request)
        result, plugin = await dispatch.fold_until_reply(self.pre_route, request, call)
        if isinstance(result, Reply):
            return Answer(result, self._after.get(plugin, self.judges))
        return result

    async def run_post_process(
        self,
        reply: Reply,
        call: Call,
        held_bytes: int = HELD_BYTES,
        judges: tuple[Judge, ...] | None = None,
    ) -> Reply:
        """The reply as the plugins leave it, the last plugin first; those that know streams only
        get it as one, and may hold `held_bytes`. `judges` are those of an `Answer`. Raises
        `GatewayError`, and `UpstreamFailure` when no stream can be made of it."""
        if self._decode_reply:
            views.decoded_reply(reply)
        judges = self._judging(self.judges if judges is None else judges, call)
        return await judge_reply(judges, reply, call, held_bytes)

    async def open_stream(self, judges: StreamJudges, held_bytes: int = HELD_BYTES) -> None:
        """Let every plugin open its filter of a stream. Raises `GatewayError`."""
        await judges.open(self._judging(self.judges, judges.call), held_bytes)

    def observe_usage(self, record: UsageRecord) -> None:
        """Queue `record` for every observer. Never waits, never raises."""
        for observer in self.on_usage:
            observer.observe(record)

    def observe_attempt(self, record: EndedAttempt) -> None:
        """Queue `record` for every observer. Never waits, never raises."""
        for observer in self.on_attempt:
            observer.observe(record)

    def observe_audit(self, entry: AuditEntry) -> None:
        """Queue `entry` for every observer. Never waits, never raises."""
        for observer in self.on_audit:
            observer.observe(entry)

    def observe_health(self, change: HealthChange) -> None:
        """Queue `change` for every observer. Never waits, never raises."""
        for observer in self.on_health:
            observer.observe(change)

    # Life

    def bind_deployments(self, deployments_of: Callable[[str], tuple[Deployment, ...]]) -> None:
        """Let plugins ask for the deployments of a backend; before `startup`. Plugins that run
        for another host already see them when all have started."""
        self._deployments_of = deployments_of
        for plugin in self.plugins:
            mine = [each for name in plugin.parts.backends for each in deployments_of(name)]
            plugin.following.hold(self, mine)
            if plugin.state == "made":
                self._bind(plugin)

    def bind_calls(self, handle: Handle) -> None:
        """Let plugins call models through the gateway, as `bind_deployments`."""
        self._handle = handle
        for plugin in self.plugins:
            if plugin.state == "made":
                plugin.context.bind_calls(handle)

    async def startup(self) -> None:
        """Start every plugin, or have it prepare the deployments that are new, in order. If one
        fails, those before it are shut down or drop them again, and `ConfigError` is raised. No
        timeout: an engine may take its time to load."""
        try:
            for plugin in self.plugins:
                if self not in plugin.holders:
                    plugin.holders.append(self)
                await plugin.start()
                await plugin.follow(self)
            for plugin in self.plugins:
                self._bind(plugin)
            for plugin in self.plugins:
                await plugin.follow(self)  # if it ended to stand by before it could see them
        except BaseException:
            await self.shutdown(_FAILED_START_SECONDS)
            raise
        for plugin in self.plugins:
            plugin.observe()

    async def shutdown(self, deadline: float) -> None:
        """Let go of every plugin. Those that no other host holds get what their observers still
        wait for and are shut down, others drop the deployments that only this host had, in
        reverse order, in `deadline` seconds altogether. Failures are logged. Idempotent."""
        if self._closed:
            return
        self._closed = True
        clock = asyncio.get_running_loop().time
        end = clock() + deadline
        closing = [plugin for plugin in reversed(self.plugins) if self._let_go(plugin)]
        ending = [p for p in reversed(self.plugins) if p in closing or p.following.unused()]
        # Half of the time, so that a slow observer does not keep others from closing properly.
        await asyncio.gather(*(plugin.drain(deadline / 2) for plugin in closing))
        for left, plugin in zip(range(len(ending), 0, -1), ending, strict=True):
            end_it = plugin.close if plugin in closing else plugin.drop
            await end_it(max(0.0, end - clock()) / left)

    @property
    def closed(self) -> bool:
        """Whether `shutdown` has begun."""
        return self._closed

    def _let_go(self, plugin: Plugin) -> bool:
        """Whether nobody holds the plugin any more."""
        plugin.following.let_go(self)
        if self in plugin.holders:
            plugin.holders.remove(self)
        for holder in plugin.holders[-1:]:
            holder._bind(plugin)
        return not plugin.holders

    def _bind(self, plugin: Plugin) -> None:
        plugin.following.bind(self)
        if self._deployments_of is not None:
            plugin.context.bind(self._deployments_of)
        if self._handle is not None:
            plugin.context.bind_calls(self._handle)

    # Reports

    def rewritten(self, before: PluginHost) -> list[str]:
        """The paths in the configuration of the plugins whose code is not what it was."""
        known = {plugin.name: plugin.enabled.plugin for plugin in before.plugins}
        return [
            join("plugins", plugin.name)
            for plugin in self.plugins
            if known.get(plugin.name, plugin.enabled.plugin) is not plugin.enabled.plugin
        ]

    @property
    def failures(self) -> dict[tuple[str, str], int]:
        """(plugin, hook) → failures, of those that failed."""
        return {(hook.plugin, hook.hook): hook.failures for hook in self.hooks() if hook.failures}

    @property
    def dropped(self) -> dict[str, int]:
        """Plugin with observers → records that they did not get."""
        return {plugin.name: plugin.dropped for plugin in self.plugins if plugin.observers}

    @property
    def contexts(self) -> Mapping[str, PluginContext]:
        """The contexts by plugin; their `metrics` are exported by the server."""
        return {plugin.name: plugin.context for plugin in self.plugins}

    def describe(self) -> list[PluginRow]:
        """The enabled plugins in order, with what they did so far."""
        return [
            plugin.row(order, muted=plugin.name in self.muted)
            for order, plugin in enumerate(self.plugins, start=1)
        ]

    def hooks(self) -> Iterator[CompiledHook]:
        """Every implementation of every hook, with its meters."""
        for name in HOOK_KINDS:
            yield from (plugin.hooks[name] for plugin in self.plugins if name in plugin.hooks)
