"""A gateway for code that waits: from many threads, beside running loops, through every way out."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core import Config, ConfigError, Gateway, GatewayError, Principal, SyncGateway
from llmgw_core.inprocess.portal import Portal
from llmgw_core.testing.canonical_plugin import CanonicalPlugin
from llmgw_core.testing.installation import at
from llmgw_core.testing.model_server import ModelServer

from .conftest import MESSAGES, one_word, silent, two_words_and_a_cut

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from llmgw_core import BlockingCaller, BlockingChatStream

    from .conftest import Beside


def caller(beside: Beside) -> BlockingCaller:
    return beside.gateway.caller(key=beside.tenant.key)


def streamed(beside: Beside) -> BlockingChatStream:
    return beside.gateway.chat_stream(model="m", messages=MESSAGES, key=beside.tenant.key)


def test_a_chat_a_stream_and_the_models(blocking: Beside) -> None:
    gateway, key = blocking.gateway, blocking.tenant.key
    reply = gateway.chat(model="m", messages=MESSAGES, key=key, temperature=0)
    assert reply.text == "Hello there"
    with streamed(blocking) as stream:
        assert stream.request_id == stream.headers["x-request-id"]
        before = stream.usage
        assert "".join(event.text for event in stream) == "Hello there"
        assert list(stream) == []
    assert (before, stream.record) == (None, blocking.records()[1])
    assert [model["id"] for model in gateway.models(key=key)] == ["m"]
    records = blocking.records()
    assert [record.call_id for record in records] == [reply.request_id, stream.request_id]
    assert [record.usage for record in records] == [reply.usage, stream.usage]


def test_refusals_are_raised_where_the_call_is_made(blocking: Beside) -> None:
    gateway, key = blocking.gateway, blocking.tenant.key
    for call in (gateway.chat, gateway.chat_stream):
        with pytest.raises(GatewayError) as caught:
            call(model="x", messages=MESSAGES, key=key)
        assert (caught.value.status, caught.value.code) == (404, "model_not_found")
    with pytest.raises(GatewayError, match="does not serve this endpoint"):
        gateway.embed(model="m", input="Hello", key=key)


def test_a_principal_of_names_or_of_the_applications_own_may_call(blocking: Beside) -> None:
    gateway = blocking.gateway
    named = gateway.principal("acme", team="team", user="user")
    gateway.chat(model="m", messages=MESSAGES, principal=named)
    gateway.chat(model="m", messages=MESSAGES, principal=Principal.of("us", user="u-1"))
    tenant = blocking.tenant
    owners = [(r.organization_id, r.team_id, r.user_id) for r in blocking.records()]
    assert owners == [
        (tenant.organization_id, tenant.team_id, tenant.user_id),
        ("us", None, "u-1"),
    ]


def test_many_threads_at_once(blocking: Beside) -> None:
    bound = caller(blocking)

    def work(number: int) -> str:
        if number % 2:
            return bound.chat(model="m", messages=MESSAGES).request_id
        stream = bound.chat_stream(model="m", messages=MESSAGES)
        assert "".join(event.text for event in stream) == "Hello there"
        return stream.request_id

    with ThreadPoolExecutor(16) as pool:
        ids = list(pool.map(work, range(64)))
    records = blocking.settled(64)
    assert {record.call_id for record in records} == set(ids)
    assert {record.status for record in records} == {"completed"}


async def test_a_notebook_whose_loop_runs_in_the_same_thread(beside: Beside) -> None:
    assert asyncio.get_running_loop().is_running()
    beside.open(at(beside.serve(ModelServer())))
    assert caller(beside).chat(model="m", messages=MESSAGES).text == "Hello there"
    assert [event.text for event in streamed(beside)][1:3] == ["Hello", " there"]


# ---------------------------------------------------------------------------- leaving


def leave_early(beside: Beside) -> None:
    for event in streamed(beside):
        assert event.text == "Hello"
        break


def raise_in_the_loop(beside: Beside) -> None:
    def fail() -> None:
        for _ in streamed(beside):
            raise LookupError("the program's own")

    with pytest.raises(LookupError):
        fail()


def leave_a_with_block(beside: Beside) -> None:
    with streamed(beside) as stream:
        next(stream)
    assert not beside.gateway.gateway.books.open
    assert list(stream) == []
    stream.close()


def forget_it(beside: Beside) -> None:
    streamed(beside)
    gc.collect()


@pytest.mark.parametrize(
    "leave",
    [leave_early, raise_in_the_loop, leave_a_with_block, forget_it],
    ids=lambda leave: leave.__name__.replace("_", " "),
)
def test_every_way_out_of_a_stream_settles_and_stops_the_upstream(
    beside: Beside, leave: Any
) -> None:
    upstream = beside.scripted(one_word)
    beside.open(at(upstream))
    leave(beside)
    [record] = beside.settled(1)
    assert (record.status, record.http_status) == ("client_left", 499)
    beside.elsewhere.run(upstream.until(lambda: upstream.open == 0))


def test_a_stream_that_breaks_off_raises_after_what_had_come(beside: Beside) -> None:
    beside.open(at(beside.scripted(two_words_and_a_cut)))
    stream = streamed(beside)
    found = [next(stream).text, next(stream).text]
    with pytest.raises(GatewayError, match="cut"):
        next(stream)
    assert found == ["Hello", "Hello"]


@pytest.mark.parametrize("streaming", [False, True])
def test_ctrl_c_ends_the_call_and_leaves_the_gateway_usable(
    beside: Beside, streaming: bool
) -> None:
    stuck = beside.scripted(one_word if streaming else silent)
    beside.open(at(stuck))

    def interrupt() -> None:
        beside.elsewhere.run(stuck.until(lambda: bool(stuck.requests)))
        os.kill(os.getpid(), signal.SIGINT)

    helper = threading.Thread(target=interrupt)
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 -- the signal comes at any moment
        if streaming:
            for event in streamed(beside):
                assert event.text == "Hello"
                helper.start()
        else:
            helper.start()
            caller(beside).chat(model="m", messages=MESSAGES)
    helper.join()
    [record] = beside.settled(1)
    assert record.status == "client_left"
    beside.elsewhere.run(stuck.until(lambda: stuck.open == 0))
    assert caller(beside).models()


# ---------------------------------------------------------------------------- opening, closing


def test_closing_while_calls_run_ends_them_with_a_clear_error(beside: Beside) -> None:
    stuck = beside.scripted(one_word)
    gateway = beside.open(at(stuck))
    stream = streamed(beside)
    outcome: Future[BaseException | None] = Future()

    def wait() -> None:
        with pytest.raises(GatewayError) as caught:
            caller(beside).chat(model="m", messages=MESSAGES)
        outcome.set_result(caught.value)

    thread = threading.Thread(target=wait)
    thread.start()
    beside.elsewhere.run(stuck.until(lambda: len(stuck.requests) == 2))
    gateway.close()
    gateway.close()
    thread.join()
    error = outcome.result()
    assert isinstance(error, GatewayError)
    assert (error.status, error.code) == (503, "gateway_closed")
    for late in (lambda: next(stream), lambda: gateway.models(key="k"), lambda: streamed(beside)):
        with pytest.raises(GatewayError, match="closed"):
            late()
    stream.close()


def test_a_coroutine_that_does_not_end_ends_with_the_gateway(blocking: Beside) -> None:
    entered = threading.Event()
    outcome: Future[str] = Future()

    async def forever() -> None:
        entered.set()
        await asyncio.Event().wait()

    def wait() -> None:
        with pytest.raises(GatewayError) as caught:
            blocking.gateway.run(forever())
        outcome.set_result(caught.value.code)

    thread = threading.Thread(target=wait)
    thread.start()
    entered.wait()
    blocking.gateway.close()
    thread.join()
    assert outcome.result() == "gateway_closed"


def test_a_configuration_that_is_wrong_is_told_and_leaves_no_thread(tmp_path: Path) -> None:
    file = tmp_path / "llmgw.yaml"
    file.write_text("modles: {}\n")
    before = threading.active_count()
    with pytest.raises(ConfigError, match="modles"):
        SyncGateway.open(file)
    assert threading.active_count() <= before


def test_what_fails_at_closing_is_raised_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Gateway.open

    @asynccontextmanager
    async def fails(*given: Any, **options: Any) -> AsyncIterator[Gateway]:
        async with original(*given, **options) as gateway:
            yield gateway
        raise LookupError("at closing")

    monkeypatch.setattr(Gateway, "open", fails)
    gateway = SyncGateway.open(Config(), base_dir=tmp_path)
    with pytest.raises(LookupError, match="at closing"):
        gateway.close()


def test_an_event_loop_that_the_gateway_runs_in_is_not_blocked(blocking: Beside) -> None:
    async def inside() -> None:
        caller(blocking).chat(model="m", messages=MESSAGES)

    with pytest.raises(RuntimeError, match="would block the event loop"):
        blocking.gateway.run(inside())


def test_a_stream_may_be_closed_in_the_gateways_own_thread(beside: Beside) -> None:
    beside.open(at(beside.scripted(one_word)))
    stream = streamed(beside)

    async def inside() -> None:
        stream.close()

    beside.gateway.run(inside())
    assert beside.settled(1)[0].status == "client_left"


async def test_a_loop_that_has_stopped_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmgw_core.inprocess.portal.LOOK_SECONDS", 0.01)
    loop = asyncio.new_event_loop()
    portal = Portal(loop)
    outcome: Future[str] = Future()

    async def never() -> None:
        raise AssertionError("it ran")

    coroutine = never()

    def wait() -> None:
        for each in (coroutine, never()):
            with pytest.raises(GatewayError) as caught:
                portal.run(each)
        outcome.set_result(caught.value.code)

    thread = threading.Thread(target=wait)
    thread.start()
    while not loop._ready:  # type: ignore[attr-defined]  # noqa: ASYNC110 -- nobody tells
        await asyncio.sleep(0)
    loop.close()
    thread.join()
    coroutine.close()
    portal.soon(never)
    assert outcome.result() == "gateway_closed"


def test_a_forked_process_is_told_what_to_do(blocking: Beside) -> None:
    """What happens in the child of a fork is written into a pipe."""
    stream = streamed(blocking)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        said = "nothing"
        try:
            blocking.gateway.models(key="k")
        except RuntimeError as error:
            said = str(error)
        stream.close()
        blocking.gateway.close()
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    assert "after the fork" in said
    assert "".join(event.text for event in stream) == "Hello there"


FORGETFUL = """
import sys
from llmgw_core import Principal, SyncGateway
from llmgw_core.testing.canonical_plugin import CanonicalPlugin

gateway = SyncGateway.open(sys.argv[1], plugins=[("canonical", CanonicalPlugin)])
messages = [{"role": "user", "content": "Hello"}]
print(gateway.chat(model="m", messages=messages, principal=Principal.of("us")).text)
stream = gateway.chat_stream(model="m", messages=messages, principal=Principal.of("us"))
print(next(stream)["object"])
"""


def test_a_program_that_forgets_to_close_ends_and_its_books_are_whole(
    beside: Beside, tmp_path: Path
) -> None:
    port = beside.serve(ModelServer()).port
    file = tmp_path / "llmgw.yaml"
    file.write_text(
        "models: {m: {prices: [{from: 2020-01-01, cost: {}}], deployments: [{name: a,"
        f" backend: canonical, zone: onprem, options: {{port: {port}}}}}]}}}}\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FORGETFUL, str(file)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["Hello", "there", "chat.completion.chunk"]
    with SyncGateway.open(file, plugins=[("canonical", CanonicalPlugin)]) as gateway:
        assert gateway.run(gateway.gateway.ledger.count()) == 2
