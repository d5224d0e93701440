"""The composition root: every part of a gateway, made in order, closed in reverse.

    async with Gateway.open("llmgw.yaml") as gateway:
        await gateway.handle(head, body, sink)

Nothing in here decides anything; it says which implementation stands behind which port.
"""

from __future__ import annotations

import datetime as dt
import time
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmgw_core.access.principals import PrincipalCache
from llmgw_core.accounting.journal import Journal
from llmgw_core.accounting.mover import Mover
from llmgw_core.accounting.prices import PriceBook
from llmgw_core.accounting.sole import SoleGateway
from llmgw_core.backends.transport.httptools_transport import HttptoolsTransport
from llmgw_core.config.build import build_models
from llmgw_core.config.errors import ConfigErrors, join, raise_all
from llmgw_core.config.load import load, with_absolute_paths
from llmgw_core.config.schema import Config, DeploymentConfig
from llmgw_core.config.validate import validate
from llmgw_core.domain.errors import ConfigError, StoreUnavailable
from llmgw_core.hooks.context import PluginContext
from llmgw_core.hooks.foreign import Foreign
from llmgw_core.hooks.host import PluginHost
from llmgw_core.hooks.registry import Parts, chosen
from llmgw_core.inprocess.caller import InProcess
from llmgw_core.inprocess.calls import Calls
from llmgw_core.limits.estimate import TokenEstimator
from llmgw_core.limits.memory import MemoryLimiter
from llmgw_core.pipeline.admission import Admission
from llmgw_core.pipeline.attempts import Attempts
from llmgw_core.pipeline.delivery import Delivery
from llmgw_core.pipeline.entrance import Entrance
from llmgw_core.pipeline.identity import new_id
from llmgw_core.pipeline.settlement import Books
from llmgw_core.pipeline.stats import Stats
from llmgw_core.routing.balance import SmoothRoundRobin
from llmgw_core.store.engine import Store
from llmgw_core.store.ledger import Ledger
from llmgw_core.store.principals import StorePrincipals
from llmgw_core.tenancy.service import Tenancy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from llmgw_core.backends.transport.port import Transport
    from llmgw_core.domain.call import Handle
    from llmgw_core.domain.deployment import Deployment, Model
    from llmgw_core.limits.port import Limiter
    from llmgw_core.tenancy.records import AuditEntry

PLUGIN_DATA = "llmgw-data"
"""Directory beside the configuration in which every plugin has a directory of its own."""
_SHUTDOWN_SECONDS = 10.0


class Gateway(InProcess):
    """A running gateway. Made by `open`; several may live in one process."""

    def __init__(
        self,
        *,
        config: Config,
        host: PluginHost,
        models: dict[str, Model],
        store: Store,
        journal: Journal,
        mover: Mover,
        principals: PrincipalCache,
        transports: dict[str, Transport],
    ) -> None:
        self.config = config
        self.host = host
        self.catalog = models
        self.stats = Stats()
        self.store = store
        self.tenancy = Tenancy(store, clock=time.time, changed=self._audited)
        self.ledger = Ledger(store)
        self.journal = journal
        self.mover = mover
        self.principals = principals
        self.limiter: Limiter = host.limiters[config.limits.limiter]()
        self._entrance = self._assemble(transports)
        self.calls = Calls(lambda: self.handle)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        source: str | Path | Config,
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
        config, base = _configuration(source, base_dir)
        async with AsyncExitStack() as stack:
            yield await cls._start(stack, config, base, plugins, limiter_clock)

    @classmethod
    async def _start(
        cls,
        stack: AsyncExitStack,
        config: Config,
        base: Path,
        plugins: Sequence[tuple[str, type[Any]]],
        limiter_clock: Callable[[], float],
    ) -> Gateway:
        host = load_plugins(config, base, plugins, own_parts(limiter_clock))
        models = load_models(config, host)
        store = Store(config.store.url)
        await store.open()
        stack.push_async_callback(store.aclose)
        sole, journal = _open_books(config)
        stack.callback(sole.close)
        stack.callback(journal.close)
        mover = Mover(
            journal.root, journal, Ledger(store), interval=config.accounting.move_interval
        )
        principals = PrincipalCache(
            StorePrincipals(store),
            staleness=config.store.staleness,
            serve_stale=config.store.serve_stale,
        )
        transports = _transports(models)
        gateway = cls(
            config=config,
            host=host,
            models=models,
            store=store,
            journal=journal,
            mover=mover,
            principals=principals,
            transports=transports,
        )
        stack.push_async_callback(gateway.limiter.aclose)
        stack.callback(gateway.books.close)
        for transport in transports.values():
            stack.push_async_callback(transport.aclose)
        stack.push_async_callback(mover.aclose)
        stack.push_async_callback(host.shutdown, _SHUTDOWN_SECONDS)
        # While observers and the mover are still there; calls that come later than this are
        # settled just before the journal closes, and after that none is admitted.
        stack.callback(gateway.books.close)
        host.bind_deployments(gateway.deployments)
        await host.startup()
        stack.push_async_callback(principals.aclose)
        principals.start()
        mover.start()
        stack.push_async_callback(gateway.calls.aclose)
        return gateway

    def deployments(self, backend: str) -> tuple[Deployment, ...]:
        """Every configured deployment that names `backend`."""
        return tuple(
            deployment
            for model in self.catalog.values()
            for deployment in model.deployments
            if deployment.backend == backend
        )

    @property
    def handle(self) -> Handle:
        """`await gateway.handle(head, body, sink, principal=None)` answers one request below
        `/v1/` completely, errors included; a `principal` that is given is believed. Raises only
        `asyncio.CancelledError`, after having settled."""
        return self._entrance.handle

    def readiness(self) -> list[str]:
        """Why no new calls should be sent here; empty when they should. Known callers are
        served while the database is down, so that is no reason."""
        reasons = []
        if not self.journal.healthy:
            reasons.append("The journal cannot be written; no call is admitted.")
        if not self.mover.running:
            reasons.append("The journal is not being moved into the ledger.")
        return reasons

    def new_call_id(self) -> str:
        """An id for a reply that the server gives by itself."""
        return new_id(time.time_ns())

    def _audited(self, entry: AuditEntry) -> None:
        if self.host.on_audit:
            self.host.observe_audit(entry)

    def _assemble(self, transports: dict[str, Transport]) -> Entrance:
        config, host = self.config, self.host
        limits = config.requests
        prices = PriceBook(config.models)
        refuse_unpriced = config.accounting.unpriced == "refuse"
        books = self.books = Books(
            prices=prices,
            journal=self.journal,
            estimator=TokenEstimator(limits.default_output_tokens),
            stats=self.stats,
            host=host,
            clock=time.monotonic,
            currency=config.accounting.currency,
        )
        delivery = Delivery(
            host=host,
            limiter=self.limiter,
            reply_bytes=limits.reply_bytes,
            clock=time.monotonic,
        )
        return Entrance(
            admission=Admission(
                host=host,
                principals=self.principals,
                models=self.catalog,
                limiter=self.limiter,
                prices=prices,
                books=books,
                body_bytes=limits.body_bytes,
                refuse_unpriced=refuse_unpriced,
            ),
            attempts=Attempts(
                host=host,
                transports=transports,
                balancer=host.balancers[config.routing.balancer](),
                books=books,
                budget=limits.attempts,
                reply_bytes=limits.reply_bytes,
                refuse_unpriced=refuse_unpriced,
            ),
            delivery=delivery,
            host=host,
            stats=self.stats,
            clock=time.monotonic,
            wall_clock_ns=time.time_ns,
        )


