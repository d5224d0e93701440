"""One generation: everything that follows from one configuration, composed and immutable.

A call belongs to the generation whose entrance it came through, from its first line to its
settlement. A reload builds the next one completely beside it; see `reload`.
"""

from __future__ import annotations

import datetime as dt
import os
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from llmgw_core.accounting.prices import PriceBook
from llmgw_core.backends.transport.plugin_http import open_session
from llmgw_core.backends.transport.registry import Way, way_of
from llmgw_core.config.build import collect_models
from llmgw_core.config.changes import ReloadResult
from llmgw_core.config.errors import ConfigErrors, join, raise_all
from llmgw_core.config.identity import with_identities
from llmgw_core.config.outgoing import outgoing_of
from llmgw_core.config.schema import Config, DeploymentConfig
from llmgw_core.config.schema_brake import brake_of
from llmgw_core.config.secret_files import secrets_of
from llmgw_core.domain.errors import ConfigError
from llmgw_core.domain.failure import UpstreamFailure
from llmgw_core.hooks.context import PluginContext
from llmgw_core.hooks.foreign import Foreign
from llmgw_core.hooks.host import PluginHost
from llmgw_core.hooks.registry import Parts, chosen
from llmgw_core.limits.memory import MemoryLimiter
from llmgw_core.limits.specs import require_able
from llmgw_core.pipeline.admission import Admission
from llmgw_core.pipeline.attempts import Attempts
from llmgw_core.pipeline.balancing import chosen_balancers, roster
from llmgw_core.pipeline.books import Books
from llmgw_core.pipeline.braking import BrakeSection
from llmgw_core.pipeline.day_meters import day_meters
from llmgw_core.pipeline.endings import Held
from llmgw_core.pipeline.entrance import Entrance
from llmgw_core.pipeline.estimates import Estimates, counters_of
from llmgw_core.pipeline.explaining import Explainer
from llmgw_core.pipeline.foreign_balancer import ForeignBalancer
from llmgw_core.pipeline.keep_alive import kept_alive
from llmgw_core.pipeline.lane import covers_model
from llmgw_core.pipeline.overload import held_back
from llmgw_core.pipeline.probing import Target
from llmgw_core.pipeline.revealing import revealing
from llmgw_core.pricing import price_problems, price_sources
from llmgw_core.routing.queue import NoQueue
from llmgw_core.routing.queue_fair import FairQueue
from llmgw_core.routing.strategies import BALANCERS
from llmgw_core.tenancy.switching import Switchable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence, Set
    from pathlib import Path

    from llmgw_core.domain.deployment import Deployment, Model, Origin
    from llmgw_core.foundation import Foundation
    from llmgw_core.limits.port import Limiter
    from llmgw_core.routing.state import RoutingMemory

PLUGIN_DATA = "llmgw-data"
"""Directory beside the configuration in which every plugin has a directory of its own."""


