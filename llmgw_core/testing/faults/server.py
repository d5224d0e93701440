"""An OpenAI-compatible upstream that fails as it is told to, on a real socket.

    async with FaultServer("429-seconds") as server:
        ...a deployment on server.port...
        await server.use(["reset", "ok"])
    assert [call.fault for call in server.calls] == ["429-seconds", "reset", "ok"]

A request for the model `fault-NAME` gets that fault whatever else is told. What a good answer is,
`reply`, `events` and `embeddings` say, as for `ModelServer`.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Self

import msgspec

from llmgw_core.testing.faults.catalog import FAULTS, REFUSE, UnknownFault, fault
from llmgw_core.testing.faults.performance import Ask, Performance, documented
from llmgw_core.testing.faults.scenario import Draws, Scenario
from llmgw_core.testing.faults.statuses import error
from llmgw_core.testing.model_server import ModelServer, chat_events, completion, usage_object

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llmgw_core.testing.faults.catalog import Fault
    from llmgw_core.testing.recorded_request import RecordedRequest
    from llmgw_core.testing.upstream import Peer

    Instruction = str | Scenario | Sequence[str] | Callable[[RecordedRequest], str]

MODEL_PREFIX = "fault-"
_KEPT = 10_000
"""Calls and requests that are remembered."""


class Served(msgspec.Struct):
    """One request (or connection that got none) and what became of it. `number` counts from 0.
    `status` is what was answered, `tokens` how many of the answer went out, `usage` what was
    reported, `sent` the bytes; `whole`: everything that was to be sent has been."""

    number: int
    connection: int
    fault: str
    model: str = ""
    stream: bool = False
    status: int = 0
    sent: int = 0
    tokens: int = 0
    usage: dict[str, int] | None = None
    whole: bool = False
    target: str = ""


class FaultServer(ModelServer):
    """`faults`: a fault's name for every request; a `Scenario`; names in turn, the last one for
    ever; or a function from the request to a name. `words` are the answer. `pause`, in seconds, is
    how slow the slow ones are. `listening` goes to `Upstream`: `host`, `port`, `ssl_context`."""

    def __init__(
        self,
        faults: Instruction = "ok",
        *,
        words: Sequence[str] = ("Hello", " there"),
        pause: float = 0.25,
        clock: Callable[[], float] = time.time,
        **listening: Any,
    ) -> None:
        super().__init__(**listening)
        count = len(words)
        self.reply = msgspec.json.encode(completion("".join(words), output=count))
        self.events = chat_events(words, usage=usage_object(output=count))
        self.pause = pause
        self.calls: list[Served] = []
        """What was asked and given, in the order of requests; the last ten thousand."""
        self._clock = clock
        self._number = 0
        self._choose: Callable[[RecordedRequest], str] | None = None
        self._draws = Draws(Scenario())
        self._tell(faults)

    @property
    def scenario(self) -> Scenario:
        """What holds; the default one while a function decides."""
        return self._draws.scenario

    async def use(self, faults: Instruction) -> None:
        """Do something else from the next request on."""
        self._tell(faults)
        await self._obey()

    def release(self) -> None:
        """Go on where something stalls."""
        self._upstream.release()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition()` holds; it is looked at whenever something has happened."""
        await self._upstream.until(condition)

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        await self._obey()
        return self

    def _tell(self, faults: Instruction) -> None:
        self._choose = None
        scenario = Scenario()
        if isinstance(faults, Scenario):
            scenario = faults
        elif isinstance(faults, str):
            scenario = Scenario(always=faults)
        elif callable(faults):
            self._choose = faults
        else:
            *first, last = faults
            scenario = Scenario(requests=tuple(first), always=last)
        self._draws = Draws(scenario)

    async def _obey(self) -> None:
        if self._choose is None and self._draws.due().name == REFUSE:
            self._upstream.refuse()
        else:
            await self._upstream.listen()

    async def _serve(self, peer: Peer) -> None:
        if self._choose is None and self._draws.due().accepting:
            await self._met(peer, self._draws.take())
            return
        while True:
            try:
                request = await peer.request()
            except (ValueError, asyncio.LimitOverrunError):
                return  # a client that speaks no HTTP has nothing to say here
            if not await self._answer(peer, request) or request.last:
                return

    async def _met(self, peer: Peer, met: Fault) -> None:
        """A connection that comes to no request."""
        if met.name == REFUSE:
            self._upstream.refuse()
            return
        served = self._noted(peer, met.name)
        await self._perform(peer, met.make(self._ask(stream=False)), served)

    async def _answer(self, peer: Peer, request: RecordedRequest) -> bool:
        """Whether the connection stays open."""
        if request.method == "GET":
            await peer.send(_listing(request).data)
            return True
        body = _decoded(request.body)
        model, stream = str(body.get("model", "")), body.get("stream") is True
        served = self._noted(peer, "", model=model, stream=stream, target=request.target)
        try:
            met = self._due(request, model)
        except UnknownFault as unknown:
            refusal = documented(error(str(unknown), "invalid_request_error"), status=400)
            return await self._perform(peer, refusal, served)
        served.fault = met.name
        embedded = request.target.endswith("/embeddings")
        ask = self._ask(stream=stream and not embedded, embedded=embedded)
        return await self._perform(peer, met.make(ask), served)

    def _due(self, request: RecordedRequest, model: str) -> Fault:
        if model.startswith(MODEL_PREFIX):
            return fault(model.removeprefix(MODEL_PREFIX))
        if self._choose is not None:
            return fault(self._choose(request))
        return self._draws.take()

    def _ask(self, *, stream: bool, embedded: bool = False) -> Ask:
        document = self.embeddings if embedded else self.reply
        return Ask(stream, document, tuple(self.events), self._clock(), self.pause)

    def _noted(self, peer: Peer, name: str, **facts: Any) -> Served:
        served = Served(self._number, peer.number, name, **facts)
        self._number += 1
        self.calls.append(served)
        del self.calls[:-_KEPT]
        del self.requests[:-_KEPT]
        return served

    async def _perform(self, peer: Peer, performance: Performance, served: Served) -> bool:
        """Send what is to be sent, and note how far it came."""
        for piece in performance.pieces:
            if piece.pause:
                await asyncio.sleep(piece.pause)
            served.status = performance.status
            if performance.size:
                await peer.trickle(piece.data, performance.size)
            else:
                await peer.send(piece.data)
            served.sent += len(piece.data)
            served.tokens += piece.tokens
            served.usage = piece.usage or served.usage
        served.whole = True
        if performance.wait:
            await asyncio.sleep(performance.wait)
        if performance.then == "hold":
            await peer.hold()
        elif performance.then == "reset":
            peer.reset()
        return performance.then == "next"


def _listing(request: RecordedRequest) -> Performance:
    """Models for who asks what there is; 200 for who asks how it is."""
    if not request.target.endswith("/models"):
        return documented(b'{"status":"ok"}')
    names = ("ok", *(MODEL_PREFIX + name for name in FAULTS if name != REFUSE))
    data = [{"id": name, "object": "model", "created": 0, "owned_by": "faults"} for name in names]
    return documented(msgspec.json.encode({"object": "list", "data": data}))


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return {}
    return value if isinstance(value, dict) else {}
