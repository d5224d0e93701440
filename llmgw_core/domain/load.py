"""What an inference engine says about how busy it is."""

from __future__ import annotations

import msgspec


class EngineLoad(msgspec.Struct, frozen=True):
    """One report. `running`: requests that are being computed; `waiting`: requests that are queued
    in front of the engine; `kv_use`: share of its KV cache that is in use, 0 to 1, None when it
    does not tell; `polled_at`: when it was asked, in seconds of the monotonic clock."""

    running: int
    waiting: int
    kv_use: float | None
    polled_at: float