class Generation:
    """Made whole by the constructor; `host.startup` before the first call, `aclose` after the
    last. `number` counts from 1."""

    def __init__(
        self,
        number: int,
        config: Config,
        host: PluginHost,
        models: dict[str, Model],
        foundation: Foundation,
    ) -> None:
        self.number = number
        self.config = config
        self.host = host
        self.models = models
        self.sources = price_sources(config, host.prices, foundation.sheets.add)
        self.prices = PriceBook(config.models, self.sources)
        used = {each.tokenizer.name for each in config.models.values() if each.tokenizer}
        counting = {name: host.tokenizer_factories[name] for name in used}
        self.books = Books(
            prices=self.prices,
            journal=foundation.journal,
            estimator=foundation.estimator,
            estimates=Estimates(
                foundation.estimator,
                counters_of(config, counting, foundation.made),
            ),
            stats=foundation.stats,
            host=host,
            clock=time.monotonic,
            currency=config.accounting.currency,
            budgets=foundation.budgets.book,
            brakes=foundation.brakes,
            noting=foundation.noting,
        )
        chosen = chosen_balancers(config, host.balancers, foundation.memory.clock)
        self.factories: Set[Callable[[], Any]] = {
            host.limiters[config.limits.limiter],
            host.queues[config.routing.overload.queue],
            *chosen.values(),
            *counting.values(),
        }
        self.limiter: Limiter = foundation.made(host.limiters[config.limits.limiter])
        require_able(self.limiter, self.models.values())
        foundation.shadow.watch(self.limiter)
        self.balancers = {name: foundation.made(each) for name, each in chosen.items()}
        foundation.memory.adopt(self.all_deployments())
        self.roster = roster(
            self.models,
            self.balancers,
            foundation.memory,
            prices=self.prices,
            refuse_unpriced=config.accounting.unpriced == "refuse",
            estimator=foundation.estimator,
            caps=foundation.caps,
        )
        self.entrance = self._assemble(foundation)
        foundation.secrets.add(secrets_of(self.all_deployments()))
        host.bind_deployments(self.deployments)
        host.bind_calls(self.entrance.handle)
        foundation.switchboard.follow(self)

    def deployments(self, backend: str) -> tuple[Deployment, ...]:
        """Every configured deployment that names `backend`."""
        return tuple(each for each in self.all_deployments() if each.backend == backend)

    def all_deployments(self) -> tuple[Deployment, ...]:
        """Every configured deployment."""
        return tuple(each for model in self.models.values() for each in model.deployments)

    async def count_before(self, foundation: Foundation) -> None:
        """Have budgets and limits by the day know what was used before this process. Comes before
        the first call. Raises `StoreUnavailable` and `ConfigError`."""
        now_ns = time.time_ns()
        async with foundation.store.connect() as connection:
            days = await day_meters(connection, self.models, covers_model, now_ns)
        await foundation.budgets.start(days.count if days else None)
        days.restore(getattr(self.limiter, "restore", None), foundation.caps.restore, now_ns)

    def switchable(self) -> Switchable:
        """The names of what can be switched."""
        return Switchable(
            deployments=[deployment.id for deployment in self.all_deployments()],
            models={name: model.kind for name, model in self.models.items()},
            plugins=[plugin.name for plugin in self.host.plugins],
        )

    def forget_lanes(self) -> None:
        """What was compiled for principals is out of date."""
        self.admission.forget_lanes()

    def identities(self) -> set[object]:
        """Of every configured deployment."""
        return {deployment.identity for deployment in self.all_deployments()}

    def ways(self) -> set[Way]:
        """How its calls go out."""
        return {way_of(deployment) for deployment in self.all_deployments()}

    def origins(self) -> set[Origin]:
        """Where its calls may go now."""
        found = set()
        for deployment in self.all_deployments():
            with Foreign(deployment.backend, "origin", "continue", passes=(UpstreamFailure,)):
                try:
                    found.add(self.host.backends[deployment.backend].origin(deployment))
                except UpstreamFailure:
                    continue  # nowhere, at the moment
        return found

    def watch_health(self, foundation: Foundation) -> None:
        """From now on the health of these deployments is watched as this configuration says, and
        these plugins hear of it."""
        foundation.health.configure(self.models.values())
        foundation.health.tell = self.host.observe_health
        foundation.leases.keep(self.limiter)
        foundation.shadow.tell = foundation.brake_watch.tell = self.host.observe_audit
        probed = [each for each in self.all_deployments() if each.rules.probes.enabled]
        transports = foundation.transports.take(probed)
        foundation.prober.follow(
            Target(each, self.host.backends[each.backend], transports[each.id]) for each in probed
        )

    def share_anew(self, old: Generation, memory: RoutingMemory) -> None:
        """Let the balancers begin anew with those models of `old` whose calls are shared out
        differently now."""
        changed: list[Deployment] = []
        for name, model in old.models.items():
            after = self.models.get(name)
            if after is None or model.weights() != after.weights():
                changed += model.deployments
        memory.forget_turns(changed)
        for name, balancer in self.balancers.items():
            if isinstance(balancer, ForeignBalancer):  # the gateway's own keep nothing themselves
                balancer.forget([each for each in changed if each.model == name])

    def result(self, changed: tuple[str, ...], old: Generation, seconds: float) -> ReloadResult:
        """What a reload says that went on from `old` with this one and took `seconds`."""
        kept = tuple(each.name for each in self.host.plugins if each in old.host.plugins)
        return ReloadResult(generation=self.number, changed=changed, kept=kept, seconds=seconds)

    async def aclose(self, seconds: float) -> None:
        """Settle what is still under way, which is nothing unless the gateway is closing, and
        shut down the plugins that no later generation has kept, within `seconds`."""
        self.books.close()
        await self.host.shutdown(seconds)

    def _assemble(self, foundation: Foundation) -> Entrance:
        config, host, books = self.config, self.host, self.books
        limits, streams = config.requests, config.routing.streams
        overload = config.routing.overload
        refuse_unpriced = config.accounting.unpriced == "refuse"
        deliver = revealing(
            routes=config.routing.reply_headers,
            costs=config.reports.cost_header,
            budgets=config.budgets.reply_headers,
        )
        delivery = deliver(
            host=host,
            limiter=self.limiter,
            reply_bytes=limits.reply_bytes,
            held=Held(streams.held_bytes, streams.held_events),
            clock=time.monotonic,
            estimates=books.estimates if books.estimates.counters else None,
        )
        self.admission = Admission(
            host=host,
            principals=foundation.principals,
            models=self.models,
            limiter=self.limiter,
            prices=self.prices,
            rollouts=foundation.rollouts,
            books=books,
            budgets=foundation.budgets,
            brakes=BrakeSection(*brake_of(config.brake)),
            body_bytes=limits.body_bytes,
            refuse_unpriced=refuse_unpriced,
            switchboard=foundation.switchboard,
            roster=self.roster,
        )
        attempts = Attempts(
            host=host,
            transports=foundation.transports.take(self.all_deployments()),
            memory=foundation.memory,
            stats=foundation.stats,
            reply_bytes=limits.reply_bytes,
            refuse_unpriced=refuse_unpriced,
            estimate=self.admission.spending.estimate,
        )
        self.explainer = Explainer(
            admission=self.admission,
            attempts=attempts,
            host=host,
            principals=foundation.principals,
            models=self.models,
            memory=foundation.memory,
            limiter=self.limiter,
            prices=self.prices,
            switchboard=foundation.switchboard,
            rollouts=foundation.rollouts,
            refuse_unpriced=refuse_unpriced,
            clock=time.monotonic,
            wall_clock_ns=time.time_ns,
        )
        return Entrance(
            admission=self.admission,
            attempts=kept_alive(
                held_back(
                    attempts,
                    overload,
                    foundation.doors,
                    foundation.made(host.queues[overload.queue]),
                ),
                delivery,
                streams.keep_alive_seconds,
            ),
            delivery=delivery,
            host=host,
            stats=foundation.stats,
            clock=time.monotonic,
            wall_clock_ns=time.time_ns,
        )


