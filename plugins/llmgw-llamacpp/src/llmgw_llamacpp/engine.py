"""One engine: a child process kept alive by the table in `supervision`.

Everything here is I/O: starting the child, reading what it prints, its timers and its health
check. What follows from an event is decided by the table alone.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import http.client
import json
import os
import sys
from typing import TYPE_CHECKING

from llmgw_llamacpp import child
from llmgw_llamacpp.supervision import FINAL, Action, Event, State, restart_delay, step

if TYPE_CHECKING:
    import logging
    from collections.abc import Awaitable, Callable

    from llmgw_llamacpp.child import Settings

HEALTH_INTERVAL = 0.05
STABLE_SECONDS = 60.0
"""Ready for so long, and earlier failures are forgotten."""
KEPT_LINES = 20
INHERITED = frozenset(
    {
        "HOME",
        "LANG",
        "LD_LIBRARY_PATH",
        "PATH",
        "PYTHONHOME",
        "PYTHONPATH",
        "TMPDIR",
        "TZ",
        "USER",
        "VIRTUAL_ENV",
    }
)
INHERITED_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "HIP_", "ROCR_", "GGML_", "OMP_", "GOMP_", "KMP_")


class EngineError(Exception):
    """The engine did not start; the text is a sentence."""


class Timing:
    """Clock (monotonic seconds), sleeping and randomness (0 to 1) of a supervisor."""

    def __init__(
        self,
        now: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        randomness: Callable[[], float],
    ) -> None:
        self.now = now
        self.sleep = sleep
        self.randomness = randomness


def child_environment(environment: dict[str, str]) -> dict[str, str]:
    """What of the gateway's environment the child gets: no provider's key is among it."""
    return {
        name: value
        for name, value in environment.items()
        if name in INHERITED or name.startswith(INHERITED_PREFIXES)
    }


def is_healthy(port: int) -> bool:
    """Whether the engine on `port` says that it can serve. Blocking, two seconds at most."""
    connection = http.client.HTTPConnection(child.HOST, port, timeout=2.0)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class Engine:
    """A supervised llama.cpp server. `port` is where it listens while `state` is READY."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        *,
        start_timeout: float,
        stop_grace: float,
        logger: logging.Logger,
        timing: Timing,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.state = State.IDLE
        self.port = 0
        self.restarts = 0
        self.api_key = settings["api_key"]
        self.last_lines: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)
        self._settings = settings
        self._start_timeout = start_timeout
        self._stop_grace = stop_grace
        self._logger = logger
        self._timing = timing
        self._on_change = on_change
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._changed = asyncio.Event()
        self._tasks = asyncio.TaskGroup()
        self._timer: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._condemned = False
        self._failures = 0
        self._ready_since = 0.0
        self._obituary = f"the engine {name} was stopped before it was ready."

    @property
    def exit_status(self) -> int | None:
        """How the last child ended: its exit status, or the negative number of the signal."""
        return self._process.returncode if self._process else None

    @property
    def pid(self) -> int:
        """The process id of the child, 0 if there is none."""
        return self._process.pid if self._process else 0

    async def supervise(self) -> None:
        """Run the engine until `stop` or until its first start has failed. Cancelling this
        kills the child."""
        self._events.put_nowait(Event.START)
        try:
            async with self._tasks:
                while self.state not in FINAL:
                    self._advance(await self._events.get())
        finally:
            if self.state not in FINAL:  # cancelled: the child is gone all the same
                self._enter(State.STOPPED)

    async def started(self) -> None:
        """Wait for the end of the first start. Raises `EngineError`."""
        await self.reached(State.READY, *FINAL)
        if self.state is not State.READY:
            raise EngineError(self._obituary)

    async def stop(self) -> None:
        """End the child, politely at first, and wait until it is gone. Idempotent."""
        self._events.put_nowait(Event.STOP)
        await self.reached(*FINAL)

    async def reached(self, *states: State) -> None:
        """Wait until the engine is in one of `states`."""
        while self.state not in states:
            await self.changed()

    async def changed(self) -> None:
        """Wait for the next change of `state` or `pid`."""
        await self._changed.wait()

    def _advance(self, event: Event) -> None:
        before, (state, action) = self.state, step(self.state, event)
        if state is before and action is None:
            return
        self._logger.debug("engine %s: %s, now %s", self.name, event.value, state.value)
        self._book(before, state)
        self._set_timer(None, Event.DUE)
        if action is Action.SPAWN:
            self._set_timer(self._start_timeout, Event.OVERDUE)
            self._tasks.create_task(self._run_child())
        elif action is Action.WAIT:
            delay = restart_delay(self._failures, self._timing.randomness())
            self._logger.warning(
                "engine %s ended (status %s); restarting in %.1f s",
                self.name,
                self.exit_status,
                delay,
            )
            self._set_timer(delay, Event.DUE)
        elif action is Action.TERMINATE:
            self._set_timer(self._stop_grace, Event.OVERDUE)
            self._end_child(polite=True)
        elif action is Action.KILL:
            self._end_child(polite=False)
        self._enter(state)

    def _enter(self, state: State) -> None:
        self.state = state
        self._announce()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        self._on_change()

    def _book(self, before: State, state: State) -> None:
        if state is State.READY:
            self._ready_since = self._timing.now()
            self._logger.info("engine %s is ready on port %d", self.name, self.port)
        elif state is State.BACKOFF:
            stable = self._timing.now() - self._ready_since >= STABLE_SECONDS
            self._failures = 1 if before is State.READY and stable else self._failures + 1
        elif state is State.RESTARTING and before is State.BACKOFF:
            self.restarts += 1
        elif state is State.FAILED:
            slow = before is State.GIVING_UP
            what = f"was not ready after {self._start_timeout:g} s" if slow else "ended"
            self._obituary = f"the engine {self.name} {what} while it was starting."
            self._logger.error("%s It said:\n%s", self._obituary, "\n".join(self.last_lines))

    def _set_timer(self, seconds: float | None, event: Event) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None

        async def fire(delay: float) -> None:
            await self._timing.sleep(delay)
            self._events.put_nowait(event)

        if seconds is not None:
            self._timer = self._tasks.create_task(fire(seconds))

    def _end_child(self, *, polite: bool) -> None:
        self._condemned = True  # in case it is not there yet
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                (self._process.terminate if polite else self._process.kill)()

    async def _run_child(self) -> None:
        self._condemned = False
        self._process = None
        self.port = 0
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                child.__file__,
                self.name,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=child_environment(dict(os.environ)),
                start_new_session=True,
            )
        except OSError as error:
            self.last_lines.append(str(error))
        else:
            self._process = process
            self._announce()
            await self._attend(process)
        finally:
            self._events.put_nowait(Event.EXITED)

    async def _attend(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(json.dumps(self._settings).encode() + b"\n")
        if self._condemned:
            process.kill()
        readers = (
            asyncio.ensure_future(self._read_reports(process.stdout)),
            asyncio.ensure_future(self._read_log(process.stderr)),
        )
        try:
            await process.wait()
            await readers[1]
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
            process.stdin.close()

    async def _read_reports(self, stream: asyncio.StreamReader) -> None:
        async for line in stream:
            report: child.Report = json.loads(line)
            if "taken" in report:
                self._logger.warning(
                    "engine %s: port %d is taken, using another", self.name, report["taken"]
                )
            if "port" in report:
                self.port = report["port"]
                while not await asyncio.to_thread(is_healthy, self.port):
                    await self._timing.sleep(HEALTH_INTERVAL)
                self._events.put_nowait(Event.HEALTHY)

    async def _read_log(self, stream: asyncio.StreamReader) -> None:
        rest = b""
        while data := await stream.read(65536):
            *lines, rest = (rest + data)[-1_000_000:].split(b"\n")
            for line in lines:
                text = line.decode("utf-8", "replace")
                self.last_lines.append(text)
                self._logger.debug("%s: %s", self.name, text)
