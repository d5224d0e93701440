"""The typed configuration: what a `llmgw.yaml` may say, and nothing else.

Every struct forbids unknown keys. Sections of plugins and the `options` of deployments stay
raw here; the plugin host decodes them with the type that the plugin declares.
"""

from __future__ import annotations

import datetime  # noqa: ICN001, TC003 -- msgspec reads the annotations at run time
from typing import Any, Literal

import msgspec

from llmgw_core.config.schema_aliases import AliasConfig  # noqa: TC001 -- as above
from llmgw_core.config.schema_brake import BrakeConfig
from llmgw_core.config.schema_budgets import BudgetsConfig
from llmgw_core.config.schema_prices import PriceEntry  # noqa: TC001 -- as above
from llmgw_core.config.schema_reports import ReportsConfig
from llmgw_core.config.schema_retention import RetentionConfig
from llmgw_core.config.schema_routing import (
    DeploymentRouting,
    ModelRouting,
    RoutingConfig,
    TimeoutsConfig,
)
from llmgw_core.config.schema_statements import StatementsConfig
from llmgw_core.config.schema_tokenizer import TokenizerConfig  # noqa: TC001 -- as above
from llmgw_core.domain.life import ACTIVE, Life
from llmgw_core.domain.limits import NO_LIMITS, Limits


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every section: immutable, unknown keys refused."""


class OutgoingConfig(Section, frozen=True):
    """How connections to upstreams leave. In a deployment, what is given goes before what the
    file's own section `outgoing` says.

    `proxy`: `http://HOST:PORT` or `https://HOST:PORT`; `environment` (the variables
    `https_proxy`, `http_proxy`, `all_proxy` and `no_proxy`, which are not looked at otherwise); or
    `none`. `proxy_user` and `proxy_password` are for the proxy. `no_proxy`: what is reached
    directly: hosts with everything below them, `.example.com` (only what is below), addresses,
    networks such as `10.0.0.0/8`, each with or without `:PORT`, or `*`. This machine itself
    always is.

    `ca_file`: authorities that are trusted besides the system's, or, with `system_ca: false`,
    instead. `client_cert` and `client_key` are shown to upstreams that ask. They are PEM files,
    relative to the configuration, and are read again when they change."""

    proxy: str | None = None
    proxy_user: str | None = None
    proxy_password: str | None = None
    no_proxy: tuple[str, ...] | None = None
    ca_file: str | None = None
    system_ca: bool | None = None
    client_cert: str | None = None
    client_key: str | None = None

    def __repr__(self) -> str:
        """Without the proxy, whose address may hold a password."""
        return f"OutgoingConfig(ca_file={self.ca_file!r}, client_cert={self.client_cert!r})"


class DeploymentConfig(Section, frozen=True):
    """One deployment of a model. `model` is the name that the backend knows (default: the
    public one). `prices`, if given, replace the model's. `transport: aiohttp` opens a connection
    for every request: aiohttp cannot tell a reply that nobody asked for from the next one.
    `on_disconnect: drain` reads a reply to its end although the client has left, so that its usage
    is exact. `ask_usage: false` is for an upstream that does not know `stream_options`: they are
    not sent, and the usage of streams is what it says unasked, or estimated. A `credential` from a
    file (`file:PATH`) follows the file's changes; with several `credentials` calls take turns at
    them, and one that is refused or rate limited is left alone for a while. Deployments of a lower
    number of `priority` come first; the next higher ones when none of them can take a call. `caps`
    (as `limits`) are what is sent to it at most: calls go elsewhere before it says 429.
    `context_window` (tokens), if given, replaces the model's. `timeouts` and `routing`: what
    differs from the model's."""

    name: str
    backend: str
    zone: str
    model: str = ""
    weight: int = 1
    priority: int = 0
    caps: Limits = NO_LIMITS
    credential: str = ""
    credentials: tuple[str, ...] = ()
    transport: Literal["httptools", "aiohttp"] = "httptools"
    timeouts: TimeoutsConfig = TimeoutsConfig()
    routing: DeploymentRouting = DeploymentRouting()
    context_window: int | None = None
    on_disconnect: Literal["cancel", "drain"] = "cancel"
    ask_usage: bool = True
    prices: tuple[PriceEntry, ...] = ()
    outgoing: OutgoingConfig | None = None
    options: dict[str, Any] = {}

    def __repr__(self) -> str:
        """Names only: `credential` and `options` may hold secrets."""
        return f"DeploymentConfig(name={self.name!r}, backend={self.backend!r}, zone={self.zone!r})"


