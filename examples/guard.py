"""A guardrail for answers, streamed or not: words are masked, and a model may judge the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from llmgw_core import (
    Call,
    GatewayError,
    PluginContext,
    StreamEvent,
    SubcallError,
    TextFilter,
    hookimpl,
    mask_words,
)

if TYPE_CHECKING:
    import re
    from collections.abc import Sequence

REJECTED = GatewayError(400, "guardrail", "The answer was withheld.", type="policy_error")


class Seen:
    """What the guard keeps for one call."""

    def __init__(self) -> None:
        self.masked = 0


class Guard:
    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        words: tuple[str, ...]
        judge: str = ""  # a model that says "no" to answers that must not leave

    def __init__(self, config: Config, context: PluginContext) -> None:
        self.config = config
        self.context = context

    @hookimpl
    def open_stream(self, call: Call) -> GuardFilter:
        return GuardFilter(self, call)

    def masked(self, call: Call, found: re.Match[str]) -> str:
        self.context.state(call, Seen).masked += 1
        return "*" * len(found[0])

    async def judge(self, call: Call, text: str) -> None:
        question = f"May this be said? Answer yes or no.\n\n{text}"
        body = {"model": self.config.judge, "messages": [{"role": "user", "content": question}]}
        try:
            verdict = await self.context.chat(call, body)
        except SubcallError as failed:
            self.context.logger.warning("nobody judges %s: %s", call.id, failed)
            raise REJECTED from failed
        if verdict.text.lower().startswith("no"):
            raise REJECTED


class GuardFilter:
    """The filter of one stream."""

    def __init__(self, guard: Guard, call: Call) -> None:
        self.guard = guard
        self.call = call
        self.held: list[StreamEvent] = []
        self.words = TextFilter(
            lambda: mask_words(guard.config.words, lambda found: guard.masked(call, found))
        )

    def feed(self, event: StreamEvent) -> Sequence[StreamEvent]:
        events = self.words.feed(event)
        if not self.guard.config.judge:
            return events  # at once, but for what may be half of a word
        self.held += events
        return []

    async def finish(self) -> Sequence[StreamEvent]:
        events = self.held + self.words.finish()
        if self.guard.config.judge:
            text = "".join(choice.text for event in events for choice in event.choices)
            await self.guard.judge(self.call, text)
        return events

    def close(self) -> None:
        masked = self.guard.context.state(self.call, Seen).masked
        self.guard.context.metrics.counters["masked_total"] += masked
