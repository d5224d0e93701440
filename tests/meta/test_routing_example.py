"""What examples/routing.yaml promises happens."""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from llmgw_core import Gateway, Principal
from llmgw_core.testing.faults.server import FaultServer
from llmgw_server.cli import main

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

QUESTION = "What is the capital of France?"
CALLER = Principal.of("tests", user="visitor-7", models=["*"])


class Racks:
    """An upstream for every deployment of the example, and its configuration."""

    def __init__(self, servers: list[FaultServer], config: Path) -> None:
        self.servers = servers
        self.config = str(config)

    async def asked(self, times: int = 1) -> list[int]:
        """Calls to a gateway that has just started, all at once, and how many of them each
        upstream has had: the two engines, the new one, the provider."""
        for server in self.servers:
            server.calls.clear()
        messages = [{"role": "user", "content": QUESTION}]
        async with Gateway.open(self.config) as gateway:
            calls = (
                gateway.chat(model="assistant", messages=messages, principal=CALLER)
                for _ in range(times)
            )
            await asyncio.gather(*calls)
        return [len(server.calls) for server in self.servers]


@pytest.fixture
async def racks(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Racks]:
    monkeypatch.setenv("FIRST_KEY", "sk-first")
    monkeypatch.setenv("SECOND_KEY", "sk-second")
    monkeypatch.chdir(tmp_path)  # for the log
    text = (repository / "examples" / "routing.yaml").read_text(encoding="utf-8")
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(FaultServer()) for _ in range(4)]
        ports = iter(servers)
        text = re.sub(r"127\.0\.0\.1:800\d", lambda _: f"127.0.0.1:{next(ports).port}", text)
        config = tmp_path / "routing.yaml"
        config.write_text(text.replace("output: stderr", "output: calls.log"))
        yield Racks(servers, config)


async def test_it_is_valid(racks: Racks, capsys: pytest.CaptureFixture[str]) -> None:
    assert await asyncio.to_thread(main, ["check", "--config", racks.config]) == 0
    assert "3 models, 1 alias, 4 deployments" in capsys.readouterr().out


async def test_an_engine_that_fails_and_then_both_of_them_are_not_noticed(racks: Racks) -> None:
    first, second, _, _ = racks.servers
    assert sum((await racks.asked())[:2]) == 1
    await first.use("503")
    one, other, *others = await racks.asked(4)
    assert (other, others) == (4, [0, 0])
    assert one <= 4
    await second.use("reset")
    assert (await racks.asked())[2:] == [0, 1]


async def test_the_next_model_is_tried_on_some_and_then_has_all(racks: Racks) -> None:
    async def canary(*words: str) -> None:
        words = ("models", "canary", *words, "--config", racks.config)
        assert await asyncio.to_thread(main, words) == 0

    await canary("start", "assistant", "house-8b-next")
    await canary("promote", "assistant")
    assert await racks.asked(3) == [0, 0, 3, 0]
    await canary("abort", "assistant", "--reason", "answers in verse")
    assert (await racks.asked(3))[2:] == [0, 0]