def own_parts(limiter_clock: Callable[[], float] = time.monotonic) -> Parts:
    """What the gateway itself brings to what plugins may register."""
    return Parts(
        balancers=BALANCERS,
        limiters={"memory": lambda: MemoryLimiter(limiter_clock)},
        queues={"none": NoQueue, "fair": FairQueue},
    )


def load_plugins(
    config: Config,
    base: Path,
    plugins: Sequence[tuple[str, type[Any]]] = (),
    *,
    own: Parts | None = None,
    reuse: PluginHost | None = None,
    changed: Collection[str] = (),
) -> PluginHost:
    """The enabled plugins, made but not started, with everything that the configuration names
    of what plugins can register. `reuse` is the host before this one, `changed` are the backends
    that have other deployments now. Raises `ConfigError`."""
    outgoing = outgoing_of(config.outgoing, None, os.environ, "outgoing")

    def context_for(name: str) -> PluginContext:
        return PluginContext(
            name, data_dir=base / PLUGIN_DATA / name, open_http=partial(open_session, outgoing)
        )

    host = PluginHost.load(
        config.plugins,
        context_for=context_for,
        extra=plugins,
        own=own or own_parts(),
        reuse=reuse,
        changed=changed,
    )
    chosen("limiter", host.limiters, config.limits.limiter, "limits.limiter")
    chosen("queue", host.queues, config.routing.overload.queue, "routing.overload.queue")
    chosen_balancers(config, host.balancers, time.monotonic)
    for name, model in config.models.items():
        if model.tokenizer is not None:
            path = f"{join('models', name)}.tokenizer.name"
            chosen("tokenizer", host.tokenizer_factories, model.tokenizer.name, path)
    return host


def load_models(config: Config, host: PluginHost) -> dict[str, Model]:
    """The typed models, each deployment checked by its backend. Raises `ConfigErrors`."""
    models, errors = examine_models(config, host)
    raise_all(errors)
    return models


def load_models_after(
    living: Iterable[Generation], config: Config, host: PluginHost
) -> dict[str, Model]:
    """As `load_models`; the deployments that `living` generations have as well, the newest first,
    keep their identities. What a host has begun to clear away is not used again."""
    known = (each for old in living if not old.host.closed for each in old.all_deployments())
    return with_identities(load_models(config, host), known)


def examine_models(config: Config, host: PluginHost) -> tuple[dict[str, Model], list[ConfigError]]:
    """The typed models as far as they can be made, and everything that is wrong with them."""
    models, errors = collect_models(
        config, {name: backend.Options for name, backend in host.backends.items()}
    )
    for model in models.values():
        place = join(join("models", model.name), "deployments")
        for index, deployment in enumerate(model.deployments):
            if deployment.options is None:
                continue  # wrong, and said already
            try:
                with Foreign(deployment.backend, "check", "stop"):
                    host.backends[deployment.backend].check(deployment)
            except ConfigError as error:
                found = error.errors if isinstance(error, ConfigErrors) else (error,)
                errors.extend(_placed(each, join(place, index)) for each in found)
    errors += price_problems(config, host.prices, dt.datetime.now(dt.UTC).date())
    return models, errors


def _placed(error: ConfigError, deployment: str) -> ConfigError:
    """What a backend says about the deployment at that path. Its own path names an option, or a
    key of the deployment itself."""
    if not error.path:
        return ConfigError(error.message, path=deployment)
    inside = error.path.partition(".")[0] in DeploymentConfig.__struct_fields__
    section = deployment if inside else join(deployment, "options")
    return ConfigError(error.message, path=f"{section}.{error.path}")
