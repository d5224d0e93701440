"""Calls as an application writes them: arguments in, OpenAI's objects out, errors raised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from llmgw_core.domain.access import Principal
from llmgw_core.domain.call import Head
from llmgw_core.inprocess.refusal import refusal, unreadable
from llmgw_core.inprocess.replies import ChatReply, EmbeddingReply, Json
from llmgw_core.inprocess.stream import ChatStream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from openai import AsyncOpenAI, OpenAI

    from llmgw_core.inprocess.calls import Calls, InProcessCall

CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"
MODELS = "/v1/models"

R = TypeVar("R", ChatReply, EmbeddingReply)

_decode = msgspec.json.Decoder(dict).decode


class Caller:
    """Calls one gateway as one caller: by an API key, or as a principal that is believed. With
    neither, the plugins' `authenticate` has to know who calls from the headers.

    All methods raise `GatewayError`. `fields` are the request's further fields, as OpenAI's API
    names them; those that the gateway does not know reach the model as they are. `headers` are
    seen by plugins."""

    def __init__(
        self, calls: Calls, *, key: str | None = None, principal: Principal | None = None
    ) -> None:
        if key is not None and principal is not None:
            raise TypeError("Give a key or a principal, not both.")
        if not isinstance(key, str | None):
            raise TypeError(f"A key is a text, and not a {type(key).__name__}.")
        if not isinstance(principal, Principal | None):
            raise TypeError(
                f"A principal is made by Gateway.principal() or Principal.of(), and is not a"
                f" {type(principal).__name__}."
            )
        self._calls = calls
        self._key = key
        self._principal = principal

    async def chat(
        self,
        *,
        model: str,
        messages: Sequence[object],
        headers: Mapping[str, str] | None = None,
        **fields: object,
    ) -> ChatReply:
        """A chat completion."""
        if fields.get("stream"):
            raise TypeError("chat() gives complete replies; use chat_stream() for streams.")
        body = {"model": model, "messages": messages, **fields}
        return await self._whole(CHAT, body, headers, ChatReply)

    def chat_stream(
        self,
        *,
        model: str,
        messages: Sequence[object],
        headers: Mapping[str, str] | None = None,
        **fields: object,
    ) -> ChatStream:
        """A streamed chat completion: `async with caller.chat_stream(...) as stream`."""
        body = {"model": model, "messages": messages, **fields, "stream": True}
        content = _encode(body)
        return ChatStream(lambda: self._begin("POST", CHAT, content, headers))

    async def embed(
        self,
        *,
        model: str,
        input: str | Sequence[object],
        headers: Mapping[str, str] | None = None,
        **fields: object,
    ) -> EmbeddingReply:
        """Embeddings of one text or of several."""
        body = {"model": model, "input": input, **fields}
        return await self._whole(EMBEDDINGS, body, headers, EmbeddingReply)

    async def models(self, *, headers: Mapping[str, str] | None = None) -> list[Json]:
        """The models that the caller may use, as OpenAI's model objects."""
        reply = await _answer(self._begin("GET", MODELS, b"", headers), ChatReply)
        return list(reply["data"])

    def async_openai(self, **options: Any) -> AsyncOpenAI:
        """The official asynchronous client, for coroutines in the gateway's event loop. It opens
        no socket. `options` are those of `openai.AsyncOpenAI`. Needs the extra `openai`."""
        from llmgw_core.inprocess import openai_clients  # noqa: PLC0415 -- heavy, optional

        return openai_clients.asynchronous(self._calls, self._key, self._principal, options)

    def openai(self, **options: Any) -> OpenAI:
        """The official blocking client, for other threads than that of the gateway's event
        loop, which has to go on running. It opens no socket. `options` are those of
        `openai.OpenAI`. Needs the extra `openai`."""
        return self.blocking_client(options)

    def blocking_client(self, options: dict[str, Any]) -> OpenAI:
        """What `openai(**options)` returns."""
        from llmgw_core.inprocess import openai_clients  # noqa: PLC0415 -- heavy, optional

        return openai_clients.blocking(self._calls, self._key, self._principal, options)

    async def _whole(
        self, path: str, body: Json, headers: Mapping[str, str] | None, kind: type[R]
    ) -> R:
        return await _answer(self._begin("POST", path, _encode(body), headers), kind)

    def _begin(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str] | None
    ) -> InProcessCall:
        fields = {} if headers is None else {name.lower(): value for name, value in headers.items()}
        # Nothing that an application hands on says who calls in place of its key.
        if body:
            fields["content-type"] = "application/json"
        if self._key is not None:
            fields["authorization"] = f"Bearer {self._key}"
        lines = tuple((name.encode(), value.encode()) for name, value in fields.items())
        return self._calls.begin(Head(method, path, lines), body, self._principal)


