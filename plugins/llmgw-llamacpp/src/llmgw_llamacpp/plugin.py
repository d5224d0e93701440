"""The plugin: one supervised engine per deployment of the backend `llamacpp`."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import msgspec

from llmgw_core.backends.canonical import CanonicalSession
from llmgw_core.backends.inquiry import engine_page
from llmgw_core.domain.deployment import Origin
from llmgw_core.domain.errors import ConfigError
from llmgw_core.domain.failure import UpstreamFailure
from llmgw_core.hooks.specs import hookimpl
from llmgw_llamacpp.child import HOST
from llmgw_llamacpp.engine import Engine, EngineError, Timing
from llmgw_llamacpp.modelfile import ModelFileError
from llmgw_llamacpp.options import LlamaCppOptions, check_options, child_settings
from llmgw_llamacpp.supervision import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmgw_core.backends.port import Backend, Session
    from llmgw_core.backends.transport.port import HttpRequest
    from llmgw_core.domain.call import Call
    from llmgw_core.domain.deployment import Deployment
    from llmgw_core.hooks.context import PluginContext

BACKEND = "llamacpp"


class LlamaCppBackend:
    """The backend `llamacpp`: OpenAI's form, spoken to a child of this process."""

    name = BACKEND
    Options: type[msgspec.Struct] = LlamaCppOptions

    def __init__(self) -> None:
        self.engines: dict[object, Engine] = {}
        """By the identity of their deployments: while calls of an older configuration run, one
        name can have two."""
        self._origins: dict[object, Origin] = {}

    def changed(self, deployment: Deployment) -> None:
        """Take note of what the engine of a deployment now is, if it has one."""
        engine = self.engines.get(deployment.identity)
        if engine is not None and engine.state is State.READY:
            self._origins[deployment.identity] = Origin("http", HOST, engine.port)
        else:
            self._origins.pop(deployment.identity, None)

    def origin(self, deployment: Deployment) -> Origin:
        """See the port: where the engine listens since its last start."""
        origin = self._origins.get(deployment.identity)
        if origin is None:
            raise UpstreamFailure("unavailable", f"the engine {deployment.id} is not ready")
        return origin

    def begin(self, call: Call, deployment: Deployment, credential: str) -> Session:
        """See the port. The credential is the engine's own random key."""
        engine = self.engines.get(deployment.identity)
        return CanonicalSession(call, deployment, engine.api_key if engine else "")

    def page(self, deployment: Deployment, credential: str, path: str) -> HttpRequest:
        """One of the engine's own pages. The credential is its own random key."""
        engine = self.engines.get(deployment.identity)
        key = engine.api_key if engine else ""
        return engine_page("", path, [(b"authorization", b"Bearer " + key.encode())])

    def check(self, deployment: Deployment) -> None:
        """See the port."""
        check_options(deployment.options)


class LlamaCppPlugin:
    """Registers the backend and keeps an engine running for every deployment that is in use."""

    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        """Nothing to configure here: everything is an option of a deployment."""

    def __init__(self, config: Config, context: PluginContext) -> None:
        self._context = context
        self._backend = LlamaCppBackend()
        self._timing = Timing(context.clock, asyncio.sleep, random.random)
        self._restarts_of_gone = 0

    @hookimpl
    def register_backends(self) -> Sequence[Backend]:
        """The backend `llamacpp`."""
        return (self._backend,)

    @hookimpl
    async def startup(self) -> None:
        """Start every engine. Raises `ConfigError`."""
        await self._start(self._context.deployments(BACKEND))

    @hookimpl
    async def deployments_added(self, deployments: Sequence[Deployment]) -> None:
        """Start the engines of these. Raises `ConfigError`; then the others go on."""
        await self._start(deployments)

    @hookimpl
    async def deployments_dropped(self, deployments: Sequence[Deployment]) -> None:
        """Stop the engines of these and wait until the last of them is gone."""
        await self._stop(deployments)

    @hookimpl
    async def shutdown(self) -> None:
        """Stop every engine and wait until the last is gone."""
        await asyncio.gather(*(engine.stop() for engine in self._backend.engines.values()))

    async def _start(self, deployments: Sequence[Deployment]) -> None:
        """Start the engines of these at once and wait until all are ready.

        Raises `ConfigError` when one does not start; the others of these are stopped first."""
        try:
            engines = [self._launch(each) for each in deployments]
            await asyncio.gather(*(engine.started() for engine in engines))
        except BaseException as error:
            await self._stop(deployments)
            if isinstance(error, EngineError):
                raise ConfigError(f"{error} What it said is in the log.") from error
            raise

    async def _stop(self, deployments: Sequence[Deployment]) -> None:
        """Stop those engines of these that there are. Forgotten they are in any case: whoever
        is out of patience leaves them to their supervisors."""
        engines = self._backend.engines
        try:
            await asyncio.gather(
                *(engines[each.identity].stop() for each in deployments if each.identity in engines)
            )
        finally:
            for each in deployments:
                gone = engines.pop(each.identity, None)
                self._restarts_of_gone += gone.restarts if gone else 0
                self._changed(each)

    def _launch(self, deployment: Deployment) -> Engine:
        options: LlamaCppOptions = deployment.options
        try:
            settings = child_settings(options, deployment.upstream_model)
        except ModelFileError as error:
            raise ConfigError(str(error), path=deployment.id) from error
        engine = Engine(
            deployment.id,
            settings,
            start_timeout=options.start_timeout,
            stop_grace=options.stop_grace,
            logger=self._context.logger,
            timing=self._timing,
            on_change=lambda: self._changed(deployment),
        )
        self._backend.engines[deployment.identity] = engine
        self._context.spawn(engine.supervise(), f"engine {deployment.id}")
        return engine

    def _changed(self, deployment: Deployment) -> None:
        self._backend.changed(deployment)
        engines = self._backend.engines.values()
        metrics = self._context.metrics
        restarts = sum(engine.restarts for engine in engines)
        metrics.counters["engine_restarts_total"] = self._restarts_of_gone + restarts
        metrics.gauges["engines"] = len(engines)
        metrics.gauges["engines_ready"] = sum(engine.state is State.READY for engine in engines)
