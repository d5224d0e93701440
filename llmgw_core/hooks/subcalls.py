"""Calls that plugins make through the gateway in the course of another call.

They are calls like any other: admitted, limited, accounted, with a row of their own in the ledger
that names the call around them. Two things differ: nothing runs twice around itself, since hooks
of the plugin that calls are not run, and a call says in what it is nested, which is bounded.

The calling task does the work itself, so that what cancels the outer call cancels the inner one.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from llmgw_core.domain.call import Head, Subcall
from llmgw_core.domain.errors import GatewayError
from llmgw_core.inprocess.memory import MemoryBody, MemorySink
from llmgw_core.inprocess.refusal import refusal, unreadable
from llmgw_core.inprocess.replies import ChatReply, EmbeddingReply

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmgw_core.domain.access import Principal
    from llmgw_core.domain.call import Call, Handle

MAX_DEPTH: Final = 4
"""How many calls of plugins may be inside of one another."""

R = TypeVar("R", ChatReply, EmbeddingReply)

log = logging.getLogger("llmgw.subcalls")
_COST_CENTER: Final = b"x-llmgw-cost-center"
_decode = msgspec.json.Decoder(dict).decode


class SubcallError(Exception):
    """A plugin's own call was refused or failed; `error` says how, as a client would be told.

    It is no `GatewayError`: what goes wrong in a call that the client did not make is not for the
    client, unless the plugin raises `error` itself.
    """

    def __init__(self, error: GatewayError) -> None:
        super().__init__(f"{error.status} {error.code}: {error.message}")
        self.error = error


async def chat(
    handle: Handle,
    plugin: str,
    call: Call,
    body: Mapping[str, Any],
    principal: Principal | None,
    key: str | None,
) -> ChatReply:
    """A chat completion for `plugin`. Raises `SubcallError`."""
    if body.get("stream"):
        raise TypeError("A plugin's own call gives a complete reply; leave `stream` out.")
    path = "/v1/chat/completions"
    return await _answer(handle, plugin, call, path, body, principal, key, ChatReply)


async def embed(
    handle: Handle,
    plugin: str,
    call: Call,
    body: Mapping[str, Any],
    principal: Principal | None,
    key: str | None,
) -> EmbeddingReply:
    """Embeddings for `plugin`. Raises `SubcallError`."""
    path = "/v1/embeddings"
    return await _answer(handle, plugin, call, path, body, principal, key, EmbeddingReply)


async def _answer(
    handle: Handle,
    plugin: str,
    call: Call,
    path: str,
    body: Mapping[str, Any],
    principal: Principal | None,
    key: str | None,
    kind: type[R],
) -> R:
    subcall = _inside(call, plugin)
    head, caller = _head(call, path, principal, key)
    sink = MemorySink()
    record = await handle(head, MemoryBody(msgspec.json.encode(body)), sink, caller, subcall)
    request_id = sink.headers.get("x-request-id", "")
    log.info(
        "subcall: call=%s parent=%s plugin=%s status=%d",
        request_id,
        call.id,
        plugin,
        sink.status,
    )
    if sink.status != 200:
        raise SubcallError(refusal(sink.status, sink.headers, sink.body))
    try:
        reply = kind(_decode(sink.body))
    except (msgspec.DecodeError, RecursionError):
        raise SubcallError(unreadable(request_id)) from None
    reply.request_id = request_id
    reply.record = record
    return reply


def _inside(call: Call, plugin: str) -> Subcall:
    """Where the new call is. Raises `SubcallError` when it is nested too deeply."""
    outer = call.subcall
    if outer is None:
        return Subcall(call.id, frozenset((plugin,)), deadline=call.deadline)
    if outer.depth >= MAX_DEPTH:
        names = ", ".join(sorted(outer.muted))
        log.error(
            "call=%s: the plugin %s asks too deep inside of calls of: %s", call.id, plugin, names
        )
        message = f"Calls of extensions of the gateway may be {MAX_DEPTH} deep."
        raise SubcallError(GatewayError(508, "subcalls_too_deep", message, should_retry=False))
    return Subcall(call.id, outer.muted | {plugin}, outer.depth + 1, call.deadline)


def _head(
    call: Call, path: str, principal: Principal | None, key: str | None
) -> tuple[Head, Principal | None]:
    """The head of the call, in the same trace as the one around it and confined to the same zones;
    and who calls, unless a key says so."""
    if principal is not None and key is not None:
        raise TypeError("Give a principal or a key, not both.")
    headers = [(b"content-type", b"application/json")]
    headers.append((b"traceparent", f"00-{call.trace_id}-{call.span_id}-01".encode()))
    headers += ((name, value) for name, value in call.head.headers if name == b"x-llmgw-zone")
    if key is not None:
        headers.append((b"authorization", b"Bearer " + key.encode()))
    elif principal is None:
        # Who pays for the call around it pays for this one.
        headers += ((name, value) for name, value in call.head.headers if name == _COST_CENTER)
        principal = call.principal
        if principal is None:
            raise TypeError("Nobody is authenticated yet: give a principal or a key.")
    return Head("POST", path, tuple(headers), client=call.head.client), principal
