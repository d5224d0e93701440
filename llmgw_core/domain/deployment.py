"""What can answer a call: deployments of models, as the configuration declares them."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from llmgw_core.domain.alias import Alias  # noqa: TC001 -- msgspec reads the annotations
from llmgw_core.domain.credential import NO_CREDENTIAL, Credential
from llmgw_core.domain.life import ACTIVE, Life
from llmgw_core.domain.limits import NO_LIMITS, Limits
from llmgw_core.domain.outgoing import DIRECT, Outgoing
from llmgw_core.domain.rules import CALL_RULES, RULES, CallRules, Rules


class Origin(msgspec.Struct, frozen=True, cache_hash=True):
    """Where connections go; equal origins share a connection pool.

    `ca_file`, `client_cert` and `client_key` are paths; empty = system defaults.
    """

    scheme: str
    host: str
    port: int
    ca_file: str = ""
    client_cert: str = ""
    client_key: str = ""


class Timeouts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All in seconds. `first_byte`: from request sent to head received; `idle`: between two
    reads of a body; `total`: of one attempt, streams excepted.
    """

    connect: float = 5.0
    first_byte: float = 600.0
    idle: float = 300.0
    total: float = 600.0


PATIENCE = Timeouts()


class Streaming(msgspec.Struct, frozen=True):
    """What is different for streams. `first_token`: seconds from the start of an attempt to the
    first content; `total`: of the whole stream."""

    timeouts: Timeouts = PATIENCE
    first_token: float = math.inf
    total: float = math.inf


class Deployment(msgspec.Struct, frozen=True, eq=False):
    """One place that serves one model. `id` is unique in the installation
    (`MODEL/NAME`); `upstream_model` is what the backend calls the model; `options` is the
    backend's own typed settings.

    A configuration that is loaded again makes new ones. Two of them have the same `identity`, one
    object, as long as their `id` and everything that a backend may prepare from are the same:
    backend, upstream model, credentials and options. It is a key for what belongs to a deployment.

    `credentials` are all of them, `credential` included, when there are several. `streaming`: the
    timeouts of streams where they are others. `context_window` is in tokens, None when unknown.
    """

    id: str
    model: str
    backend: str
    zone: str
    upstream_model: str
    weight: int = 1
    priority: int = 0
    """Who has the lowest number comes first."""
    caps: Limits = NO_LIMITS
    """What is sent to it at most, from all callers together."""
    credential: Credential = NO_CREDENTIAL
    transport: str = "httptools"
    credentials: tuple[Credential, ...] = ()
    timeouts: Timeouts = PATIENCE
    streaming: Streaming | None = None
    context_window: int | None = None
    rules: Rules = RULES
    on_disconnect: str = "cancel"
    ask_usage: bool = True
    """Whether streams are asked for their usage, which not every upstream can be."""
    outgoing: Outgoing = DIRECT
    options: Any = None
    identity: object = msgspec.field(default_factory=object)

    def __repr__(self) -> str:
        """Names only: `credential` and `options` may hold secrets."""
        return f"Deployment(id={self.id!r}, backend={self.backend!r}, zone={self.zone!r})"


class Model(msgspec.Struct, frozen=True, eq=False):
    """A public name and what serves it: deployments, or for an alias other models. `fallbacks` are
    public names of other models."""

    name: str
    deployments: tuple[Deployment, ...]
    fallbacks: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    limits: Limits = NO_LIMITS
    kind: str = "chat"
    """`chat` or `embedding`."""
    created: int = 0
    """Seconds since the epoch, as `/v1/models` shows it."""
    life: Life = ACTIVE
    dimensions: int | None = None
    """Of its embeddings, as far as the configuration says."""
    alias: Alias | None = None
    """Where an alias leads, which has no deployments of its own."""
    context_fallbacks: tuple[str, ...] = ()
    """Models with larger windows, for requests that are too long for this one."""
    content_policy_fallbacks: tuple[str, ...] = ()
    """Models for requests whose content this one's provider refuses."""
    rules: CallRules = CALL_RULES

    def weights(self) -> dict[str, int]:
        """The weights by deployment id."""
        return {deployment.id: deployment.weight for deployment in self.deployments}
