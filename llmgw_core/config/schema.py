"""The typed configuration: what a `llmgw.yaml` may say, and nothing else.

Every struct forbids unknown keys. Sections of plugins and the `options` of deployments stay
raw here; the plugin host decodes them with the type that the plugin declares.
"""

from __future__ import annotations

import datetime  # noqa: ICN001, TC003 -- msgspec reads the annotations at run time
from decimal import Decimal
from typing import Any, Literal

import msgspec

from llmgw_core.domain.access import NO_LIMITS, Limits
from llmgw_core.domain.deployment import Timeouts


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every section: immutable, unknown keys refused."""


class TokenPrices(Section, frozen=True):
    """Amounts in whole units of the installation's currency. `input`, `output` and
    `cached_input` are per million tokens, `call` is per call. `cached_input` defaults to
    `input`."""

    input: Decimal = Decimal(0)
    output: Decimal = Decimal(0)
    cached_input: Decimal | None = None
    call: Decimal = Decimal(0)


class PriceEntry(Section, frozen=True, rename={"valid_from": "from"}):
    """Prices that hold from the start of the day `from` (UTC) until the next entry. `cost` is
    what the provider bills; `charge` what tenants pay, by default the same."""

    valid_from: datetime.date
    cost: TokenPrices
    charge: TokenPrices | None = None


class DeploymentConfig(Section, frozen=True):
    """One deployment of a model. `model` is the name that the backend knows (default: the
    public one). `prices`, if given, replace the model's. `transport: aiohttp` opens a connection
    for every request: aiohttp cannot tell a reply that nobody asked for from the next one.
    `on_disconnect: drain` reads a reply to its end although the client has left, so that its
    usage is exact."""

    name: str
    backend: str
    zone: str
    model: str = ""
    weight: int = 1
    credential: str = ""
    transport: Literal["httptools", "aiohttp"] = "httptools"
    timeouts: Timeouts = Timeouts()
    on_disconnect: Literal["cancel", "drain"] = "cancel"
    prices: tuple[PriceEntry, ...] = ()
    options: dict[str, Any] = {}

    def __repr__(self) -> str:
        """Names only: `credential` and `options` may hold secrets."""
        return f"DeploymentConfig(name={self.name!r}, backend={self.backend!r}, zone={self.zone!r})"


class ModelConfig(Section, frozen=True):
    """One public model name."""

    deployments: tuple[DeploymentConfig, ...]
    kind: Literal["chat", "embedding"] = "chat"
    fallbacks: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    limits: Limits = NO_LIMITS
    prices: tuple[PriceEntry, ...] = ()
    created: datetime.date | None = None


class PluginConfig(Section, frozen=True):
    """One enabled plugin; the order of the list is the order of the hooks. `path: FILE.py` (or
    `FILE.py:Class`, relative to the configuration file) takes it from a file, without it the
    plugin is an installed one. `on_error: open` lets a call go on when this plugin fails in a
    hook that would otherwise stop it. `timeout` (seconds) bounds each awaited hook."""

    name: str
    config: dict[str, Any] = {}
    on_error: Literal["closed", "open"] = "closed"
    timeout: float = 30.0
    path: str = ""

    def __repr__(self) -> str:
        """Without `config`, which may hold secrets."""
        return (
            f"PluginConfig(name={self.name!r}, path={self.path!r}, on_error={self.on_error!r},"
            f" timeout={self.timeout!r})"
        )


class StoreConfig(Section, frozen=True):
    """`url`: `sqlite:///FILE` (relative to the configuration file). `staleness`: seconds that a
    change may take to reach cached principals. `serve_stale`: seconds that known principals
    are served while the store is down."""

    url: str = "sqlite:///llmgw.db"
    staleness: float = 5.0
    serve_stale: float = 3600.0

    def __repr__(self) -> str:
        """Without `url`, which may hold a password."""
        return f"StoreConfig(staleness={self.staleness!r}, serve_stale={self.serve_stale!r})"


class AccountingConfig(Section, frozen=True):
    """`unpriced: refuse` makes a model without a valid price an error; `zero` books it at zero.
    `journal`: directory (relative to the configuration file). `fsync: always` writes every
    record through to the disk; `os` leaves it to the operating system (survives the process,
    not the machine)."""

    currency: str = "USD"
    unpriced: Literal["refuse", "zero"] = "refuse"
    journal: str = "journal"
    segment_bytes: int = 16 * 1024 * 1024
    fsync: Literal["os", "always"] = "os"
    move_interval: float = 1.0


class RequestLimits(Section, frozen=True):
    """Caps and deadlines on what clients send. Bytes and seconds."""

    body_bytes: int = 32 * 1024 * 1024
    body_seconds: float = 60.0
    reply_bytes: int = 64 * 1024 * 1024
    attempts: int = 5
    default_output_tokens: int = 256


class ServerConfig(Section, frozen=True):
    """The proxy's listener and server."""

    host: str = "127.0.0.1"
    port: int = 4000
    server: Literal["hypercorn", "uvicorn"] = "hypercorn"
    workers: int = 1
    drain_seconds: float = 30.0


class RoutingConfig(Section, frozen=True):
    """`balancer`: who chooses among the deployments of a model. `round_robin` is the gateway's
    own (by weight, smooth); plugins may register others."""

    balancer: str = "round_robin"


class LimitsConfig(Section, frozen=True):
    """`limiter`: who keeps the meters. `memory` is the gateway's own (exact, of one process);
    plugins may register others."""

    limiter: str = "memory"


class Config(Section, frozen=True):
    """The whole file."""

    models: dict[str, ModelConfig] = {}
    plugins: tuple[PluginConfig, ...] = ()
    server: ServerConfig = ServerConfig()
    store: StoreConfig = StoreConfig()
    accounting: AccountingConfig = AccountingConfig()
    requests: RequestLimits = RequestLimits()
    routing: RoutingConfig = RoutingConfig()
    limits: LimitsConfig = LimitsConfig()
