"""Every hook there is: its signature, when it runs, and what its result means.

The kinds: START at start-up; FOLD in the configured order, each implementation gets the
previous value and `None` means unchanged; FIRST until one answers; ALL where any denial wins;
OBSERVE after the fact, from a bounded queue. Implementations may be plain functions or
coroutines where the specification is a coroutine; they may take fewer arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import pluggy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from llmgw_core.backends.port import Backend
    from llmgw_core.config.schema_prices import CatalogueEntry
    from llmgw_core.domain.access import Principal
    from llmgw_core.domain.call import Call, Head
    from llmgw_core.domain.deployment import Deployment
    from llmgw_core.domain.health import HealthChange
    from llmgw_core.domain.reply import Reply
    from llmgw_core.domain.usage import EndedAttempt, UsageRecord
    from llmgw_core.hooks.filters import StreamFilter
    from llmgw_core.limits.port import Limiter
    from llmgw_core.limits.tokenizers import Tokenizer
    from llmgw_core.routing.balance import Balancer, BalancerContext
    from llmgw_core.routing.queue import Queue
    from llmgw_core.tenancy.records import AuditEntry
    from llmgw_core.wire.request import RequestView

HOOK_API: Final = 1
"""The version of everything below. It is raised when a plugin written for it could not run on a
gateway with the version before; a plugin says in `hook_api` which one it was written for."""

PROJECT = "llmgw"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class GatewayHooks(Protocol):
    """The specification that plugins are validated against."""

    @hookspec
    def register_backends(self) -> Sequence[Backend]:
        """START. Backends that deployments can name."""

    @hookspec
    def register_balancers(self) -> Mapping[str, Callable[[BalancerContext], Balancer]]:
        """START. Ways to choose among the deployments of a model, by the name that `balancer` in
        the configuration can give. Each is called with its context, once for every setting of its
        options; what those may be is its attribute `Options`, a `msgspec.Struct`, if it has any."""

    @hookspec
    def register_limiters(self) -> Mapping[str, Callable[[], Limiter]]:
        """START. Keepers of the meters, by the name that `limits.limiter` in the configuration
        can give; called once per gateway."""

    @hookspec
    def register_queues(self) -> Mapping[str, Callable[[], Queue]]:
        """START. Who is next of the calls that wait for a slot, by the name that
        `routing.overload.queue` in the configuration can give; called once per gateway."""

    @hookspec
    def register_prices(self) -> Mapping[str, Sequence[CatalogueEntry]]:
        """START. Prices as providers publish them, by names that `catalogue` in an entry of
        `prices` can give; several entries of one name hold one after the other."""

    @hookspec
    def register_tokenizers(self) -> Mapping[str, Callable[[], Tokenizer]]:
        """START. Tokenizers, by the name that the `tokenizer` of a model in the configuration can
        give; each is made once, and only if a model names it. It is asked where usage is estimated;
        one that fails is left out, and the estimate made without it."""

    @hookspec
    async def startup(self) -> None:
        """START, in order, before the first call: open what the plugin needs. No timeout. With
        `once_per = "installation"`, only in the process that holds the plugin's lock."""

    @hookspec
    async def deployments_added(self, deployments: Sequence[Deployment]) -> None:
        """START, in order, in a reload, before the first call can use them: those deployments of
        the plugin's backends that are new or have changed, told apart by their `identity`. Those
        of the start are `startup`'s. The plugin goes on; without this hook, one with `startup` is
        made anew when deployments of its backends change. No timeout. When the reload comes to
        nothing, also because this failed, `deployments_dropped` gets the same ones."""

    @hookspec
    async def deployments_dropped(self, deployments: Sequence[Deployment]) -> None:
        """In reverse order, after the last call that could use them: those deployments that
        `startup` or `deployments_added` got and that no configuration in use has any more. What
        is left when the plugin ends is `shutdown`'s. May run beside a `deployments_added`."""

    @hookspec
    async def shutdown(self) -> None:
        """In reverse order, after the last call, and only after a `startup` that succeeded."""

    @hookspec
    async def pre_auth(self, head: Head, call: Call) -> Head | None:
        """FOLD before anybody is authenticated: look at or replace the request's head."""

    @hookspec
    async def authenticate(self, head: Head, call: Call) -> Principal | None:
        """FIRST. `None`: not my kind of credentials. Raise `GatewayError`: mine, and bad.
        When nobody answers, the gateway's own keys are tried."""

    @hookspec
    def authorize(self, call: Call, model: str) -> str | None:
        """ALL, for the asked model and for every candidate: a sentence denies (it is shown to
        the caller), `None` has no objection. Must be a plain function."""

    @hookspec
    async def pre_route(self, request: RequestView, call: Call) -> RequestView | Reply | None:
        """FOLD on the decoded request: return a changed request, a `Reply` that answers without
        any upstream, or raise `GatewayError` to reject. After either of these, the plugins
        behind are not asked."""

    @hookspec
    async def post_process(self, reply: Reply, call: Call) -> Reply | None:
        """FOLD in reverse order on a complete reply: return a changed one or raise. An answer of
        `pre_route` comes here too, and skips the plugins whose `pre_route` it kept from running;
        those without a `pre_route` get it. A rejection has no reply, so nobody gets it."""

    @hookspec
    async def open_stream(self, call: Call) -> StreamFilter | None:
        """FOLD in reverse order, at the start of every attempt whose reply is a stream: a
        `StreamFilter` that sees each event before the client does, and may hold it, replace it
        or reject the stream. `None`: this stream is for `post_process`, if the plugin has it. A
        plugin without `post_process` gets complete replies through its filter too."""

    @hookspec
    async def on_usage(self, record: UsageRecord) -> None:
        """OBSERVE every settled call."""

    @hookspec
    async def on_attempt(self, record: EndedAttempt) -> None:
        """OBSERVE every attempt on a deployment that has ended, whatever its outcome."""

    @hookspec
    async def on_audit(self, entry: AuditEntry) -> None:
        """OBSERVE every change of organisations, teams, users, memberships and keys that was
        made through this process, once it is in the database; and what budgets have come to
        (kind `budget`, action `reach`)."""

    @hookspec
    async def on_health(self, change: HealthChange) -> None:
        """OBSERVE every change of a deployment's health: ejected by its circuit breaker, on trial,
        back again; not ready, ready. In the process that noticed it."""


HOOK_KINDS: dict[str, str] = {
    "register_backends": "START",
    "register_balancers": "START",
    "register_limiters": "START",
    "register_queues": "START",
    "register_prices": "START",
    "register_tokenizers": "START",
    "startup": "START",
    "deployments_added": "START",
    "deployments_dropped": "START",
    "shutdown": "START",
    "pre_auth": "FOLD",
    "authenticate": "FIRST",
    "authorize": "ALL",
    "pre_route": "FOLD",
    "post_process": "FOLD",
    "open_stream": "FOLD",
    "on_usage": "OBSERVE",
    "on_attempt": "OBSERVE",
    "on_audit": "OBSERVE",
    "on_health": "OBSERVE",
}

REVERSED: Final = frozenset({"post_process", "open_stream", "deployments_dropped", "shutdown"})
"""Hooks that run from the last plugin to the first."""
