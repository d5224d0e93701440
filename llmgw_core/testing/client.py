"""A client without a socket: requests straight into a gateway's HTTP-shaped entrance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from llmgw_core.domain.call import Head, Headers
from llmgw_core.inprocess.memory import MemoryBody, MemorySink

if TYPE_CHECKING:
    from llmgw_core.gateway import Gateway


class Client:
    """Calls one gateway with one key."""

    def __init__(self, gateway: Gateway, key: str | None) -> None:
        self.gateway = gateway
        self.key = key

    async def post(
        self,
        path: str,
        body: object,
        *,
        headers: Headers = (),
        sink: MemorySink | None = None,
        method: str = "POST",
    ) -> MemorySink:
        """One request; `body` is sent as it is if it is bytes, else as JSON."""
        sink = sink or MemorySink()
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        fields = [(b"content-type", b"application/json"), *headers]
        if self.key is not None:
            fields.append((b"authorization", b"Bearer " + self.key.encode()))
        await self.gateway.handle(Head(method, path, tuple(fields)), MemoryBody(data), sink)
        return sink

    async def get(self, path: str) -> MemorySink:
        """One GET."""
        return await self.post(path, b"", method="GET")

    async def chat(
        self, model: str, *, sink: MemorySink | None = None, headers: Headers = (), **fields: object
    ) -> MemorySink:
        """A chat completion with one short message."""
        messages = [{"role": "user", "content": "Hello"}]
        body = {"model": model, "messages": messages, **fields}
        return await self.post("/v1/chat/completions", body, sink=sink, headers=headers)

    async def embed(self, model: str, input: object = "Hello", **fields: object) -> MemorySink:
        """An embedding."""
        return await self.post("/v1/embeddings", {"model": model, "input": input, **fields})


def error_code(reply: MemorySink) -> str:
    """The code in the last event of a stream."""
    code = msgspec.json.decode(reply.events()[-1])["error"]["code"]
    assert isinstance(code, str)
    return code


def streamed_text(reply: MemorySink) -> str:
    """The text of all choices of a stream together."""
    return "".join(
        choice["delta"].get("content") or ""
        for each in reply.chunks()
        for choice in each.get("choices", ())
    )


__all__ = ["Client", "MemoryBody", "MemorySink", "error_code", "streamed_text"]