class InProcess:
    """What a gateway offers to the program around it: calls as one caller or another. `key` and
    `principal` say who calls, as `Caller` explains."""

    calls: Calls

    def caller(self, *, key: str | None = None, principal: Principal | None = None) -> Caller:
        """The same methods, bound to one caller."""
        return Caller(self.calls, key=key, principal=principal)

    async def chat(
        self,
        *,
        model: str,
        messages: Sequence[object],
        key: str | None = None,
        principal: Principal | None = None,
        headers: Mapping[str, str] | None = None,
        **fields: object,
    ) -> ChatReply:
        """See `Caller.chat`."""
        caller = self.caller(key=key, principal=principal)
        return await caller.chat(model=model, messages=messages, headers=headers, **fields)

    def chat_stream(
        self,
        *,
        model: str,
        messages: Sequence[object],
        key: str | None = None,
        principal: Principal | None = None,
        headers: Mapping[str, str] | None = None,
        **fields: object,
    ) -> ChatStream:
        """See `Caller.chat_stream`."""
        caller = self.caller(key=key, principal=principal)
        return caller.chat_stream(model=model, messages=messages, headers=headers, **fields)

    async def embed(
        self,
        *,
        model: str,
        input: str | Sequence[object],
        key: str | None = None,
        principal: Principal | None = None,
        headers: Mapping[str, str] | None = None,
        **fields: object,
    ) -> EmbeddingReply:
        """See `Caller.embed`."""
        caller = self.caller(key=key, principal=principal)
        return await caller.embed(model=model, input=input, headers=headers, **fields)

    async def models(
        self,
        *,
        key: str | None = None,
        principal: Principal | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> list[Json]:
        """See `Caller.models`."""
        return await self.caller(key=key, principal=principal).models(headers=headers)

    def async_openai(
        self, *, key: str | None = None, principal: Principal | None = None, **options: Any
    ) -> AsyncOpenAI:
        """See `Caller.async_openai`."""
        return self.caller(key=key, principal=principal).async_openai(**options)

    def openai(
        self, *, key: str | None = None, principal: Principal | None = None, **options: Any
    ) -> OpenAI:
        """See `Caller.openai`."""
        return self.caller(key=key, principal=principal).blocking_client(options)


async def _answer(call: InProcessCall, kind: type[R]) -> R:
    """The complete reply of a call, with what the books say of it."""
    try:
        status, fields = await call.head()
        body = await call.read_all()
        record = await call.record()
    except BaseException:
        await call.aclose()
        raise
    headers = dict(fields)
    if status != 200:
        raise refusal(status, headers, body)
    request_id = headers.get("x-request-id", "")
    try:
        reply = kind(_decode(body))
    except (msgspec.DecodeError, RecursionError):
        raise unreadable(request_id) from None
    reply.request_id = request_id
    reply.record = record
    return reply


def _plain(value: object) -> object:
    """Objects of the official client among the messages: what it gave back may be sent again."""
    dump = getattr(value, "model_dump", None)
    if dump is None:
        raise TypeError(f"A request cannot hold {type(value).__name__} objects.")
    return dump(mode="json", exclude_unset=True)


_encode = msgspec.json.Encoder(enc_hook=_plain).encode
