"""What lives as long as the gateway, whatever configuration it runs with: books, tenancy, meters,
what was learned, connections, the balance of deployments.

Everything here is keyed by identities (keys, deployments, origins, names of models), so that a
reload leaves it alone. What follows from one configuration is a `Generation`.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from llmgw_core.access.principals import PrincipalCache
from llmgw_core.accounting.journal import Journal
from llmgw_core.accounting.mover import Mover
from llmgw_core.accounting.notes import Notes
from llmgw_core.accounting.sheet_shelf import PricedLedger, SheetShelf
from llmgw_core.accounting.sole import SoleGateway
from llmgw_core.backends.transport.plugin_http import open_session
from llmgw_core.backends.transport.registry import TransportRegistry
from llmgw_core.config.outgoing import outgoing_of
from llmgw_core.config.secret_files import SecretWatch
from llmgw_core.domain.errors import ConfigError, StoreUnavailable
from llmgw_core.limits.brake_book import BrakeBook
from llmgw_core.limits.budget_book import BudgetBook
from llmgw_core.limits.estimate import TokenEstimator
from llmgw_core.pipeline.brake_events import BrakeWatch
from llmgw_core.pipeline.budget_alerts import BudgetAlerts, message_of
from llmgw_core.pipeline.budget_keeper import BudgetKeeper
from llmgw_core.pipeline.leases import Leases
from llmgw_core.pipeline.lost_calls import LostCalls
from llmgw_core.pipeline.noting import Noting
from llmgw_core.pipeline.overload import Doors
from llmgw_core.pipeline.prober import Prober
from llmgw_core.pipeline.shadow import ShadowWatch
from llmgw_core.pipeline.stats import Stats
from llmgw_core.pipeline.switchboard import Switchboard
from llmgw_core.pipeline.webhook import Hook, Webhook
from llmgw_core.routing.health import Health
from llmgw_core.routing.rollouts import LiveRollouts
from llmgw_core.routing.state import RoutingMemory
from llmgw_core.store.control import ControlWatch
from llmgw_core.store.engine import Store
from llmgw_core.store.learned import LearnedLengths
from llmgw_core.store.learned_spending import LearnedSpending
from llmgw_core.store.ledger import Ledger
from llmgw_core.store.price_sheets import store_sheets
from llmgw_core.store.principals import StorePrincipals
from llmgw_core.store.retention import Retention
from llmgw_core.store.rollout_queries import all_rollouts
from llmgw_core.store.switch_queries import current as current_switches
from llmgw_core.tenancy.embedding_targets import EmbeddingTargets
from llmgw_core.tenancy.taken_out import TakenOut

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Set
    from contextlib import AsyncExitStack

    import aiohttp

    from llmgw_core.backends.transport.registry import Way
    from llmgw_core.config.schema import Config
    from llmgw_core.domain.deployment import Origin
    from llmgw_core.hooks.registry import Parts
    from llmgw_core.limits.memory import MemoryLimiter
    from llmgw_core.tenancy.records import AuditEntry

T = TypeVar("T")


class Living(Protocol):
    """What a generation says about what it uses."""

    factories: Set[Callable[[], Any]]

    def identities(self) -> Set[object]:
        """Of its deployments."""
        ...

    def ways(self) -> Set[Way]:
        """How its calls go out."""
        ...

    def origins(self) -> Set[Origin]:
        """Where its calls may go now."""
        ...


class Foundation:
    """Made by `open`; what it holds is closed by the stack that it was given."""

    def __init__(
        self,
        config: Config,
        store: Store,
        journal: Journal,
        own: Parts,
    ) -> None:
        self.own = own
        """What the gateway itself brings to what plugins may register."""
        self.store = store
        self.control = ControlWatch(store, staleness=config.store.staleness)
        """Reads what the command line has put into the store."""
        self.ledger = Ledger(store)
        self.journal = journal
        self.sheets = SheetShelf(journal.root, partial(store_sheets, store))
        self.mover = Mover(
            journal.root,
            journal,
            PricedLedger(self.ledger, self.sheets),
            interval=config.accounting.move_interval,
        )
        self.principals = PrincipalCache(
            StorePrincipals(store),
            staleness=config.store.staleness,
            serve_stale=config.store.serve_stale,
        )
        self.stats = Stats()
        self.noting = Noting(Notes(journal), self.stats, time.monotonic)
        self.mover.running_calls = self.noting.running
        self.doors = Doors(self.stats, time.monotonic)
        self.estimator = TokenEstimator(config.requests.default_output_tokens)
        self.learned = LearnedLengths(store, self.estimator)
        self.transports = TransportRegistry()
        self.memory = RoutingMemory(time.monotonic)
        self.memory.ramp = config.routing.ramp
        self.caps = cast("MemoryLimiter", own.limiters["memory"]())
        """What is counted against the caps of deployments: always in this process."""
        self.lost = LostCalls(self.stats.books, time.monotonic)
        self.leases = Leases(self.stats.books)
        self.shadow = ShadowWatch(self.stats)
        self.shadow.watch(self.caps)
        self.health = Health(self.memory, time.time_ns)
        self.prober = Prober(self.memory, self.health, random.random)
        self.taken_out = TakenOut()
        self.rollouts = LiveRollouts(self.taken_out.add)
        self.control.add(all_rollouts, self.rollouts.apply)
        self.targets = EmbeddingTargets(store)
        self.switchboard = Switchboard(
            self.memory, forget_principals=self.principals.forget_derived
        )
        self.control.add(lambda at: current_switches(at, time.time()), self.switchboard.apply)
        self.alerts = BudgetAlerts(store, time.time)
        self.budgets = BudgetKeeper(BudgetBook(self.alerts.tell), store, self.mover, time.time_ns)
        self.control.add(self.budgets.read, self.budgets.apply)
        self.brake_watch = BrakeWatch()
        self.brakes = BrakeBook(self.caps.clock, time.time, self.brake_watch.heard)
        self.brakes.runs.idle = config.brake.idle_seconds
        self.usual = LearnedSpending(store, self.brakes.runs)
        self.webhook = Webhook(partial(_open_session, config), time.time)
        self.webhook.configure(_hook(config))
        self._currency = config.accounting.currency
        self.alerts.listeners.append(self._tell_webhook)
        self.retention = Retention(store, config.accounting.retention, time.time_ns)
        self.secrets = SecretWatch()
        self._made: dict[Callable[[], Any], Any] = {}

    @classmethod
    async def open(cls, stack: AsyncExitStack, config: Config, own: Parts) -> Foundation:
        """Open the store, take the lock and the journal. What comes later than this on `stack`
        is closed before them. Raises `ConfigError` and `StoreUnavailable`."""
        store = Store(config.store.url)
        await store.open()
        stack.push_async_callback(store.aclose)
        sole, journal = _open_books(config)
        stack.callback(sole.close)
        stack.callback(journal.close)
        foundation = cls(config, store, journal, own)
        stack.callback(foundation.noting.close)
        return foundation

    def made(self, factory: Callable[[], T]) -> T:
        """What `factory` has made, once: a balancer or limiter keeps its state as long as
        whoever registered it stays."""
        if factory not in self._made:
            self._made[factory] = factory()
        return cast("T", self._made[factory])

    def close_with(self, stack: AsyncExitStack) -> None:
        """Have `stack` close what calls need to the end."""
        stack.push_async_callback(self.transports.aclose)
        stack.push_async_callback(self.learned.aclose)
        stack.push_async_callback(self.usual.aclose)
        stack.push_async_callback(self.secrets.aclose)
        stack.push_async_callback(self.mover.aclose)
        stack.push_async_callback(self.webhook.aclose)
        stack.push_async_callback(self.alerts.aclose)

    def start(self, stack: AsyncExitStack) -> None:
        """Begin what runs in the background. The first call comes after this."""
        stack.push_async_callback(self.principals.aclose)
        stack.push_async_callback(self.taken_out.aclose)
        stack.callback(self.switchboard.close)
        stack.push_async_callback(self.budgets.aclose)
        stack.push_async_callback(self.control.aclose)
        self.memory.begin()
        self.principals.start()
        self.control.start()
        self.mover.start()
        stack.push_async_callback(self.retention.aclose)
        self.retention.start()
        self.alerts.start()
        self.learned.start()
        self.usual.start()
        self.webhook.start()
        self.secrets.start()
        stack.push_async_callback(self.prober.aclose)
        self.prober.start()
        stack.push_async_callback(self.lost.aclose)
        self.lost.start()
        stack.push_async_callback(self.leases.aclose)

    async def take_over(self) -> None:
        """Something was put into the store by this process: have it in force now. When the store
        does not answer any more, the watch sees to it as soon as it does."""
        with contextlib.suppress(StoreUnavailable):
            await self.control.refresh()

    async def recognize_anew(self) -> None:
        """This process has changed something about callers: have it in force now. When the store
        does not answer any more, the cache sees to it as soon as it does."""
        with contextlib.suppress(StoreUnavailable):
            # The first one may be a question that was under way before the change.
            await self.principals.poll()
            await self.principals.poll()

    async def spend_anew(self) -> None:
        """This process has changed budgets: have them in force now, as far as that can be done."""
        await self.recognize_anew()
        await self.take_over()

    async def retain(self, alive: Collection[Living]) -> None:
        """Forget and close what no generation has any more."""
        identities = _all(each.identities() for each in alive)
        self.health.retain(identities)
        self.memory.retain(identities)
        factories = _all(each.factories for each in alive)
        for factory in [factory for factory in self._made if factory not in factories]:
            made = self._made.pop(factory)
            if hasattr(made, "aclose"):  # balancers have nothing to close
                await made.aclose()
        self.doors.retain(self._made.values())
        await self.transports.retain(
            _all(each.ways() for each in alive), _all(each.origins() for each in alive)
        )

    def _tell_webhook(self, entry: AuditEntry) -> None:
        message = message_of(entry, self._currency)
        self.webhook.send(message["id"], message)

    def configure(self, config: Config) -> None:
        """Take over what a new configuration says about these parts. Cannot fail."""
        self.memory.ramp = config.routing.ramp
        self.memory.begin()
        self.control.configure(staleness=config.store.staleness)
        self.principals.configure(
            staleness=config.store.staleness, serve_stale=config.store.serve_stale
        )
        # Lanes hold meters with their limits, candidates and prices.
        self.principals.forget_derived()
        self.mover.interval = config.accounting.move_interval
        self.webhook.configure(_hook(config), partial(_open_session, config))
        self._currency = config.accounting.currency
        self.retention.config = config.accounting.retention
        self.brakes.runs.idle = config.brake.idle_seconds
        self.estimator.expect(config.requests.default_output_tokens)


def _hook(config: Config) -> Hook | None:
    told = config.budgets
    if not told.webhook:
        return None
    return Hook(told.webhook, told.webhook_secret, told.webhook_timeout, told.webhook_attempts)


def _open_session(config: Config) -> aiohttp.ClientSession:
    return open_session(outgoing_of(config.outgoing, None, os.environ, "outgoing"))


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


def _all(sets: Iterable[Set[T]]) -> set[T]:
    return set().union(*sets)
