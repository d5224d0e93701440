"""What examples/agents.yaml promises happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from llmgw_core.config.load import load
from llmgw_core.testing.installation import at
from llmgw_core.testing.model_server import ModelServer

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from llmgw_core.testing.installation import Install


async def test_the_run_of_an_agent_is_bounded_and_a_loop_is_detected(
    repository: Path, installed: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
    brake = load(repository / "examples" / "agents.yaml").brake
    async with ModelServer() as server:
        here = await installed({"gpt-4o-mini": [at(server)]}, brake=brake)

        async def turn(text: str, session: bytes) -> tuple[int, str]:
            messages: list[Any] = [{"role": "user", "content": text}]
            reply = await here.client.chat(
                "gpt-4o-mini", headers=[(b"x-session-id", session)], messages=messages
            )
            error = msgspec.json.decode(reply.body).get("error", {})
            return reply.status, error.get("code", "")

        same = [await turn("Again!", b"stuck") for _ in range(11)]
        assert same == [(200, "")] * 10 + [(429, "loop_detected")]
        growing = [await turn(f"Step {number}", b"lost") for number in range(201)]
        assert growing == [(200, "")] * 200 + [(429, "run_limit_exceeded")]
