"""`calls show`, `calls tail` and `top`, beside a gateway that runs and fails."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.config.schema import ServerConfig
from llmgw_core.domain.limits import Limits
from llmgw_core.pipeline.overview import Load, ModelTotals, Refusal, RunningCall
from llmgw_core.store.ledger import Ledger
from llmgw_core.store.ledger_queries import EVERYTHING, CallFilter
from llmgw_core.testing.client import MemorySink
from llmgw_core.testing.faults.server import FaultServer
from llmgw_core.testing.installation import at, served_by
from llmgw_core.testing.usage_records import usage_record
from llmgw_server.app import create_app
from llmgw_server.call_facts import Told, facts
from llmgw_server.cli import main
from llmgw_server.cli.call_text import described, line
from llmgw_server.cli.calls import follow
from llmgw_server.cli.top import screen

from .conftest import running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from llmgw_core.store.row_values import LedgerRow
    from llmgw_core.testing.installation import Install, Installation

KEY = "the-admin-key-of-the-test"


class Beside:
    """A gateway on a socket, two upstreams, and commands that look at it."""

    def __init__(
        self,
        here: Installation,
        url: str,
        config: Path,
        bad: FaultServer,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self.here = here
        self.url = url
        self.bad = bad
        self._config = str(config)
        self._capsys = capsys

    def forget_admin_key(self) -> None:
        """The commands find no admin key in their configuration any more."""
        path = Path(self._config)
        path.write_text(path.read_text().replace(f", admin_key: {KEY}", ""))

    async def run(self, *words: str, code: int = 0) -> str:
        """What a command prints."""
        got = await asyncio.to_thread(main, [*words, "--config", self._config])
        out, errors = self._capsys.readouterr()
        assert got == code, errors
        return out if code == 0 else errors

    async def ask(self, *words: str, code: int = 0) -> str:
        """The same, asking the gateway."""
        return await self.run(*words, "--url", self.url, code=code)

    async def chat(self, model: str = "m", **fields: Any) -> str:
        """A call; its id."""
        reply = await self.here.client.chat(model, **fields)
        return reply.headers["x-request-id"]


@pytest.fixture
async def beside(
    installed: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[Beside]:
    async with FaultServer("503") as bad, FaultServer() as good:
        here = await installed(
            {
                "m": served_by(at(bad, "bad", weight=10), at(good, "good")),
                "alone": [at(bad, "bad")],
                "full": served_by(at(good), limits=Limits(rpm=1)),
            },
            server=ServerConfig(admin_key=KEY),
            tenant={"models": ["m", "alone", "full"], "limits": Limits(rpm=3)},
        )
        config = tmp_path / "beside.yaml"
        store = here.gateway.config.store.url
        async with running(create_app(here.gateway), "hypercorn") as server:
            address = f"http://127.0.0.1:{server.port}"
            section = f"server: {{port: {server.port}, admin_key: {KEY}}}"
            config.write_text(f"store: {{url: '{store}'}}\n{section}\n")
            yield Beside(here, address, config, bad, capsys)


async def test_a_call_is_shown_with_its_attempts_and_nothing_that_was_said(beside: Beside) -> None:
    call = await beside.chat()
    await beside.here.records()
    text = await beside.run("calls", "show", call)
    lines = text.splitlines()
    assert lines[0].startswith(f"Call {call}, 20")
    assert lines[0].endswith("Z, chat.completions, complete reply")
    assert "  status      completed (200)" in lines
    assert "  deployment  m/good (zone onprem)" in lines
    assert "  tokens      7 in, 2 out (as the provider reported)" in lines
    assert "  price       charged 0.000011, cost 0.000011 USD" in lines
    assert re.search(
        r"caller +organisation acme \(org_\w+\), team team \(.*, key key_\w+$", text, re.MULTILINE
    )
    first, second = lines[-2:]
    assert re.match(r"  1  m/bad +m +overloaded +503 +\d+\.\d +0\.00 +0\.00  \S", first)
    assert re.match(r"  2  m/good +m +ok +200 +\d+\.\d +0\.000011 +0\.000011", second)
    assert "Hello" not in text
    shown = json.loads(await beside.run("calls", "show", call, "--json"))
    assert [each["outcome"] for each in shown["attempts"]] == ["overloaded", "ok"]


async def test_a_call_that_failed_says_what_decided(beside: Beside) -> None:
    call = await beside.chat("alone", stream=True)
    text = await beside.ask("calls", "show", call)
    assert "  status      failed (503: upstream_overloaded)" in text.splitlines()
    assert "overloaded   503" in text


async def test_a_refused_call_says_which_limit_or_rule_it_was(beside: Beside) -> None:
    organization = beside.here.tenant.organization_id
    unknown = await beside.chat("another")
    assert "decided by  organization: no pattern matches" in await beside.ask(
        "calls", "show", unknown
    )
    await beside.chat("full")
    full = await beside.chat("full")
    assert "decided by  model:full:rpm" in await beside.ask("calls", "show", full)
    for _ in range(2):
        await beside.chat()
    limited = await beside.chat()
    refused = json.loads(await beside.ask("calls", "show", limited, "--json"))["refused"]
    assert refused["model"] == "m"
    text = await beside.ask("calls", "show", limited)
    assert "  status      429: rate_limit_exceeded" in text.splitlines()
    assert f"  decided by  organization:{organization}:rpm" in text.splitlines()
    assert await beside.run("calls", "show", limited) == text
    beside.forget_admin_key()
    sentence = await beside.run("calls", "show", limited, code=1)
    assert "refused are known to the gateway that runs. " in sentence
    assert "has no server.admin_key" in sentence


async def test_a_call_that_nobody_has_made_is_one_sentence(beside: Beside) -> None:
    assert "There is no call 'x'" in await beside.run("calls", "show", "x", code=1)
    assert "There is no call 'x'" in await beside.ask("calls", "show", "x", code=1)
    for odd in ("../x", "é", "running"):
        assert f"There is no call '{odd}'" in await beside.ask("calls", "show", odd, code=1)


async def test_what_a_client_has_named_cannot_steer_a_terminal(beside: Beside) -> None:
    call = await beside.chat("evil\x1b[2J\x9b1m\nCall forged")
    text = await beside.run("calls", "show", call)
    assert r"  model       evil\u001b[2J\u009b1m\u000aCall forged" in text.splitlines()
    shown = await beside.run("calls", "show", call, "--json")
    assert json.loads(shown)["refused"]["model"] == "evil\x1b[2J\x9b1m\nCall forged"
    assert "\x9b" not in shown


async def test_the_gateway_of_the_configuration_is_asked(beside: Beside) -> None:
    assert (await beside.run("top", "--times", "1")).startswith(f"{beside.url}: 0 calls running")


async def test_a_file_that_holds_no_admin_key_is_not_shown(beside: Beside, tmp_path: Path) -> None:
    file = tmp_path / "several-words"
    file.write_text("first-secret\nsecond-secret")
    sentence = await beside.run("top", "--admin-key-file", str(file), code=1)
    assert "several-words is no admin key that can be sent" in sentence
    assert "secret" not in sentence


@pytest.mark.parametrize(
    "words",
    [
        "calls tail -n -1",
        "calls tail -n 99999999999999999999999",
        "calls tail --longer nan",
        "calls tail --longer inf",
        "top --every nan",
        "top --times 0",
        "top --calls -1",
        "check --timeout -1",
        "faults --pause inf",
    ],
)
def test_numbers_that_make_no_sense_are_refused(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 2
    assert f"'{words.rsplit(maxsplit=1)[-1]}' is no " in capsys.readouterr().err


async def test_what_runs_is_seen_while_it_runs(beside: Beside) -> None:
    await beside.bad.use("stall-late")
    content = asyncio.Event()

    async def arrived(data: bytes) -> None:
        content.set()

    sink = MemorySink(arrived)
    task = asyncio.create_task(beside.chat("alone", stream=True, sink=sink))
    await content.wait()
    text = await beside.ask("top", "--times", "2", "--every", "0.1")
    _, first, second = text.split(beside.url)
    assert first.startswith(": 1 calls running, - ended and - refused a second")
    assert re.search(r"req_\w+ +alone +alone/bad +\d\.\d +1 +streaming", second)
    [call] = re.findall(r"req_\w+", second)
    shown = await beside.ask("calls", "show", call)
    assert "stream, running for " in shown
    assert "attempt     1 on alone/bad" in shown
    assert "content     on its way" in shown
    beside.bad.release()
    assert await task == call


async def test_the_tail_shows_what_the_filters_let_through(beside: Beside) -> None:
    good, failed, _ = [await beside.chat(), await beside.chat("alone"), await beside.chat()]
    await beside.here.records()
    everything = (await beside.run("calls", "tail", "--no-follow")).splitlines()
    assert everything[0].startswith("AT   ")
    assert [row.split()[2] for row in everything[1:]] == [good, failed, _]
    assert re.search(r"failed +503 +alone +alone/bad", everything[2])
    assert everything[2].endswith("0.00 USD upstream_overloaded")

    async def seen(*words: str) -> list[str]:
        text = await beside.run("calls", "tail", "--no-follow", "--json", *words)
        return [json.loads(row)["call_id"] for row in text.splitlines()]

    assert await seen("--failed") == await seen("--status", "failed") == [failed]
    assert await seen("--deployment", "m/good", "-n", "1") == [_]
    assert await seen("--model", "alone", "--org", "acme", "--team", "team") == [failed]
    assert await seen("--user", "user", "--longer", "1000") == []
    assert "There is no key 'x'" in await beside.run("calls", "tail", "--key", "x", code=1)


async def test_the_tail_goes_on_where_it_was(beside: Beside) -> None:
    class Enough(Exception):
        pass

    ledger, told, turns = Ledger(beside.here.gateway.store), [], 0

    async def wait(seconds: float) -> None:
        nonlocal turns
        turns += 1
        if turns == 3:
            raise Enough
        await ledger.insert([usage_record(turns), usage_record(10 + turns, status="failed")], [])

    def tell(row: LedgerRow) -> None:
        told.append(row.record.call_id)

    with pytest.raises(Enough):
        await follow(ledger, 0, CallFilter(unsuccessful=True), tell, wait)
    assert told == ["call-11", "call-12"]


async def test_the_latest_are_in_order_and_a_deployment_is_found_in_every_attempt(
    beside: Beside,
) -> None:
    ledger = Ledger(beside.here.gateway.store)
    await ledger.insert([usage_record(number) for number in range(5)], [])
    rows, cursor = await ledger.latest(2, EVERYTHING)
    assert [row.record.call_id for row in rows] == ["call-3", "call-4"]
    assert cursor == rows[-1].cursor
    for part, found in (("small/local", 5), ("small", 0), ("local", 0), ("small_local", 0)):
        assert len((await ledger.latest(9, CallFilter(deployment=part)))[0]) == found
    assert await ledger.latest(9, CallFilter(parent="nobody")) == ([], cursor)


def test_every_state_of_a_call_has_words() -> None:
    record = facts(
        usage_record(
            1,
            parent="call-0",
            served_model="other",
            status="incomplete",
            error_code="stream_cut",
            first_content_us=0,
        )
    )
    refusal = Refusal("call-1", 0, "embeddings", None, None, None, None, "", 401, "no_key", "")
    text = "\n".join(described(Told(record, None, msgspec.structs.replace(refusal, rule="x")), {}))
    assert "decided by  x" in text
    assert "small, served by other" in text
    assert "in the course of call call-0" in text
    assert "10 in, 5 out, 2 cached, 1 reasoning (as the provider reported)" in text
    assert "small (other)" in line(record)
    assert "caller      unknown" in "\n".join(described(Told(refused=refusal), {}))
    assert list(described(Told(), {})) == []


def test_rates_are_what_has_changed_in_between() -> None:
    def busy(at: float, factor: int, *running: RunningCall) -> Load:
        models = (ModelTotals("m", 10 * factor, factor, 70 * factor, 30 * factor),)
        return Load(
            at, running, factor - 1, models, factor, {"m/a": {"ok": 9 * factor, "cut": factor}}
        )

    waiting = RunningCall(
        "req_1", "embeddings", "o", None, None, None, "m", False, "", 0, False, 3.5, 0.0, None
    )
    replying = msgspec.structs.replace(waiting, call_id="req_2", deployment="m/a", content=True)
    quiet = msgspec.structs.replace(replying, call_id="req_3", content=False)
    now = busy(12.0, 3, waiting, replying, quiet)
    lines = list(screen(now, busy(10.0, 1), "URL", 2))
    assert (
        lines[0]
        == "URL: 3 calls running (2 waiting for a slot), 10.0 ended and 1.0 refused a second"
    )
    assert lines[3].split() == ["m", "3", "10.0", "1.0", "70.0", "30.0"]
    assert lines[6].split() == ["m/a", "2", "10.0", "1.0"]
    assert lines[9].split() == ["req_1", "m", "-", "3.5", "0", "waiting"]
    assert lines[10].endswith("replying")
    assert lines[11] == "... and 1 more"
    assert list(screen(now, None, "URL", 9))[3].split()[2:] == ["-"] * 4
    again = screen(busy(13.0, 1), now, "URL", 9)
    assert next(again).endswith("- ended and - refused a second")


def test_the_words_of_a_command_are_checked(
    capsys: pytest.CaptureFixture[str], fails: Callable[..., str]
) -> None:
    with pytest.raises(SystemExit):
        main(["calls"])
    assert "ACTION" in capsys.readouterr().err
    assert fails("top", "--url", "ftp://x", "--admin-key-file", "absent").startswith(
        "The admin key cannot be read"
    )
