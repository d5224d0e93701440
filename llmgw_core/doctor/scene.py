"""A gateway with the configuration and the callers of another one, in which canaries may do what
they like.

It is composed by the code that composes every gateway: the same admission, meters, lanes, routing
and settlement. Different are the upstreams (an echo of this process), the books (a directory that
vanishes), the plugins (none runs: they might act on the world; of the price lists that they bring
the prices are taken), and the limiter's clock, which is moved instead of waited for. Of the real
store nothing but organisations, teams, users and keys is read, and where there is none, none is
made.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec
from msgspec.structs import replace

from llmgw_core.config.schema import LimitsConfig, ServerConfig, StoreConfig
from llmgw_core.config.schema_budgets import BudgetsConfig
from llmgw_core.config.schema_routing import DeploymentRouting, ModelRouting, RoutingConfig
from llmgw_core.doctor.echo import BACKEND, echoing, listing
from llmgw_core.domain.access import Subject
from llmgw_core.domain.call import Call, Endpoint, Head
from llmgw_core.gateway import Gateway, load_plugins
from llmgw_core.inprocess.memory import MemoryBody, MemorySink
from llmgw_core.pipeline.exchange import Exchange
from llmgw_core.store.engine import Store
from llmgw_core.store.principals import StorePrincipals
from llmgw_core.tenancy.records import KEY, KINDS
from llmgw_core.tenancy.service import Tenancy
from llmgw_core.wire.request import decode_request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from llmgw_core.config.schema import Config, DeploymentConfig, ModelConfig
    from llmgw_core.config.schema_prices import CatalogueEntry
    from llmgw_core.domain.access import LevelKind, Principal
    from llmgw_core.limits.budgets import Need
    from llmgw_core.limits.memory import MemoryLimiter
    from llmgw_core.limits.port import MeterSpec
    from llmgw_core.pipeline.lane import Lane
    from llmgw_core.tenancy.records import LevelInfo

REST = 3 * 86_400.0
"""Seconds after which no window and no bucket holds anything."""
CAPPED = "canary-of-deployment-"
"""How the models begin that have a capped deployment to themselves."""


class Clock:
    """Of all meters; moves when told to."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        """The present."""
        return self.now


class Canary(NamedTuple):
    """What became of a canary call. `rule` is what has decided about a refusal."""

    status: int
    rule: str
    code: str
    retry_after: float

    @property
    def sings(self) -> bool:
        """It got through."""
        return self.status == 200


class Way(NamedTuple):
    """A caller, a model that it may ask for, and the lane that such a call takes."""

    principal: Principal
    name: str
    lane: Lane


class Callers(msgspec.Struct, frozen=True):
    """What was read from the store: all objects, and the principals of keys that work, by id."""

    levels: tuple[tuple[LevelKind, LevelInfo], ...]
    principals: dict[str, Principal]


class Scene:
    """The gateway, and everything that canaries need."""

    def __init__(self, gateway: Gateway, clock: Clock, config: Config, callers: Callers) -> None:
        self.gateway = gateway
        self.clock = clock
        self.config = config
        """That of the real gateway."""
        self.callers = callers
        self.canaries = 0
        self.limiter = cast("MemoryLimiter", gateway.limiter)
        self.caps = gateway.caps
        # Of what canaries use up nobody has to hear.
        gateway.budgets.book.tell = lambda _: None
        gateway.brakes.tell = lambda _: None
        self._ways: list[Way] | None = None
        self._known: dict[str, list[Way]] = {}

    def rest(self) -> None:
        """Let time pass until nothing is counted any more."""
        self.clock.now += REST
        for account in self.gateway.budgets.book.accounts():
            for counter in account.counters.values():
                counter.current.spent = 0

    def need(self, way: Way) -> Need:
        """What a canary may need of budgets."""
        endpoint, body = self._body(way.name)
        request = decode_request(msgspec.json.encode(body), endpoint)
        call = Call("", endpoint, Head("POST", "/", ()), 0.0, time.time_ns())
        call.request = request
        admission = self.gateway.admission
        input_tokens, tokens = admission.demand(call, way.lane)
        return admission.spending.estimate.first(call, way.lane, input_tokens, tokens)

    async def send(self, principal: Principal, name: str) -> Canary:
        """One small call."""
        self.canaries += 1
        refused = len(self.gateway.stats.refused)
        before = self.gateway.stats.refused[-1] if refused else None
        endpoint, body = self._body(name)
        path = "/v1/chat/completions" if endpoint == "chat.completions" else "/v1/embeddings"
        head = Head("POST", path, ((b"content-type", b"application/json"),))
        sink = MemorySink()
        await self.gateway.handle(head, MemoryBody(msgspec.json.encode(body)), sink, principal)
        after = self.gateway.stats.refused[-1] if self.gateway.stats.refused else None
        rule = after.rule if after is not None and after is not before else ""
        code = "" if sink.status == 200 else _code(sink.body)
        return Canary(sink.status, rule, code, float(sink.headers.get("retry-after", "0")))

    async def usual_tokens(self, way: Way) -> tuple[int, int]:
        """Tokens of the input of a canary, and of the output that is expected of the model."""
        endpoint, body = self._body(way.name)
        request = decode_request(msgspec.json.encode(body), endpoint)
        estimator = self.gateway.books.estimator
        name = way.lane.model.name
        output = 0 if endpoint == "embeddings" else estimator.expected_output(name)
        return estimator.input_tokens(name, request.text_bytes), output

    def _body(self, name: str) -> tuple[Endpoint, dict[str, Any]]:
        if self.gateway.catalog[name].kind == "embedding":
            return "embeddings", {"model": name, "input": "ping"}
        message = {"role": "user", "content": "ping"}
        return "chat.completions", {"model": name, "messages": [message], "max_tokens": 1}

    def fill(self, limiter: MemoryLimiter, spec: MeterSpec, amount: int) -> Callable[[], None]:
        """Count `amount` in a meter as if calls had. Returns what takes parallel calls back."""
        counter = limiter.counter(spec)
        booking = counter.count(amount, self.clock.now)
        return lambda: counter.end(booking, amount, 0, self.clock.now)

    async def ways(self) -> list[Way]:
        """All that callers may ask for; of keys that differ in nothing but their ids, one."""
        if self._ways is None:
            self._ways = [
                way for principal in self._distinct() for way in await self._ways_of(principal)
            ]
            for way in self._ways:
                for spec in way.lane.specs:
                    self._known.setdefault(spec.id, []).append(way)
        return self._ways

    def through(self, meter: str) -> list[Way]:
        """The ways whose calls meet the meter with that id."""
        return self._known.get(meter, [])

    def usable(self) -> list[Way]:
        """All ways, once they are known."""
        return self._ways or []

    def _distinct(self) -> list[Principal]:
        found: dict[Any, Principal] = {}
        for principal in self.callers.principals.values():
            *above, own = principal.levels
            plain = own == type(own)(own.kind, own.id, name=own.name)
            found.setdefault(tuple(above) if plain else principal, principal)
        return list(found.values())

    async def _ways_of(self, principal: Principal) -> list[Way]:
        exchange = Exchange(
            Call("", "chat.completions", Head("POST", "/", ()), 0.0, 0), MemorySink()
        )
        exchange.call.principal = principal
        await self.gateway.admission.recognize(exchange)
        lanes = exchange.lanes
        assert lanes is not None
        ways = []
        for name in self.gateway.catalog:
            lane = None if name.startswith(CAPPED) else lanes.lane(name)
            if lane is None:
                continue
            if lane.choice is not None:
                variants = [each.lane for each in lane.choice.variants.listed]
                ways += [Way(principal, name, each) for each in variants]
            elif lane.candidates.tiers:
                ways.append(Way(principal, name, lane))
        return ways


def _code(body: bytes) -> str:
    try:
        return str(msgspec.json.decode(body)["error"]["code"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return ""


@asynccontextmanager
async def replica(config: Config, base: Path) -> AsyncIterator[Scene]:
    """A scene with the callers in the store of `config`. Raises `ConfigError` and
    `StoreUnavailable`."""
    callers = await _callers(Store(config.store.url))
    clock = Clock()
    with TemporaryDirectory(prefix="llmgw-doctor-") as directory:
        async with echoing() as port:
            copy = copied(config, Path(directory), port)
            plugins = [("llmgw-doctor", listing(_catalogue(config, base)))]
            async with Gateway.open(
                copy, base_dir=base, plugins=plugins, limiter_clock=clock
            ) as gateway:
                scene = Scene(gateway, clock, config, callers)
                await scene.ways()
                yield scene


def _catalogue(config: Config, base: Path) -> Mapping[str, Sequence[CatalogueEntry]]:
    """What plugins list, if any price is taken from there: they are made, and never started."""
    entries = [
        entry
        for model in config.models.values()
        for each in (model.prices, *(deployment.prices for deployment in model.deployments))
        for entry in each
    ]
    if not any(entry.catalogue for entry in entries):
        return {}
    return load_plugins(config, base).prices


def copied(config: Config, directory: Path, port: int) -> Config:
    """`config` with the echo as every upstream, and books of its own."""
    models = {name: _model(model, port) for name, model in config.models.items()}
    for model in config.models.values():
        for each in model.deployments:
            if each.caps != type(each.caps)():
                alone = replace(_deployment(each, port), weight=1, priority=0)
                models[f"{CAPPED}{len(models)}"] = replace(
                    _model(replace(model, fallbacks=()), port),
                    deployments=(replace(alone, caps=each.caps),),
                    limits=type(model.limits)(),
                )
    return replace(
        config,
        models=models,
        plugins=(),
        server=ServerConfig(),
        store=StoreConfig(url=f"sqlite:///{directory}/doctor.db"),
        accounting=replace(
            config.accounting,
            journal=str(directory / "journal"),
            unpriced="zero",
            segment_bytes=1 << 16,
            move_interval=3600.0,
        ),
        routing=RoutingConfig(),
        limits=LimitsConfig(),
        budgets=BudgetsConfig(),
        outgoing=type(config.outgoing)(),
    )


def _model(model: ModelConfig, port: int) -> ModelConfig:
    deployments = tuple(
        replace(_deployment(each, port), caps=type(each.caps)()) for each in model.deployments
    )
    return replace(model, deployments=deployments, routing=ModelRouting(), tokenizer=None)


def _deployment(deployment: DeploymentConfig, port: int) -> DeploymentConfig:
    return replace(
        deployment,
        backend=BACKEND,
        credential="",
        credentials=(),
        transport="httptools",
        routing=DeploymentRouting(),
        outgoing=None,
        options={"port": port},
    )


async def _callers(store: Store) -> Callers:
    """Read only."""
    if not store.exists:
        return Callers((), {})
    await store.open()
    try:
        tenancy, source = Tenancy(store), StorePrincipals(store)
        levels = [
            (kind.level, info) for kind in KINDS.values() for info in await tenancy.find_all(kind)
        ]
        principals = {}
        for info in await tenancy.find_all(KEY):
            found = await source.find_subject(Subject(key=info.id))
            if found is not None:
                principals[info.id] = found
        return Callers(tuple(levels), principals)
    finally:
        await store.aclose()
