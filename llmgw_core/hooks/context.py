"""What the gateway gives a plugin. Everything opened through it is closed by the host."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any, TypeVar, overload

from llmgw_core.hooks import subcalls

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from pathlib import Path

    import aiohttp

    from llmgw_core.domain.access import Principal
    from llmgw_core.domain.call import Call, Handle
    from llmgw_core.domain.deployment import Deployment
    from llmgw_core.inprocess.replies import ChatReply, EmbeddingReply

S = TypeVar("S")


class Metrics:
    """What a plugin counts, by name; the server exports it when it is asked."""

    def __init__(self) -> None:
        self.counters: defaultdict[str, float] = defaultdict(float)
        """Only ever go up."""
        self.gauges: dict[str, float] = {}
        """The value now."""


class PluginContext:
    """The plugin's own: created by the gateway before the plugin, closed after it.

    `clock` is monotonic seconds, `wall_clock` seconds since the epoch.
    """

    def __init__(
        self,
        name: str,
        *,
        data_dir: Path,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        open_http: Callable[[], aiohttp.ClientSession] | None = None,
    ) -> None:
        self.name = name
        self.logger = logging.getLogger(f"llmgw.plugin.{name}")
        self.clock = clock
        self.wall_clock = wall_clock
        self.metrics = Metrics()
        self.opened = True
        """Whether tasks and connections may be opened; a host says no until `startup`."""
        self._closed = False
        self._data_dir = data_dir
        self._deployments_of: Callable[[str], tuple[Deployment, ...]] | None = None
        self._handle: Handle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._open_http = open_http or _plain_http
        self._http: aiohttp.ClientSession | None = None

    @property
    def data_dir(self) -> Path:
        """A directory for the plugin alone, readable by the gateway's user alone; made now if
        there is none."""
        self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._data_dir

    def bind(self, deployments_of: Callable[[str], tuple[Deployment, ...]]) -> None:
        """Called by the gateway, once the models are known."""
        self._deployments_of = deployments_of

    def bind_calls(self, handle: Handle) -> None:
        """Called by the gateway: where the plugin's own calls go."""
        self._handle = handle

    def deployments(self, backend: str) -> tuple[Deployment, ...]:
        """The deployments that name `backend`; known from `startup` on."""
        if self._deployments_of is None:
            message = "deployments are known from the hook `startup` on, not before"
            raise RuntimeError(message)
        return self._deployments_of(backend)

    @overload
    def state(self, call: Call) -> dict[str, Any]: ...

    @overload
    def state(self, call: Call, kind: Callable[[], S]) -> S: ...

    def state(self, call: Call, kind: Callable[[], Any] = dict) -> Any:
        """What the plugin keeps for `call`: made by `kind` at the first use, the same object
        in every later hook of the same call, released with it."""
        found = call.state.get(self.name)
        if found is None:
            found = call.state[self.name] = kind()
        return found

    async def chat(
        self,
        call: Call,
        body: Mapping[str, Any],
        *,
        principal: Principal | None = None,
        key: str | None = None,
    ) -> ChatReply:
        """Ask a model through the gateway, in the course of `call`: `body` is what a client
        would post. A call like any other, with its own row in the ledger, under the principal of
        `call` unless another `principal` or an API `key` is given; but hooks of this plugin are
        not run for it. It ends when `call` does, with its deadline or this hook's timeout. Raises
        `SubcallError`."""
        return await subcalls.chat(self.handle, self.name, call, body, principal, key)

    async def embed(
        self,
        call: Call,
        body: Mapping[str, Any],
        *,
        principal: Principal | None = None,
        key: str | None = None,
    ) -> EmbeddingReply:
        """Embeddings, as `chat`."""
        return await subcalls.embed(self.handle, self.name, call, body, principal, key)

    @property
    def handle(self) -> Handle:
        """The entrance of the gateway; known from `startup` on."""
        if self._handle is None:
            message = "models can be called from the hook `startup` on, not before"
            raise RuntimeError(message)
        return self._handle

    def spawn(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run `coroutine` in a task that the host owns: it is cancelled at shutdown, and an
        exception that ends it is logged. Needs a running loop: from `startup` on."""
        try:
            self._must_be_open("tasks")
            loop = asyncio.get_running_loop()
        except RuntimeError:
            coroutine.close()
            raise
        task = loop.create_task(coroutine, name=f"llmgw-{self.name}-{name}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _must_be_open(self, what: str) -> None:
        if self._closed:
            raise RuntimeError(f"the plugin is closed: nobody would end its {what}")
        if not self.opened:
            message = (
                f"{what} belong into the hook `startup`: a gateway that does not start after all"
                " would leave behind what a constructor has opened"
            )
            raise RuntimeError(message)

    @property
    def tasks(self) -> int:
        """Tasks of `spawn` that run now."""
        return len(self._tasks)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.logger.error("The task %s ended with an error.", task.get_name(), exc_info=error)

    def http(self) -> aiohttp.ClientSession:
        """An HTTP client of the plugin's own, made at the first use, closed at shutdown. For
        what is not a model's backend. It goes the way that the section `outgoing` says: proxy,
        `no_proxy`, authorities and client certificate."""
        if self._http is None:
            self._must_be_open("connections")
            self._http = self._open_http()
        return self._http

    async def aclose(self, seconds: float) -> None:
        """Cancel the tasks, wait up to `seconds` for them, close the HTTP client. From now on
        nothing is opened. Idempotent."""
        self._closed = True
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            _, pending = await asyncio.wait(tasks, timeout=seconds)
            for task in pending:
                self.logger.error("The task %s does not end.", task.get_name())
        http, self._http = self._http, None
        if http is not None:
            await http.close()


def _plain_http() -> aiohttp.ClientSession:
    import aiohttp  # noqa: PLC0415 -- heavy, and few plugins need it

    return aiohttp.ClientSession()
