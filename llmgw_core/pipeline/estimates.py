"""What a call used as far as no upstream has said it: by ratio, or by a tokenizer.

Which models have a tokenizer is known when a generation is built. All others, which is nearly
always all, are estimated by the ratio of bytes to tokens that was learned from exact answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llmgw_core.domain.reply import Reply
from llmgw_core.domain.usage import Usage
from llmgw_core.hooks.foreign import Foreign
from llmgw_core.hooks.registry import ITSELF
from llmgw_core.limits.tokenizers import MESSAGE_TOKENS, Counter
from llmgw_core.wire.request import BASE64_TOKENS
from llmgw_core.wire.texts import reply_texts, request_texts, stream_texts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llmgw_core.backends.port import StreamReader
    from llmgw_core.config.schema import Config
    from llmgw_core.limits.estimate import TokenEstimator
    from llmgw_core.limits.tokenizers import Tokenizer
    from llmgw_core.wire.request import RequestView

LARGEST_DECODED: Final = 4 * 1024 * 1024
"""Bytes of a request or reply beyond which nothing is decoded only to be counted."""


class KeptStream:
    """A `StreamReader` that remembers the beginning of what another one has let through. Nothing
    of it is kept longer than the call."""

    def __init__(self, reader: StreamReader, largest: int) -> None:
        self._reader = reader
        self._room = largest
        self._kept: list[bytes] = []

    content = property(lambda self: self._reader.content)
    finished = property(lambda self: self._reader.finished)
    done = property(lambda self: self._reader.done)
    usage = property(lambda self: self._reader.usage)
    output_bytes = property(lambda self: self._reader.output_bytes)

    def feed(self, data: bytes) -> bytes:
        """See the port."""
        return self._keep(self._reader.feed(data))

    def pending(self) -> bytes:
        """See the port."""
        return self._keep(self._reader.pending())

    def end(self) -> bytes:
        """See the port."""
        return self._keep(self._reader.end())

    def _keep(self, events: bytes) -> bytes:
        if events and self._room > 0:
            self._kept.append(events)
            self._room -= len(events)
        return events

    def texts(self) -> tuple[list[str], bool]:
        """What was kept, and whether it is all there was."""
        return stream_texts(b"".join(self._kept)), self._room > 0


class Estimates:
    """One per generation. `counters` are the tokenizers of those models that have one."""

    def __init__(self, estimator: TokenEstimator, counters: Mapping[str, Counter]) -> None:
        self.counters = counters
        self.counted = any(counter.at_admission for counter in counters.values())
        """Whether any requests are counted before they are admitted."""
        self._estimator = estimator

    def kept(self, model: str, reader: StreamReader) -> StreamReader:
        """`reader`, or one that keeps what the tokenizer of `model` may have to count."""
        return KeptStream(reader, LARGEST_DECODED) if model in self.counters else reader

    def input_tokens(self, model: str, request: RequestView) -> int:
        """What `request` is reserved for."""
        counter = self.counters.get(model)
        counted = None
        if counter is not None and counter.at_admission:
            counted = _input(counter, request)
        return self._input_by_ratio(model, request) if counted is None else counted

    def usage(
        self,
        model: str,
        request: RequestView,
        input_tokens: int,
        source: StreamReader | Reply | None,
    ) -> Usage:
        """What an attempt used that has sent `request`, reserved for `input_tokens`, and got as
        much as `source` has."""
        counter = self.counters.get(model)
        if counter is not None:
            counted = self._counted(counter, model, request, source)
            if counted is not None:
                return counted
        size = 0 if source is None else source.output_bytes
        return self.by_ratio(model, request, input_tokens, size)

    def by_ratio(
        self, model: str, request: RequestView, input_tokens: int, output_bytes: int
    ) -> Usage:
        """As `usage`, without any tokenizer."""
        output = self._estimator.output_tokens(model, output_bytes) if output_bytes else 0
        method = "ratio" if request.exact_tokens is None else "tokens"
        return Usage(input_tokens, output, source="estimated", method=method)

    def _counted(
        self,
        counter: Counter,
        model: str,
        request: RequestView,
        source: StreamReader | Reply | None,
    ) -> Usage | None:
        input = request.exact_tokens
        if input is None:
            input = _input(counter, request)
        output: int | None = 0
        if isinstance(source, KeptStream):
            texts, whole = source.texts()
            output = counter.tokens(texts, None if whole else source.output_bytes)
        elif isinstance(source, Reply) and len(source.body) <= LARGEST_DECODED:
            output = counter.tokens(reply_texts(source.body))
        elif source is not None:
            output = self._estimator.output_tokens(model, source.output_bytes)
        if input is None or output is None:
            return None
        return Usage(input, output, source="estimated", method=f"tokenizer:{counter.name}"[:40])

    def _input_by_ratio(self, model: str, request: RequestView) -> int:
        tokens = self._estimator.input_tokens(model, request.text_bytes)
        return tokens + request.embedded * BASE64_TOKENS


def _input(counter: Counter, request: RequestView) -> int | None:
    """Tokens of a request; None when it is too large to be counted, or the tokenizer fails."""
    if request.text_bytes > LARGEST_DECODED:
        return None
    counted = counter.tokens(request_texts(request))
    if counted is None:
        return None
    messages = request.fields.get("messages")
    around = 0 if messages is None else MESSAGE_TOKENS * max(1, bytes(messages).count(b'"role"'))
    return counted + around + request.embedded * BASE64_TOKENS


def counters_of(
    config: Config,
    factories: Mapping[str, Callable[[], Tokenizer]],
    made: Callable[[Callable[[], Tokenizer]], Tokenizer],
) -> dict[str, Counter]:
    """The counters of those models that name one of `factories`, which `made` makes once. Raises
    `ConfigError`."""
    counters: dict[str, Counter] = {}
    for model, section in config.models.items():
        if section.tokenizer is not None:
            name, factory = section.tokenizer.name, factories[section.tokenizer.name]
            counters[model] = Counter(
                name,
                made(factory),
                guard=Foreign(getattr(factory, "plugin", ITSELF), f"tokenizer {name}", "continue"),
                largest=section.tokenizer.max_bytes,
                at_admission=section.tokenizer.admission,
            )
    return counters
