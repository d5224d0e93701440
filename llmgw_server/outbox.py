"""Replies that leave together: one wake-up of a client's process for all of them."""

from __future__ import annotations

import asyncio


class Outbox:
    """Ends of replies that leave together at the end of this turn of the event loop: a client
    process with many calls is woken once for all of them, which under load saves the machine
    more than it costs."""

    def __init__(self) -> None:
        self.turn = 0
        """Grows with every flush."""
        self._waiting: list[tuple[asyncio.WriteTransport, bytes]] = []

    def put(self, transport: asyncio.WriteTransport, data: bytes) -> None:
        """Write `data` before the loop waits again."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self.flush)
        self._waiting.append((transport, data))

    def flush(self) -> None:
        """Write now."""
        self.turn += 1
        waiting, self._waiting = self._waiting, []
        for transport, data in waiting:
            # uvloop raises for one that is closed, and the others would never be written.
            if not transport.is_closing():
                transport.write(data)
