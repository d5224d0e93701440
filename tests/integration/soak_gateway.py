"""The gateway of the soak: `llmgw-server serve` in a process of its own, killed and started again,
and a database that is taken away from it and given back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import signal
import sqlite3
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from .soak_world import Door, request

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Mapping

READY_SECONDS = 60.0
SERVERS = ("uvicorn", "hypercorn")
PLUGIN = """
from llmgw_core import hookimpl
from llmgw_core.testing.canonical_plugin import CanonicalPlugin

class Canonical(CanonicalPlugin):
    @hookimpl
    def register_backends(self):
        return super().register_backends()
"""
_BY_THE_DAY = ("ratelimit-remaining-requests", "ratelimit-remaining-tokens")
BUDGET = 10**15
"""Nano-units of money that is enough for everybody."""


class Death(msgspec.Struct):
    """An end of the process: by SIGKILL, or SIGTERM. Times are monotonic."""

    killed: bool
    at: float


class Probe(msgspec.Struct):
    """What was left of the budget, and of the requests and tokens of a day, when nothing was under
    way but the question. `at_ns`: since the epoch."""

    at_ns: int
    remaining: int
    requests: int
    tokens: int


def configuration(ports: Mapping[str, int]) -> str:
    """A model for each upstream; those that fail have two deployments, one has a fallback."""
    models = []
    for kind, port in ports.items():
        names = ["a"] if kind in ("clean", "refuse") else ["a", "b"]
        deployments = [
            f"{{name: {name}, backend: canonical, zone: onprem, options: {{port: {port}}}}}"
            for name in names
        ]
        more = ", kind: embedding" if kind == "embed" else ""
        more += ", fallbacks: [clean]" if kind == "end" else ""
        models.append(
            f"  {kind}: {{prices: [{{from: 2020-01-01, cost: {{input: 1, output: 2}}}}], "
            f"deployments: [{', '.join(deployments)}]{more}}}"
        )
    return "\n".join(
        [
            "plugins: [{name: canonical, path: canonical.py}]",
            "accounting: {move_interval: 0.2, segment_bytes: 65536}",
            "server: {drain_seconds: 0.5}",
            "budgets: {reply_headers: true}",
            "models:",
            *models,
            "",
        ]
    )


class Restarted:
    """The process, and the door to it, which is open while it is well."""

    def __init__(self, folder: Path, chance: random.Random, key: str, mode: str) -> None:
        self.deaths: list[Death] = []
        self.probes: list[Probe] = []
        self.outages: list[str] = []
        self.door = Door()
        self.output: list[bytes] = []
        self._folder = folder
        self._chance = chance
        self._key = key
        self._mode = mode
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._starts = 0

    async def start(self) -> None:
        """Start it, ask what it remembers of the budget, let clients in."""
        server = SERVERS[self._starts % len(SERVERS)]
        self._starts += 1
        words = ["-m", "llmgw_server"]
        if self._mode != "honest":
            words = [str(Path(__file__).with_name("soak_worse.py")), self._mode]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *words,
            *("serve", "--port", "0", "--server", server),
            cwd=self._folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._reading = asyncio.create_task(self._read(ready))
        async with asyncio.timeout(READY_SECONDS):
            self.door.port = await ready
        await self._probe()
        self.door.open.set()

    async def end(self, *, killed: bool) -> None:
        """End it, and wait until it has ended."""
        process = self._process
        assert process is not None
        assert self._reading is not None
        self.door.open.clear()
        self.deaths.append(Death(killed, time.monotonic()))
        process.send_signal(signal.SIGKILL if killed else signal.SIGTERM)
        code = await process.wait()
        await self._reading
        assert code == (-9 if killed else 0), b"".join(self.output[-50:])

    async def run(self, seconds: float) -> None:
        """Trouble for so long."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await self._trouble()

    async def die(self, kills: int) -> None:
        """Nothing but kills, so many."""
        for _ in range(kills):
            await asyncio.sleep(self._chance.uniform(1.0, 2.0))
            await self.end(killed=True)
            await self.start()

    async def _trouble(self) -> None:
        """One death, or an outage and a death."""
        await asyncio.sleep(self._chance.uniform(0.5, 2.0))
        lost_with_it = self._chance.random() < 0.3
        if lost_with_it or self._chance.random() < 0.5:
            kinds = ["locked", "full"] if lost_with_it else ["locked", "full", "away", "folder"]
            kind = self._chance.choice(kinds)
            self.outages.append(kind)
            async with self._outage(kind):
                await asyncio.sleep(self._chance.uniform(0.3, 1.0))
                if lost_with_it:
                    await self.end(killed=True)
        if not lost_with_it:
            await asyncio.sleep(self._chance.uniform(0.0, 0.5))
            await self.end(killed=self._chance.random() < 0.7)
        await self.start()

    async def _read(self, ready: asyncio.Future[int]) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.output.append(line)
            found = re.search(rb"ready at http://127\.0\.0\.1:(\d+)", line)
            if found and not ready.done():
                ready.set_result(int(found[1]))
        if not ready.done():
            ready.set_exception(AssertionError(b"".join(self.output[-50:]).decode()))

    async def _probe(self) -> None:
        """A call that its upstream refuses: it costs nothing, and its reply tells what is left."""
        at_ns = time.time_ns()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.door.port)
        writer.write(request(self._key, 20, "refuse", stream=False))
        head = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        left = []
        for name in ("llmgw-budget-remaining-money", *_BY_THE_DAY):
            found = re.search(rf"(?i)x-{name}: (\S+)", head.decode())
            assert found is not None, head
            left.append(Decimal(found[1]))
        self.probes.append(Probe(at_ns, int(left[0] * 10**9), int(left[1]), int(left[2])))

    def _outage(self, kind: str) -> contextlib.AbstractAsyncContextManager[None]:
        ways = {
            "locked": self._locked,
            "full": self._full,
            "away": self._away,
            "folder": self._folder_instead,
        }
        return ways[kind]()

    @contextlib.asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        """Somebody else writes into the database, for long."""
        path = self._folder / "llmgw.db"
        other = sqlite3.connect(path, timeout=20, isolation_level=None, check_same_thread=False)
        try:
            await asyncio.to_thread(other.execute, "BEGIN EXCLUSIVE")
            yield
            other.rollback()
        finally:
            other.close()

    @contextlib.asynccontextmanager
    async def _full(self) -> AsyncIterator[None]:
        """No file of the process can grow any more, as on a full disk."""
        assert self._process is not None
        pid = self._process.pid
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, before[1]))
        yield
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, before)

    @contextlib.asynccontextmanager
    async def _away(self) -> AsyncIterator[None]:
        """The files of the database are somewhere else."""
        names = [f"llmgw.db{end}" for end in ("", "-wal", "-shm")]
        moved = [name for name in names if (self._folder / name).exists()]
        for name in moved:
            (self._folder / name).rename(self._folder / f"away-{name}")
        yield
        for name in names:
            (self._folder / name).unlink(missing_ok=True)
        for name in moved:
            (self._folder / f"away-{name}").rename(self._folder / name)

    @contextlib.asynccontextmanager
    async def _folder_instead(self) -> AsyncIterator[None]:
        """There is a directory where the database was."""
        path = self._folder / "llmgw.db"
        path.rename(self._folder / "away")
        path.mkdir()
        yield
        path.rmdir()
        (self._folder / "away").rename(path)
