"""Telling somebody else's server what happens: signed, off the path of calls, and again if need be.

What waits is bounded; what does not fit, or could not be delivered in the end, is counted. The
signature is HMAC-SHA256 over the time, a dot and the body, so that an old message cannot be shown
again as a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
from collections import deque
from typing import TYPE_CHECKING, Final

import msgspec

from llmgw_core.domain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import aiohttp

log = logging.getLogger("llmgw.webhook")

SIGNATURE: Final = "x-llmgw-signature"
"""`t=SECONDS,v1=HEX`."""
EVENT_ID: Final = "x-llmgw-event-id"
"""The same in every attempt: receivers tell repetitions by it."""
CAPACITY: Final = 1000
"""Messages that wait."""
_LONGEST_PAUSE: Final = 60.0
_AGAIN: Final = frozenset((408, 425, 429))
"""Client errors that may pass."""


class Hook(msgspec.Struct, frozen=True):
    """Where messages go. `timeout` in seconds, `attempts` in all."""

    url: str
    secret: str = ""
    timeout: float = 10.0
    attempts: int = 6


class Webhook:
    """`open_session` makes the HTTP client; `clock` gives seconds since the epoch,
    `sleep` waits."""

    def __init__(
        self,
        open_session: Callable[[], aiohttp.ClientSession],
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._open_session = open_session
        self._clock = clock
        self._sleep = sleep
        self._hook: Hook | None = None
        self._session: aiohttp.ClientSession | None = None
        self._old: list[aiohttp.ClientSession] = []
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.delivered = 0
        self.dropped = 0
        """Messages that nobody has got."""

    def configure(
        self, hook: Hook | None, open_session: Callable[[], aiohttp.ClientSession] | None = None
    ) -> None:
        """From now on messages go there, by such a client."""
        self._hook = hook
        if open_session is not None:
            self._open_session = open_session
            if self._session is not None:
                self._old.append(self._session)
                self._session = None

    def send(self, id: str, message: object) -> None:
        """Have `message` delivered as JSON."""
        if self._hook is None:
            return
        if len(self._waiting) >= CAPACITY:
            self.dropped += 1
            return
        self._waiting.append((id, msgspec.json.encode(message)))
        self._wake.set()

    def start(self) -> None:
        """Begin to deliver. Needs a running loop."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="llmgw webhook")

    async def aclose(self) -> None:
        """Try once more what waits, for no longer than one attempt may take, and end. May be
        repeated."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        if self._hook is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._hook.timeout):
                    await self._send_rest(self._hook)
        self.dropped += len(self._waiting)
        self._waiting.clear()
        if self._session is not None:
            self._old.append(self._session)
            self._session = None
        await self._close_old()

    async def _send_rest(self, hook: Hook) -> None:
        """All that waits, until one of them is not taken."""
        while self._waiting and await self._attempt(hook, *self._waiting[0]):
            self._waiting.popleft()

    async def _close_old(self) -> None:
        while self._old:
            await self._old.pop().close()

    async def _run(self) -> None:
        while True:
            while not self._waiting:
                self._wake.clear()
                await self._wake.wait()
            await self._close_old()
            id, body = self._waiting[0]
            await self._deliver(id, body)
            self._waiting.popleft()

    async def _deliver(self, id: str, body: bytes) -> None:
        pause, attempt = 1.0, 0
        while (hook := self._hook) is not None:
            attempt += 1
            done = await self._attempt(hook, id, body)
            if done is not None:
                self.dropped += not done
                return
            if attempt >= hook.attempts:
                break
            await self._sleep(pause)
            pause = min(_LONGEST_PAUSE, pause * 2)
        self.dropped += 1
        log.error("the webhook does not take messages; %d were lost until now", self.dropped)

    async def _attempt(self, hook: Hook, id: str, body: bytes) -> bool | None:
        """Whether it was taken; None if another attempt may help."""
        import aiohttp  # noqa: PLC0415 -- heavy, and few have a webhook

        try:
            if self._session is None:
                self._session = self._open_session()  # needs the loop
            async with self._session.post(
                hook.url,
                data=body,
                headers=self._headers(hook, id, body),
                timeout=aiohttp.ClientTimeout(hook.timeout),
                allow_redirects=False,
            ) as reply:
                status = reply.status
        # A name that cannot be looked up is a `ValueError`.
        except (aiohttp.ClientError, ConfigError, OSError, ValueError) as error:
            log.warning("the webhook could not be reached: %s", type(error).__name__)
            return None
        if 200 <= status < 300:
            self.delivered += 1
            return True
        log.warning("the webhook answers %d", status)
        return None if status >= 500 or status in _AGAIN else False

    def _headers(self, hook: Hook, id: str, body: bytes) -> dict[str, str]:
        headers = {"content-type": "application/json", EVENT_ID: id}
        if hook.secret:
            headers[SIGNATURE] = signature(hook.secret, int(self._clock()), body)
        return headers


def signature(secret: str, at: int, body: bytes) -> str:
    """The header for `body`, sent at `at` (seconds since the epoch)."""
    # A variable of the environment may be any bytes; it is those that the other side has.
    key = secret.encode(errors="surrogateescape")
    mac = hmac.new(key, b"%d." % at + body, hashlib.sha256)
    return f"t={at},v1={mac.hexdigest()}"