class ModelConfig(Section, frozen=True):
    """One public model name. `life` says whether it is a preview, deprecated or retired. Callers
    who get embeddings of an alias can rely on their `dimensions`, where they are given.

    `fallbacks` are models that serve when this one cannot. `context_fallbacks` serve requests that
    are too long for it (only those with a larger `context_window`, in tokens, where both are
    given), `content_policy_fallbacks` those whose content its provider refuses. `timeouts` and
    `routing`: what differs from the section `routing`."""

    deployments: tuple[DeploymentConfig, ...]
    kind: Literal["chat", "embedding"] = "chat"
    fallbacks: tuple[str, ...] = ()
    context_fallbacks: tuple[str, ...] = ()
    content_policy_fallbacks: tuple[str, ...] = ()
    context_window: int | None = None
    timeouts: TimeoutsConfig = TimeoutsConfig()
    routing: ModelRouting = ModelRouting()
    tags: tuple[str, ...] = ()
    limits: Limits = NO_LIMITS
    prices: tuple[PriceEntry, ...] = ()
    created: datetime.date | None = None
    life: Life = ACTIVE
    dimensions: int | None = None
    tokenizer: TokenizerConfig | None = None


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
    change may take to reach cached principals, and a switch or rollout to reach a gateway that
    runs. `serve_stale`: seconds that known principals are served while the store is down."""

    url: str = "sqlite:///llmgw.db"
    staleness: float = 5.0
    serve_stale: float = 3600.0

    def __repr__(self) -> str:
        """Without `url`, which may hold a password."""
        return f"StoreConfig(staleness={self.staleness!r}, serve_stale={self.serve_stale!r})"


class AccountingConfig(Section, frozen=True):
    """`unpriced: refuse` makes a model without a valid price an error, and refuses its calls;
    `zero` books them at zero, with a warning and a metric. `exchange_rates`: a CSV or YAML file
    (relative to the configuration) with `date`, `currency` and `rate`, which is what one unit of
    that currency is worth in `currency`; the rate of a day holds until the next one.
    `journal`: directory (relative to the configuration file). `fsync: always` writes every
    record through to the disk; `os` leaves it to the operating system (survives the process,
    not the machine)."""

    currency: str = "USD"
    unpriced: Literal["refuse", "zero"] = "refuse"
    exchange_rates: str = ""
    journal: str = "journal"
    segment_bytes: int = 16 * 1024 * 1024
    fsync: Literal["os", "always"] = "os"
    move_interval: float = 1.0
    retention: RetentionConfig = RetentionConfig()


class RequestLimits(Section, frozen=True):
    """Caps and deadlines on what clients send. Bytes and seconds."""

    body_bytes: int = 32 * 1024 * 1024
    body_seconds: float = 60.0
    reply_bytes: int = 64 * 1024 * 1024
    attempts: int = 5
    default_output_tokens: int = 256


class CertificateRule(Section, frozen=True):
    """Who calls with a client certificate. The certificate must have everything that is given:
    `common_name` of its subject, a DNS name or URI among its alternative names, the SHA-256
    `fingerprint` of the whole certificate. Then the caller is the key with the id `key`, or
    `organization` with, if given, `team` and `user` in it (each by id or name)."""

    common_name: str = ""
    dns: str = ""
    uri: str = ""
    fingerprint: str = ""
    key: str = ""
    organization: str = ""
    team: str = ""
    user: str = ""


class TlsConfig(Section, frozen=True):
    """`certificate` is a PEM file with the certificate and its chain, `key` its private key,
    `key_password` what that is encrypted with. The files (relative to the configuration) are read
    again when they change. `client_ca` is a PEM file with the authorities of client certificates,
    which are then `required` or `optional`; the first of `principals` that fits a certificate
    says who calls."""

    certificate: str
    key: str
    key_password: str = ""
    minimum_version: Literal["1.2", "1.3"] = "1.2"
    client_ca: str = ""
    client_certificates: Literal["required", "optional"] = "required"
    principals: tuple[CertificateRule, ...] = ()

    def __repr__(self) -> str:
        """Without `key_password`."""
        return f"TlsConfig(certificate={self.certificate!r}, client_ca={self.client_ca!r})"


class ListenerConfig(Section, frozen=True):
    """A listener of its own for some pages. `unix`, a path relative to the configuration, stands
    in place of `host` and `port`."""

    host: str = "127.0.0.1"
    port: int = 0
    unix: str = ""
    tls: TlsConfig | None = None


class ReloadConfig(Section, frozen=True):
    """`watch`: every how many seconds the file, and that of the exchange rates, is looked at for
    changes, which then come into force by themselves; 0 leaves it to SIGHUP and the admin API.
    `history`: how many configurations that were loaded are kept for `config history` and `config
    rollback`."""

    watch: float = 0.0
    history: int = 50


class ServerConfig(Section, frozen=True):
    """The proxy. `host`, `port`, `unix` and `tls` are those of the public listener. Admin pages
    and metrics are served there, too, unless they have a listener of their own in `admin` or
    `metrics`. `admin_key`, at least 16 characters, is the bearer key of the admin pages, which are
    off without one.

    A request head must be complete `head_seconds` after its connection was opened or its first
    byte came, and may have `head_bytes`; a connection without a request is closed after
    `keep_alive_seconds`, and a client that takes nothing of its reply for `write_seconds` counts as
    gone; `max_connections` hold for each listener. When the gateway is told to
    end, running calls have `drain_seconds`."""

    host: str = "127.0.0.1"
    port: int = 4000
    unix: str = ""
    tls: TlsConfig | None = None
    admin: ListenerConfig | None = None
    metrics: ListenerConfig | None = None
    admin_key: str = ""
    server: Literal["hypercorn", "uvicorn"] = "hypercorn"
    workers: int = 1
    drain_seconds: float = 30.0
    head_seconds: float = 15.0
    head_bytes: int = 64 * 1024
    keep_alive_seconds: float = 75.0
    write_seconds: float = 300.0
    max_connections: int = 10_000

    def __repr__(self) -> str:
        """Without `admin_key`."""
        return f"ServerConfig(host={self.host!r}, port={self.port!r}, server={self.server!r})"


class LimitsConfig(Section, frozen=True):
    """`limiter`: who keeps the meters. `memory` is the gateway's own (exact, of one process);
    plugins may register others."""

    limiter: str = "memory"


class Config(Section, frozen=True):
    """The whole file."""

    models: dict[str, ModelConfig] = {}
    aliases: dict[str, AliasConfig] = {}
    plugins: tuple[PluginConfig, ...] = ()
    server: ServerConfig = ServerConfig()
    store: StoreConfig = StoreConfig()
    accounting: AccountingConfig = AccountingConfig()
    requests: RequestLimits = RequestLimits()
    routing: RoutingConfig = RoutingConfig()
    limits: LimitsConfig = LimitsConfig()
    budgets: BudgetsConfig = BudgetsConfig()
    brake: BrakeConfig = BrakeConfig()
    reload: ReloadConfig = ReloadConfig()
    outgoing: OutgoingConfig = OutgoingConfig()
    statements: StatementsConfig = StatementsConfig()
    reports: ReportsConfig = ReportsConfig()
