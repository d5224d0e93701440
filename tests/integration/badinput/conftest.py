"""One gateway on both servers and an upstream that does what a row says, in a thread of their
own: the tests are blocking and see every byte.

`World.exchange` is the whole bargain of a row: it sends bytes, reads the answer, and checks what
holds for every bad input: the envelope, the request id, no internals, the books, the meters, no
bug, the connection's state, and that a good call still works.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import pytest

from llmgw_core.config.schema import AccountingConfig, PluginConfig, RequestLimits, ServerConfig
from llmgw_core.domain.deployment import Timeouts
from llmgw_core.domain.limits import Limits
from llmgw_core.tenancy.records import KEY
from llmgw_core.testing.installation import at, install, served_by
from llmgw_core.testing.model_server import completion
from llmgw_core.testing.plugins import DenyModel
from llmgw_core.testing.raw_client import Answer, Wire
from llmgw_core.testing.upstream import Upstream, http_reply
from llmgw_server.app import create_app
from llmgw_server.listening import Listener, bind, listen
from llmgw_server.serve import serve_app

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator
    from pathlib import Path

    from llmgw_core.domain.usage import UsageRecord
    from llmgw_core.testing.installation import Installation
    from llmgw_core.testing.upstream import Peer

T = TypeVar("T")

BODY_CAP = 20_000
BODY_SECONDS = 0.3
TOKENS = 10_000_000
SECRET = "upstream-credential-1234"
UPSTREAM_MODEL = "vendor/internal-name-7b"
JSON_REPLY = http_reply(
    200,
    json.dumps(completion()).encode(),
    [(b"content-type", b"application/json"), (b"connection", b"close")],
)
REQUEST_ID = re.compile(r"req_[0-9a-f]{32}")


class World:
    """`ports` are those of the servers by name; `script` is what the upstream does with every
    connection; `keys` are bad keys by what is wrong with them."""

    def __init__(self, directory: Path) -> None:
        self.ports: dict[str, int] = {}
        self.keys: dict[str, str] = {}
        self.script: Callable[[Peer], Awaitable[None]] = self.good
        self.key = ""
        self.here: Installation
        self.upstream: Upstream
        self._directory = directory
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._up: Future[None] = Future()
        self._cursor = 0
        self._used = 0
        self._internals: re.Pattern[str]

    # ------------------------------------------------------------------ the thread

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        try:
            self._up.result(30)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:
            if self._up.done():
                raise
            self._up.set_exception(error)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _serve(self) -> None:
        async with Upstream(self._scripted) as self.upstream:
            timeouts = Timeouts(connect=1.0, first_byte=0.2, idle=0.2, total=5.0)

            def here(name: str = "a", **fields: Any) -> Any:
                return at(
                    self.upstream,
                    name,
                    model=UPSTREAM_MODEL,
                    credential=SECRET,
                    timeouts=timeouts,
                    **fields,
                )

            nowhere = at(1, timeouts=timeouts, credential=SECRET)
            models: dict[str, Any] = {
                "m": [here()],
                "m2": [here()],
                "e": served_by(here(), kind="embedding"),
                "hidden": [here()],
                "denied": [here()],
                "far": [here(zone="world")],
                "nowhere": [nowhere],
            }
            async with install(
                self._directory,
                models,
                tenant={
                    "models": ["m", "m2", "e", "denied", "far", "nowhere"],
                    "zones": ["onprem"],
                    "limits": Limits(rpm=1_000_000, tpm=TOKENS, parallel=1),
                },
                plugins=[("deny", DenyModel)],
                sections=[PluginConfig("deny", config={"model": "denied"})],
                requests=RequestLimits(
                    body_bytes=BODY_CAP, body_seconds=BODY_SECONDS, reply_bytes=100_000, attempts=2
                ),
                accounting=AccountingConfig(move_interval=3600.0),
                limiter_clock=lambda: 1000.0,
            ) as self.here:
                await self._make_keys()
                await self._serve_both()

    async def _serve_both(self) -> None:
        stop, settings = asyncio.Event(), ServerConfig(drain_seconds=1.0)
        serving = []
        for kind in ("hypercorn", "uvicorn"):
            listener = bind("127.0.0.1", 0)
            listen(listener)
            self.ports[kind] = listener.getsockname()[1]
            app, listeners = create_app(self.here.gateway), [Listener(listener)]
            work = serve_app(app, listeners, server=kind, settings=settings, stop=stop)
            serving.append(asyncio.create_task(work))
        self._up.set_result(None)
        await self._stop.wait()
        stop.set()
        await asyncio.gather(*serving)

    async def _make_keys(self) -> None:
        self.key = key = self.here.tenant.key
        gateway, organization = self.here.gateway, self.here.tenant.organization_id
        tenancy = gateway.tenancy
        past, self.keys["expired"] = await tenancy.create_key(
            organization=organization, expires_at=time.time() + 60, actor="t"
        )
        gateway.principals._wall_clock = lambda: time.time() + 61
        info, self.keys["disabled"] = await tenancy.create_key(organization=organization, actor="t")
        await tenancy.disable(KEY, info.id, actor="t")
        info, self.keys["revoked"] = await tenancy.create_key(organization=organization, actor="t")
        await tenancy.revoke_key(info.id, actor="t")
        info, self.keys["erased"] = await tenancy.create_key(organization=organization, actor="t")
        await tenancy.delete(KEY, info.id, actor="t")
        self.keys["mistyped"] = key[:-1] + ("A" if key[-1] != "A" else "B")
        self.keys["malformed"] = "nonsense"
        self.keys["someone's"] = "sk-" + "a" * 48
        self.keys["not ASCII"] = "\xff\xfe\x80"
        words = [key, hashlib.sha256(key.encode()).hexdigest(), SECRET, UPSTREAM_MODEL, past.id]
        words += [getattr(self.here.tenant, name) for name in ("organization_id", "team_id")]
        words += [self.here.tenant.user_id, self.here.tenant.key_id, "m/a", "DenyModel"]
        words += ["127.0.0.1", "localhost", "canonical", "Canonical", "Traceback", "llmgw_"]
        words += ["site-packages", "acme", "uvicorn", "hypercorn", "httptools", "msgspec"]
        known = "|".join(re.escape(word) for word in words)
        port = rf"(?<![0-9a-f]){self.upstream.port}(?![0-9a-f])"
        self._internals = re.compile(rf"{known}|{port}|\.py\b|0x[0-9a-f]{{6}}")

    async def _scripted(self, peer: Peer) -> None:
        await self.script(peer)

    @staticmethod
    async def good(peer: Peer) -> None:
        """An upstream as it should be; each request has a connection of its own, so that the
        script of the moment holds."""
        await peer.request()
        await peer.send(JSON_REPLY)

    # ------------------------------------------------------------------ what a row does

    def wire(self, kind: str) -> Wire:
        return Wire(self.ports[kind])

    def request(
        self,
        body: bytes | dict[str, Any] | None = None,
        *,
        path: str = "/v1/chat/completions",
        method: str = "POST",
        key: str | None = "",
        headers: tuple[str, ...] = ("content-type: application/json",),
        length: str | None = "",
    ) -> bytes:
        """A request, good unless told otherwise; `key` is sent latin-1, None sends none."""
        if body is None:
            body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "host: gateway", *headers]
        if key is not None:
            lines.append(f"authorization: Bearer {key or self.key}")
        if length is not None:
            lines.append(f"content-length: {length or len(data)}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + data

    def good_call(self, wire: Wire) -> Answer:
        wire.send(self.request())
        answer = wire.answer()
        assert answer.status == 200, answer
        return answer

    def new_rows(self) -> list[UsageRecord]:
        """The rows of the ledger that came since this was asked last."""
        return self.call(self._read())

    async def _read(self) -> list[UsageRecord]:
        await self.here.gateway.mover.move_once()
        rows = await self.here.gateway.ledger.rows(after=self._cursor, limit=10_000)
        if rows:
            self._cursor = rows[-1].cursor
        records = [row.record for row in rows]
        self._used += sum(r.usage.input_tokens + r.usage.output_tokens for r in records)
        return records

    def calm(self) -> None:
        """Wait until no call is in flight."""
        end = time.monotonic() + 5
        while self.here.gateway.stats.in_flight:
            assert time.monotonic() < end, "a call stays in flight"
            time.sleep(0.002)

    def no_internals(self, answer: Answer) -> None:
        text = REQUEST_ID.sub("", answer.raw.decode("latin-1"))
        found = self._internals.search(text)
        assert found is None, f"{found} in {text[:600]!r}"
        names = {name for name, _ in answer.headers}
        assert not names & {"server", "set-cookie", "x-upstream", "via", "x-powered-by"}

    def envelope(self, answer: Answer, status: int, code: str | None, param: str | None) -> None:
        """The shape of an error, and what it says."""
        assert answer.header("content-type") == "application/json", answer
        error = answer.error
        assert set(error) == {"message", "type", "param", "code", "request_id"}
        assert isinstance(error["message"], str)
        assert error["message"]
        assert isinstance(error["type"], str)
        assert REQUEST_ID.fullmatch(error["request_id"]), error
        assert answer.header("x-request-id") == error["request_id"]
        assert (answer.status, error["code"], error["param"]) == (status, code, param), answer
        retry = answer.header("x-should-retry")
        if status < 500 and status not in (408, 429):
            assert retry == "false"
        self.no_internals(answer)

    def aftermath(self, kind: str, answer: Answer, admitted: int) -> None:
        """The books, the meters, no bug; and a good call is answered. `new_rows` was asked before
        the row began."""
        self.calm()
        stats = self.here.gateway.stats
        assert stats.bugs_total == 0
        new = self.new_rows()
        assert len(new) == admitted, new
        if admitted:
            assert new[-1].call_id == answer.header("x-request-id")
            assert new[-1].http_status == answer.status
        self.script = self.good
        with self.wire(kind) as wire:
            good = self.good_call(wire)
        left = int(good.header("x-ratelimit-remaining-tokens") or 0)
        assert [record.status for record in self.new_rows()] == ["completed"]
        assert TOKENS - left == self._used, "the meter of tokens does not agree with the books"

    def exchange(
        self,
        kind: str,
        raw: bytes,
        status: int,
        code: str | None,
        param: str | None = None,
        *,
        admitted: int = 0,
        ends: bool | None = None,
        head_only: bool = False,
    ) -> Answer:
        """Send `raw`, read the error and check everything. `ends`: the connection must have
        ended (True) or must go on (False); None: as its `connection` header says."""
        self.new_rows()
        before = len(self.upstream.requests)
        with self.wire(kind) as wire:
            wire.send(raw)
            answer = wire.answer(head_only=head_only)
            if not head_only:
                self.envelope(answer, status, code, param)
            if not admitted:
                assert len(self.upstream.requests) == before, "something reached the upstream"
            closing = answer.header("connection") == "close"
            if ends is not None:
                assert closing == ends, answer
            if closing:
                assert wire.rest() == b""
            else:
                wire.send(self.request(b"", path="/v1/models", method="GET", headers=()))
                assert wire.answer().status == 200
        self.aftermath(kind, answer, admitted)
        return answer


@pytest.fixture(scope="session")
def living_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One for all rows."""
    with World(tmp_path_factory.mktemp("badinput")) as world:
        yield world


@pytest.fixture
def world(living_world: World) -> Iterator[World]:
    """The world, with a good upstream."""
    living_world.script = living_world.good
    yield living_world
    assert living_world.here.gateway.stats.bugs_total == 0
    assert living_world.here.gateway.stats.in_flight == 0


@pytest.fixture(params=["hypercorn", "uvicorn"])
def kind(request: pytest.FixtureRequest) -> str:
    """The server of a row."""
    return cast("str", request.param)
