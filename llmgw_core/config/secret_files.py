"""Secrets in files, read anew when the files change.

A file that has vanished, is empty or cannot be read leaves the last good value in place and is
told once. Files are looked at by a task once a second, and at once when an upstream refuses the
value; never by a call that goes well.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
import weakref
from typing import TYPE_CHECKING, Final

from llmgw_core.config.secrets import SecretText, read_secret
from llmgw_core.domain.credential import Credential

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from llmgw_core.domain.deployment import Deployment

LOOK_SECONDS: Final = 1.0
"""A file is looked at no more often than this, for each of the two reasons."""

log = logging.getLogger("llmgw.secrets")


class FileCredential(Credential):
    """A secret that stands in a file. `value` is what was read last."""

    __slots__ = (
        "__weakref__",
        "_clock",
        "_complained",
        "_invalid",
        "_look_at",
        "_looking",
        "_seen",
        "path",
    )

    def __init__(
        self, path: Path, value: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(value)
        self.path = path
        self._clock = clock
        self._invalid = False
        self._looking = asyncio.Lock()
        self._look_at = -math.inf
        self._seen: tuple[int, int, int] | None = None
        self._complained = ""

    @property
    def identity(self) -> tuple[str, str]:
        """See `Credential.identity`."""
        return ("file", str(self.path))

    async def get(self) -> str:
        """See `Credential.get`. Whoever comes while the file is looked at waits for that; it is
        not looked at again within a second."""
        if self._invalid:
            async with self._looking:
                if self._clock() >= self._look_at:
                    self._look_at = self._clock() + LOOK_SECONDS
                    await asyncio.to_thread(self.look)
            self._invalid = False
        return self.value

    def invalidate(self) -> bool:
        """See `Credential.invalidate`."""
        self._invalid = True
        return True

    def look(self) -> bool:
        """Read the file if it has changed; True: `value` is another one. Blocking."""
        try:
            status = self.path.stat()
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
            if seen == self._seen:
                return False
            value = read_secret(self.path)
        except (OSError, ValueError) as error:
            self._complain(getattr(error, "strerror", None) or str(error))
            return False
        self._seen = seen
        self._complained = ""
        if value == self.value:
            return False
        self.value = value
        log.info("The secret file %s has changed.", self.path)
        return True

    def _complain(self, problem: str) -> None:
        self._seen = None
        if problem != self._complained:
            self._complained = problem
            log.warning(
                "The secret file %s cannot be used (%s); its last value holds on.",
                self.path,
                problem,
            )


def credential_of(text: str) -> Credential:
    """The credential that a configured text stands for."""
    if isinstance(text, SecretText):
        return FileCredential(text.file, str(text))
    return Credential(text)


def secrets_of(deployments: Iterable[Deployment]) -> list[Credential]:
    """Every secret that calls of `deployments` may use, each object once."""
    found: list[Credential] = []
    for deployment in deployments:
        outgoing = deployment.outgoing
        proxies = (outgoing.http_proxy, outgoing.https_proxy)
        found += (deployment.credential, *deployment.credentials)
        found += (proxy.password for proxy in proxies if proxy)
    return list({id(each): each for each in found}.values())


class SecretWatch:
    """Looks at secret files once every `interval` seconds, in a thread. What nobody else refers
    to any more is forgotten."""

    def __init__(self, *, interval: float = LOOK_SECONDS) -> None:
        self._files: list[weakref.ref[FileCredential]] = []
        self._interval = interval
        self._task: asyncio.Task[None] | None = None

    def add(self, credentials: Iterable[Credential]) -> None:
        """Look at those among `credentials` that stand in files, too."""
        self._files += (
            weakref.ref(each) for each in credentials if isinstance(each, FileCredential)
        )

    def start(self) -> None:
        """Begin. Needs a running loop."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="llmgw-secret-files")

    async def aclose(self) -> None:
        """End. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            alive = [file for file in self._files if file() is not None]
            self._files = alive
            if alive:
                await asyncio.to_thread(_look_at, alive)


def _look_at(files: list[weakref.ref[FileCredential]]) -> None:
    for file in files:
        credential = file()
        if credential is not None:
            credential.look()
