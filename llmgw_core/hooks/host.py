"""The plugin host: enabled plugins, made in order, compiled, started, called and closed.

There is no module-level manager or registry: two hosts in one process know nothing of each
other. The tuples `pre_auth`, `authenticate`... are empty when nobody implements the hook; the
caller looks at them first, so that an unused hook costs one attribute.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import pluggy

from llmgw_core.config.errors import raise_all
from llmgw_core.domain.errors import ConfigError
from llmgw_core.hooks import dispatch
from llmgw_core.hooks.compile import CompiledHook, compile_hooks
from llmgw_core.hooks.enabled import Enabled, resolve
from llmgw_core.hooks.foreign import Foreign
from llmgw_core.hooks.judging import judge_reply, judges_of
from llmgw_core.hooks.observers import Observer
from llmgw_core.hooks.specs import HOOK_KINDS, PROJECT, GatewayHooks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from llmgw_core.backends.port import Backend
    from llmgw_core.config.schema import PluginConfig
    from llmgw_core.domain.access import Principal
    from llmgw_core.domain.call import Call, Head
    from llmgw_core.domain.deployment import Deployment
    from llmgw_core.domain.reply import Reply
    from llmgw_core.domain.usage import UsageRecord
    from llmgw_core.hooks.context import PluginContext
    from llmgw_core.hooks.judging import StreamJudges
    from llmgw_core.wire.request import RequestView

HELD_BYTES: Final = 64 * 1024 * 1024
"""What one stream filter may hold unless the caller says otherwise."""

OBSERVER_QUEUE: Final = 10_000
"""Records that wait for one observer before new ones are dropped."""

_FAILED_START_SECONDS: Final = 10.0

_logger = logging.getLogger(__name__)


class PluginRow(NamedTuple):
    """One enabled plugin, for a table. `distribution` is empty for one given in code."""

    order: int
    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...]
    calls: int
    failures: int
    dropped: int


class _Plugin(NamedTuple):
    enabled: Enabled
    instance: Any
    context: PluginContext

    @property
    def name(self) -> str:
        return self.enabled.section.name


class PluginHost:
    """The plugins of one gateway. Made by `load`; `startup` before the first call, `shutdown`
    after the last. `backends` are known after `load`."""

    def __init__(
        self,
        plugins: Sequence[_Plugin],
        hooks: dict[str, tuple[CompiledHook, ...]],
        queue_size: int,
    ) -> None:
        self._plugins = tuple(plugins)
        self._hooks = hooks
        self._started: set[str] = set()
        self._closed = False
        self.pre_auth = hooks["pre_auth"]
        self.authenticate = hooks["authenticate"]
        self.authorize = hooks["authorize"]
        self.pre_route = hooks["pre_route"]
        self.post_process = hooks["post_process"]
        """In the order of execution: the last plugin first."""
        self.judges = judges_of(hooks, [plugin.name for plugin in self._plugins])
        """Plugins with `post_process` or `open_stream`, the last one first."""
        self.on_usage = hooks["on_usage"]
        self._observers = tuple(Observer(hook, queue_size) for hook in self.on_usage)
        self.needs: frozenset[str] = frozenset().union(
            *(getattr(plugin.instance, "needs", ()) for plugin in plugins)
        )
        """The decoded views that some plugin declared to want."""
        self.backends: dict[str, Backend] = _backends(hooks["register_backends"])

    @classmethod
    def load(
        cls,
        configs: Sequence[PluginConfig],
        *,
        context_for: Callable[[str], PluginContext],
        extra: Sequence[tuple[str, type[Any]]] = (),
        queue_size: int = OBSERVER_QUEUE,
    ) -> PluginHost:
        """Find, check and make the enabled plugins and register their backends. `extra` are
        classes given by the embedding application: they come first, and take a section of
        `configs` that has their name. Raises `ConfigError`; nothing is started."""
        manager = pluggy.PluginManager(PROJECT)
        manager.add_hookspecs(GatewayHooks)
        enabled = resolve(configs, extra, manager)
        plugins = [_make(item, context_for(item.section.name)) for item in enabled]
        for plugin in plugins:
            with Foreign(plugin.name, "register", "stop"):
                manager.register(plugin.instance, plugin.name)
        manager.check_pending()
        sections = {plugin.name: plugin.enabled.section for plugin in plugins}
        return cls(plugins, compile_hooks(manager, sections), queue_size)

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

    async def run_pre_route(self, request: RequestView, call: Call) -> RequestView | Reply:
        """The request as the plugins leave it, or an answer. Raises `GatewayError`."""
        return await dispatch.fold_until_reply(self.pre_route, request, call)

    async def run_post_process(
        self, reply: Reply, call: Call, held_bytes: int = HELD_BYTES
    ) -> Reply:
        """The reply as the plugins leave it, the last plugin first; those that know streams only
        get it as one, and may hold `held_bytes`. Raises `GatewayError`, and `UpstreamFailure`
        when no stream can be made of it."""
        return await judge_reply(self.judges, reply, call, held_bytes)

    async def open_stream(self, judges: StreamJudges, held_bytes: int = HELD_BYTES) -> None:
        """Let every plugin open its filter of a stream. Raises `GatewayError`."""
        await judges.open(self.judges, held_bytes)

    def observe_usage(self, record: UsageRecord) -> None:
        """Queue `record` for every observer. Never waits, never raises."""
        for observer in self._observers:
            observer.observe(record)

    # Life

    def bind_deployments(self, deployments_of: Callable[[str], tuple[Deployment, ...]]) -> None:
        """Let plugins ask for the deployments of a backend; before `startup`."""
        for plugin in self._plugins:
            plugin.context.bind(deployments_of)

    async def startup(self) -> None:
        """Start every plugin, in order. If one fails, those before it are shut down and
        `ConfigError` is raised. No timeout: an engine may take its time to load."""
        hooks = {hook.plugin: hook for hook in self._hooks["startup"]}
        try:
            for plugin in self._plugins:
                if plugin.name in hooks:
                    await _start(hooks[plugin.name])
                self._started.add(plugin.name)
        except BaseException:
            await self.shutdown(_FAILED_START_SECONDS)
            raise
        for observer in self._observers:
            observer.start()

    async def shutdown(self, deadline: float) -> None:
        """Hand over what observers still wait for, then shut the plugins down in reverse order,
        in `deadline` seconds altogether. Failures are logged. Idempotent."""
        if self._closed:
            return
        self._closed = True
        clock = asyncio.get_running_loop().time
        end = clock() + deadline
        # Half of the time, so that a slow observer does not keep others from closing properly.
        await asyncio.gather(*(observer.stop(deadline / 2) for observer in self._observers))
        hooks = {hook.plugin: hook for hook in self._hooks["shutdown"]}
        for left, plugin in zip(
            range(len(self._plugins), 0, -1), reversed(self._plugins), strict=True
        ):
            share = max(0.0, end - clock()) / left
            if plugin.name in self._started and plugin.name in hooks:
                hook = hooks[plugin.name]
                hook.timeout = min(hook.timeout, share)
                await dispatch.invoke_apart(hook)
            with Foreign(plugin.name, "close", "continue"):
                await plugin.context.aclose(share)

    # Reports

    @property
    def failures(self) -> dict[tuple[str, str], int]:
        """(plugin, hook) → failures, of those that failed."""
        return {(hook.plugin, hook.hook): hook.failures for hook in self._all() if hook.failures}

    @property
    def dropped(self) -> dict[str, int]:
        """Observer → records that it did not get."""
        return {observer.hook.plugin: observer.dropped for observer in self._observers}

    @property
    def contexts(self) -> dict[str, PluginContext]:
        """The contexts by plugin; their `metrics` are exported by the server."""
        return {plugin.name: plugin.context for plugin in self._plugins}

    def describe(self) -> list[PluginRow]:
        """The enabled plugins in order, with what they did so far."""
        return [self._row(order, plugin) for order, plugin in enumerate(self._plugins, start=1)]

    def _row(self, order: int, plugin: _Plugin) -> PluginRow:
        hooks = [hook for hook in self._all() if hook.plugin == plugin.name]
        return PluginRow(
            order=order,
            name=plugin.name,
            distribution=plugin.enabled.distribution,
            version=plugin.enabled.version,
            hooks=tuple(hook.hook for hook in hooks),
            calls=sum(hook.calls for hook in hooks),
            failures=sum(hook.failures for hook in hooks),
            dropped=self.dropped.get(plugin.name, 0),
        )

    def _all(self) -> Iterator[CompiledHook]:
        for name in HOOK_KINDS:
            yield from self._hooks[name]


def _make(enabled: Enabled, context: PluginContext) -> _Plugin:
    """The instance of an enabled plugin."""
    with Foreign(enabled.section.name, "__init__", "stop"):
        return _Plugin(enabled, enabled.plugin(enabled.config, context), context)
    raise AssertionError  # "stop" always raises


async def _start(hook: CompiledHook) -> None:
    with hook:
        result = hook.function()
        if hook.is_coroutine:
            await result


def _backends(hooks: Sequence[CompiledHook]) -> dict[str, Backend]:
    """Backends by name. Raises `ConfigErrors` for what is none, or is there twice."""
    backends: dict[str, Backend] = {}
    owners: dict[str, str] = {}
    errors: list[ConfigError] = []
    for hook in hooks:
        with hook:
            for backend in hook.function():
                if not _is_backend(backend):
                    message = f"registered {type(backend).__name__}, which is no Backend"
                    raise TypeError(message)
                owner = owners.setdefault(backend.name, hook.plugin)
                if backend.name in backends:
                    message = (
                        f"the plugins `{owner}` and `{hook.plugin}` both register a backend"
                        f" `{backend.name}`; enable one of them."
                    )
                    errors.append(ConfigError(message, path="plugins"))
                backends[backend.name] = backend
    raise_all(errors)
    return backends


def _is_backend(value: Any) -> bool:
    options = getattr(value, "Options", None)
    return (
        isinstance(getattr(value, "name", None), str)
        and isinstance(options, type)
        and issubclass(options, msgspec.Struct)
        and all(callable(getattr(value, name, None)) for name in ("origin", "begin", "check"))
    )