def _configuration(source: str | Path | Config, base_dir: Path | None) -> tuple[Config, Path]:
    """The valid configuration and what its relative paths are relative to."""
    if not isinstance(source, Config):
        return load(source), Path(source).absolute().parent
    base = (base_dir or Path.cwd()).absolute()
    raise_all(validate(source, today=dt.datetime.now(dt.UTC).date()))
    return with_absolute_paths(source, base), base


def own_parts(limiter_clock: Callable[[], float] = time.monotonic) -> Parts:
    """What the gateway itself brings to what plugins may register."""
    return Parts(
        balancers={"round_robin": SmoothRoundRobin},
        limiters={"memory": lambda: MemoryLimiter(limiter_clock)},
    )


def load_plugins(
    config: Config,
    base: Path,
    plugins: Sequence[tuple[str, type[Any]]] = (),
    own: Parts | None = None,
) -> PluginHost:
    """The enabled plugins, made but not started, with everything that the configuration names
    of what plugins can register. Raises `ConfigError`."""

    def context_for(name: str) -> PluginContext:
        return PluginContext(name, data_dir=base / PLUGIN_DATA / name)

    host = PluginHost.load(
        config.plugins, context_for=context_for, extra=plugins, own=own or own_parts()
    )
    chosen("limiter", host.limiters, config.limits.limiter, "limits.limiter")
    chosen("balancer", host.balancers, config.routing.balancer, "routing.balancer")
    return host


def load_models(config: Config, host: PluginHost) -> dict[str, Model]:
    """The typed models, each deployment checked by its backend. Raises `ConfigErrors`."""
    models = build_models(config, {name: b.Options for name, b in host.backends.items()})
    errors: list[ConfigError] = []
    for model in models.values():
        place = join(join("models", model.name), "deployments")
        for index, deployment in enumerate(model.deployments):
            try:
                with Foreign(deployment.backend, "check", "stop"):
                    host.backends[deployment.backend].check(deployment)
            except ConfigError as error:
                found = error.errors if isinstance(error, ConfigErrors) else (error,)
                errors.extend(_placed(each, join(place, index)) for each in found)
    PriceBook(config.models)
    raise_all(errors)
    return models


def _placed(error: ConfigError, deployment: str) -> ConfigError:
    """What a backend says about the deployment at that path. Its own path names an option, or a
    key of the deployment itself."""
    if not error.path:
        return ConfigError(error.message, path=deployment)
    inside = error.path.partition(".")[0] in DeploymentConfig.__struct_fields__
    section = deployment if inside else join(deployment, "options")
    return ConfigError(error.message, path=f"{section}.{error.path}")


def _open_books(config: Config) -> tuple[SoleGateway, Journal]:
    accounting = config.accounting
    root = Path(accounting.journal)
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        sole = SoleGateway(root)
        try:
            return sole, Journal(
                root, segment_bytes=accounting.segment_bytes, fsync=accounting.fsync
            )
        except OSError:
            sole.close()
            raise
    except OSError as error:
        message = f"the journal cannot be kept in {root}: {error.strerror}."
        raise ConfigError(message, path="accounting.journal") from None


def _transports(models: dict[str, Model]) -> dict[str, Transport]:
    """The transports that the configuration names; aiohttp is imported only if one does."""
    names = {deployment.transport for model in models.values() for deployment in model.deployments}
    transports: dict[str, Transport] = {}
    if "httptools" in names:
        transports["httptools"] = HttptoolsTransport()
    if "aiohttp" in names:
        from llmgw_core.backends.transport.aiohttp_transport import (  # noqa: PLC0415 -- heavy
            AiohttpTransport,
        )

        transports["aiohttp"] = AiohttpTransport()
    return transports


__all__ = ["ConfigError", "Gateway", "StoreUnavailable", "load_models", "load_plugins"]
