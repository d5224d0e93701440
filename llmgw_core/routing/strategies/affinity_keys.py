"""What of a call decides where it is at home: the beginning of its prompt, or its session.

Read from the bytes as the client sent them: nothing is decoded. A key is 64 bits of a hash that
is the same in every process, so several gateways send the same prompts to the same engines.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import msgspec

    from llmgw_core.domain.call import Call

_ANSWER = b'"assistant"'
_LOOK_BEHIND = 64
"""How many bytes after the leading part the role of the next message may stand."""


def hashed(data: bytes) -> int:
    """64 bits that `data` always has."""
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")


def prefix_key(call: Call, nbytes: int, field: str) -> int | None:
    """The key of the prompt's beginning: `nbytes` each of the tools and of what comes before the
    first answer, so that every turn of a conversation has the same. A call that names itself in
    `field` has the key of that name."""
    fields: dict[str, msgspec.Raw] = call.request.fields
    name = fields.get(field)
    if name is not None:
        return hashed(bytes(name))
    prompt = fields.get("messages") or fields.get("input")
    if prompt is None:
        return None
    tools = fields.get("tools", b"")
    return hashed(bytes(tools)[:nbytes] + b"\0" + leading(bytes(prompt), nbytes))


def leading(messages: bytes, nbytes: int) -> bytes:
    """Of a JSON array of messages the first `nbytes`, but nothing of or after the first answer."""
    reach = nbytes + _LOOK_BEHIND
    answer = messages.find(_ANSWER, 0, reach)
    stop = len(messages) if answer < 0 else answer
    if stop > reach:
        return messages[:nbytes]
    # What ends the last message before the answer; the first turn ends with it, too.
    end = messages.rfind(b"}", 0, stop)
    return messages[: min(end, nbytes)] if end >= 0 else messages[:nbytes]


def session_key(call: Call, header: bytes, field: str) -> int | None:
    """The key of the session: the value of `header`, else of the request's `field`. None when the
    call has neither."""
    name = call.head.get(header)
    if name:
        return hashed(name)
    named: msgspec.Raw | None = call.request.fields.get(field)
    if named is None or bytes(named) in (b"null", b'""'):
        return None
    return hashed(bytes(named))
