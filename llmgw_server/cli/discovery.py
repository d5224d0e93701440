"""Asking those who might have models for them. Whatever listens there may say anything."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import msgspec

from llmgw_core.backends.transport.httptools_transport import HttptoolsTransport
from llmgw_core.backends.transport.port import HttpRequest, TransportError
from llmgw_core.domain.deployment import Timeouts
from llmgw_server.cli.sources import LOCAL, Source

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llmgw_core.domain.outgoing import Outgoing

TIMEOUTS = Timeouts(connect=3.0, first_byte=5.0, idle=5.0, total=10.0)
MAX_BYTES = 8 * 1024 * 1024
MAX_MODELS = 1000
"""Of one source."""

_OWNERS = {
    "vllm": "vllm",
    "llamacpp": "llamacpp",
    "library": "ollama",
    "organization_owner": "lmstudio",
    "sglang": "sglang",
}
"""What engines call themselves in `owned_by` -> a name for the deployment."""
_EMBEDDING = re.compile(r"embed|(?:^|[/_-])(?:bge|e5|gte|minilm)(?:$|[-_.:/])", re.IGNORECASE)
_OTHER = re.compile(
    r"whisper|tts|dall-e|moderation|image|realtime|audio|transcri|sora|rerank|davinci|babbage"
    r"|turbo-instruct|(?:^|-)ocr|deep-research|computer-use|veo|imagen",
    re.IGNORECASE,
)
_TYPES = {"chat": "chat", "language": "chat", "model": "chat", "embedding": "embedding"}
_NAME = re.compile(r"[^\x00-\x20\x7f-\x9f]{1,200}")


class Offer(msgspec.Struct, frozen=True):
    """A model of a source. `id` is what the source calls it, `kind` chat or embedding."""

    id: str
    kind: str

    @property
    def name(self) -> str:
        """What clients shall call it: engines that serve a file use its path as the id."""
        last = self.id.rpartition("/")[2]
        return last.removesuffix(".gguf") if self.id.lower().endswith(".gguf") else self.id


class Finding(msgspec.Struct, frozen=True):
    """What became of asking a source: its models, or a problem in a few words; neither when
    nobody listens."""

    source: Source
    offers: tuple[Offer, ...] = ()
    problem: str = ""


async def ask_all(
    sources: Sequence[Source], outgoing: Outgoing, secret: Callable[[Source], str]
) -> list[Finding]:
    """Ask all of them at once; in the order of `sources`. Takes seconds at most."""
    transport = HttptoolsTransport(outgoing=outgoing)
    try:
        asked = (_ask(transport, source, secret(source)) for source in sources)
        return list(await asyncio.gather(*asked))
    finally:
        await transport.aclose()


async def _ask(transport: HttptoolsTransport, source: Source, key: str) -> Finding:
    try:
        reply = await transport.send(source.origin, _request(source, key), TIMEOUTS)
        try:
            body = await reply.read(MAX_BYTES)
        finally:
            reply.abort()
    except TransportError as error:
        nobody = source.zone == LOCAL and error.phase == "connect"
        return Finding(source, problem="" if nobody else f"no answer ({error.kind})")
    if reply.status in {401, 403}:
        refused = "the key is refused" if key else "wants a key"
        return Finding(source, problem=f"{refused} ({reply.status})")
    if reply.status != 200:
        return Finding(source, problem=f"answers {reply.status}")
    return read_listing(source, body)


def _request(source: Source, key: str) -> HttpRequest:
    headers = [(b"accept", b"application/json"), (b"user-agent", b"llmgw")]
    headers += [(name.encode(), value.encode()) for name, value in source.headers]
    if key:
        name, _, scheme = source.key_header.partition(":")
        value = f"{scheme.strip()} {key}".strip()
        headers.append((name.encode(), value.encode("latin-1", "replace")))
    return HttpRequest("GET", source.target, tuple(headers))


def read_listing(source: Source, body: bytes) -> Finding:
    """What a list of models says: OpenAI's object, or the bare list that some answer with."""
    try:
        listing = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return Finding(source, problem="is something else, not an OpenAI-compatible API")
    rows = listing.get("data", ()) if isinstance(listing, dict) else listing
    if isinstance(listing, dict) and "data" not in listing:
        return Finding(source, problem="is something else, not an OpenAI-compatible API")
    rows = [row for row in rows or () if isinstance(row, dict)] if _is_list(rows) else []
    offers = {offer.id: offer for row in rows if (offer := _offer(row)) is not None}
    if not offers:
        return Finding(source, problem="has no models that can be served")
    if source.zone == LOCAL:
        owner = next((row.get("owned_by") for row in rows), "")
        label = _OWNERS.get(owner, "engine") if isinstance(owner, str) else "engine"
        source = source.named(f"{label}-{source.origin.port}")
    return Finding(source, tuple(offers.values())[:MAX_MODELS])


def _is_list(value: Any) -> bool:
    return value is None or isinstance(value, list | tuple)


def _offer(row: dict[str, Any]) -> Offer | None:
    """The model of one row; None for what is neither chat nor embeddings, as far as is said."""
    name = row.get("id")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return None
    declared = row.get("type")
    if isinstance(declared, str) and declared:
        kind = _TYPES.get(declared.lower())
        return Offer(name, kind) if kind else None
    if _EMBEDDING.search(name):
        return Offer(name, "embedding")
    capabilities = row.get("capabilities")
    if isinstance(capabilities, dict) and capabilities.get("completion_chat") is False:
        return None
    return None if _OTHER.search(name) else Offer(name, "chat")
