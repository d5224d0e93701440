"""What an application gets back: OpenAI's objects as they are, and beside them what the gateway
knows of the call.

Each reply is the decoded JSON as a `dict`, unknown fields included; attributes add to it.
"""

from __future__ import annotations

import base64
from array import array
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmgw_core.domain.usage import Usage, UsageRecord

Json = dict[str, Any]


class Accounted:
    """What the books say of a call. `request_id` is the id in logs and ledger; `record` is its
    row, and None as long as the call is not over."""

    request_id: str = ""
    record: UsageRecord | None = None

    @property
    def usage(self) -> Usage | None:
        """Tokens, as the provider reported them or else estimated; `usage.source` says which."""
        return None if self.record is None else self.record.usage

    @property
    def cost(self) -> Decimal:
        """What the provider bills, in whole units of the installation's currency."""
        return Decimal(0 if self.record is None else self.record.cost).scaleb(-9)

    @property
    def charge(self) -> Decimal:
        """What the caller pays, in whole units of the installation's currency."""
        return Decimal(0 if self.record is None else self.record.charge).scaleb(-9)


class ChatReply(Accounted, Json):
    """A chat completion."""

    @property
    def message(self) -> Json:
        """The first choice's message; {} if there is none."""
        return _first(self, "message")

    @property
    def text(self) -> str:
        """The first choice's text; "" if there is none, as with tool calls."""
        return _text(self.message)


class ChatEvent(Json):
    """One chunk of a streamed chat completion."""

    @property
    def delta(self) -> Json:
        """What the first choice's message grows by; {} if it does not."""
        return _first(self, "delta")

    @property
    def text(self) -> str:
        """What the first choice's text grows by, perhaps ""."""
        return _text(self.delta)


class EmbeddingReply(Accounted, Json):
    """Embeddings."""

    @property
    def vectors(self) -> list[list[float]]:
        """One vector per input, in the order of the inputs."""
        entries = sorted(self["data"], key=lambda entry: int(entry.get("index", 0)))
        return [_vector(entry["embedding"]) for entry in entries]


def _first(completion: Json, part: str) -> Json:
    for choice in completion.get("choices") or ():
        if choice.get("index", 0) == 0:
            found: Json | None = choice.get(part)
            return found or {}
    return {}


def _text(message: Json) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else ""


def _vector(embedding: list[float] | str) -> list[float]:
    """Numbers as they are; base64 is that of little-endian 32-bit floats."""
    if not isinstance(embedding, str):
        return embedding
    numbers = array("f")
    numbers.frombytes(base64.b64decode(embedding))
    return numbers.tolist()
