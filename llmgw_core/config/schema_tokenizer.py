"""How the tokens of a model are counted where no upstream has done it."""

from __future__ import annotations

import msgspec


class TokenizerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`name`: one that an enabled plugin registers. It counts what would be estimated by the ratio
    of bytes to tokens otherwise. `admission: true` also counts every request before it is
    admitted, for limits that are tight. `max_bytes`: of a longer text only the beginning is
    counted, and the rest taken to be like it, since everybody waits for it."""

    name: str
    admission: bool = False
    max_bytes: int = 64 * 1024
