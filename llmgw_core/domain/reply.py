"""What a call is answered with."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import msgspec

from llmgw_core.domain.usage import Usage  # noqa: TC001 -- decoded at run time


class Reply(msgspec.Struct, frozen=True, dict=True):
    """A complete reply in OpenAI's form. `usage` is None when the upstream reported none;
    `output_bytes` is then what the estimate is made from (UTF-8 bytes of produced text)."""

    body: bytes
    usage: Usage | None
    output_bytes: int = 0

    @cached_property
    def decoded(self) -> Any:
        """The body as values, decoded once: look at it, and make a new `Reply` to change it.
        Raises `msgspec.DecodeError`."""
        return msgspec.json.decode(self.body)
