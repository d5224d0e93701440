"""OpenAI's usage object, read tolerantly: a provider's odd usage must never fail a good call.

Anything that is not plausible (absent, wrong types, negative, all zero) reads as None, and the
books then say `estimated` instead of a silent zero.
"""

from __future__ import annotations

import msgspec

from llmgw_core.domain.usage import Usage


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None


_usage = msgspec.json.Decoder(_Usage | None)
_LARGEST = 2**53


def read_usage(raw: msgspec.Raw | bytes) -> Usage | None:
    """The usage in a raw JSON value, or None when there is none to be trusted."""
    if not raw:
        return None
    try:
        wire = _usage.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return None
    if wire is None:
        return None
    output = wire.completion_tokens
    if output is None:
        output = max(0, (wire.total_tokens or 0) - wire.prompt_tokens)
    input = wire.prompt_tokens
    if not 0 < input + output < _LARGEST or input < 0 or output < 0:
        return None
    input_details, output_details = wire.prompt_tokens_details, wire.completion_tokens_details
    if input_details is None and output_details is None:
        return Usage(input, output)
    cached = (input_details and input_details.cached_tokens) or 0
    reasoning = (output_details and output_details.reasoning_tokens) or 0
    if not (0 <= cached <= input and reasoning >= 0):
        cached = reasoning = 0
    return Usage(input, output, cached, min(reasoning, output))
