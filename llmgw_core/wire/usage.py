"""The usage object of OpenAI and of those who speak its form, read tolerantly.

A provider's odd usage must never fail a good call. What is not plausible (absent, of a wrong type,
negative, all zero) is left out, class by class; without plausible input and output the whole reads
as None, and the books then say `estimated` instead of a silent zero.

Providers disagree about what is a part of what. `total_tokens` decides: where it is more than
prompt and completion, the rest is what they leave out of them, reasoning or cached input if they
name as much, else output that was not shown. A few leave reasoning out of the total, too: what is
far more than the completion cannot be a part of it. In a `Usage` every class is a part of its sum.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec.structs import astuple

from llmgw_core.domain.usage import Usage, UsageDetails

_LARGEST = 2**53
_HIDDEN = 1_000_000
"""Output that nobody names is believed up to this; beyond it, it is the total that is odd."""
_NOT_A_PART = 2
"""So many times the completion, reasoning is beside it; a little more is counted otherwise only."""
_Count = Annotated[int, msgspec.Meta(ge=0, le=_LARGEST)]


class _Plain(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """What most engines say, and nothing else."""

    prompt_tokens: _Count
    completion_tokens: _Count
    total_tokens: _Count


class _OfInput(msgspec.Struct, gc=False):
    """The classes of input, by all the names that are in use."""

    cached_tokens: _Count | None = None
    audio_tokens: _Count | None = None
    image_tokens: _Count | None = None
    cache_write_tokens: _Count | None = None
    cache_creation_tokens: _Count | None = None
    cache_creation_input_tokens: _Count | None = None


class _OfOutput(msgspec.Struct, gc=False):
    """The classes of output."""

    reasoning_tokens: _Count | None = None
    audio_tokens: _Count | None = None
    image_tokens: _Count | None = None
    accepted_prediction_tokens: _Count | None = None
    rejected_prediction_tokens: _Count | None = None


class _Usage(msgspec.Struct, gc=False):
    """The names of OpenAI, its Responses API, Anthropic, and single ones of other providers."""

    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    total_tokens: _Count | None = None
    prompt_tokens_details: _OfInput | None = None
    prompt_token_details: _OfInput | None = None
    completion_tokens_details: _OfOutput | None = None
    prompt_cache_hit_tokens: _Count | None = None
    cached_tokens: _Count | None = None
    num_cached_tokens: _Count | None = None
    reasoning_tokens: _Count | None = None
    cache_read_input_tokens: _Count | None = None
    cache_creation_input_tokens: _Count | None = None
    input_tokens: _Count | None = None
    output_tokens: _Count | None = None
    input_tokens_details: _OfInput | None = None
    output_tokens_details: _OfOutput | None = None


_plain = msgspec.json.Decoder(_Plain).decode
_usage = msgspec.json.Decoder(_Usage | None).decode
_NO_INPUT, _NO_OUTPUT = _OfInput(), _OfOutput()
_PLAIN_SIZE = 80
"""Bytes within which `_Plain` is tried; with anything else in it an object is rarely as short."""


def read_usage(raw: msgspec.Raw | bytes, *, embeddings: bool = False) -> Usage | None:
    """The usage in a raw JSON value, or None when there is none to be trusted. Of `embeddings`
    everything is input."""
    if not raw:
        return None
    if len(raw) <= _PLAIN_SIZE:
        try:
            plain = _plain(raw)
        except (msgspec.DecodeError, RecursionError):
            pass
        else:
            input, output = plain.prompt_tokens, plain.completion_tokens
            if 0 < input + output == plain.total_tokens:
                return Usage(input, output)
    try:
        wire = _usage(raw)
    except (msgspec.DecodeError, RecursionError):
        wire = _mended(raw)
    return None if wire is None else _read(wire, embeddings=embeddings)


def _read(wire: _Usage, *, embeddings: bool) -> Usage | None:
    sums = _sums(wire, embeddings=embeddings)
    if sums is None:
        return None
    input, output = sums
    of_input = (
        wire.prompt_tokens_details
        or wire.input_tokens_details
        or wire.prompt_token_details
        or _NO_INPUT
    )
    of_output = wire.completion_tokens_details or wire.output_tokens_details or _NO_OUTPUT
    cached, written = _cache(wire, of_input)
    reasoning = of_output.reasoning_tokens or wire.reasoning_tokens or 0
    rest = 0 if wire.total_tokens is None or embeddings else wire.total_tokens - input - output
    if wire.cache_read_input_tokens or wire.cache_creation_input_tokens:
        beside = cached + written
        anthropic = wire.prompt_tokens is None and wire.total_tokens is None
        if anthropic or rest in (beside, beside + reasoning) or beside > input:
            input += beside
            rest -= beside
    if rest == reasoning or 0 < rest <= _HIDDEN:
        output += rest
        reasoning = min(reasoning or rest, output)
    elif reasoning > output:
        if wire.total_tokens is None or reasoning > _NOT_A_PART * output:
            output += reasoning
        else:
            reasoning = output
    if not 0 < input + output <= _LARGEST:
        return None
    return _divided(input, output, cached, reasoning, written, of_input, of_output)


def _cache(wire: _Usage, of_input: _OfInput) -> tuple[int, int]:
    """Tokens read from the provider's cache, and written into it."""
    read = (
        of_input.cached_tokens
        or wire.prompt_cache_hit_tokens
        or wire.cache_read_input_tokens
        or wire.cached_tokens
        or wire.num_cached_tokens
        or 0
    )
    written = (
        of_input.cache_write_tokens
        or of_input.cache_creation_tokens
        or of_input.cache_creation_input_tokens
        or wire.cache_creation_input_tokens
        or 0
    )
    return read, written


def _sums(wire: _Usage, *, embeddings: bool) -> tuple[int, int] | None:
    """Input and output as far as they are told apart."""
    input = wire.input_tokens if wire.prompt_tokens is None else wire.prompt_tokens
    output = wire.output_tokens if wire.completion_tokens is None else wire.completion_tokens
    total = wire.total_tokens
    if embeddings:
        input = total if input is None else input
        return None if input is None else (input, output or 0)
    if total is not None:
        if output is None and input is not None:
            output = max(0, total - input)
        elif input is None and output is not None:
            input = max(0, total - output)
    return None if input is None or output is None else (input, output)


def _divided(
    input: int,
    output: int,
    cached: int,
    reasoning: int,
    written: int,
    of_input: _OfInput,
    of_output: _OfOutput,
) -> Usage:
    """The classes within the sums: none is larger than what the ones before it have left."""
    if cached > input:
        cached = 0
    if not (written or of_input.audio_tokens or of_input.image_tokens or _special(of_output)):
        return Usage(input, output, cached, reasoning)
    left = input - cached
    written = min(written, left)
    audio = min(of_input.audio_tokens or 0, left - written)
    image = min(of_input.image_tokens or 0, left - written - audio)
    left = output - reasoning
    audio_out = min(of_output.audio_tokens or 0, left)
    image_out = min(of_output.image_tokens or 0, left - audio_out)
    rejected = min(of_output.rejected_prediction_tokens or 0, left - audio_out - image_out)
    left -= audio_out + image_out + rejected
    accepted = min(of_output.accepted_prediction_tokens or 0, left)
    details = UsageDetails(written, audio, audio_out, image, image_out, accepted, rejected)
    given = details if any(astuple(details)) else None
    return Usage(input, output, cached, reasoning, details=given)


def _special(of_output: _OfOutput) -> bool:
    return bool(
        of_output.audio_tokens
        or of_output.image_tokens
        or of_output.accepted_prediction_tokens
        or of_output.rejected_prediction_tokens
    )


def _mended(raw: msgspec.Raw | bytes) -> _Usage | None:
    """An object with something odd in it: what makes sense of it."""
    try:
        found = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return None
    return _Usage(**_counts(found, _Usage)) if isinstance(found, dict) else None


def _counts(found: dict[str, Any], kind: type[msgspec.Struct]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name in kind.__struct_fields__:
        value, inner = found.get(name), _INNER.get(name)
        if inner is None:
            kept[name] = _count(value)
        elif isinstance(value, dict):
            kept[name] = inner(**_counts(value, inner))
    return kept


_INNER: dict[str, type[msgspec.Struct]] = {
    "prompt_tokens_details": _OfInput,
    "prompt_token_details": _OfInput,
    "completion_tokens_details": _OfOutput,
    "input_tokens_details": _OfInput,
    "output_tokens_details": _OfOutput,
}


def _count(value: Any) -> int | None:
    """A number of tokens, also as `12.0` or, where 64 bits travel as text, as `"12"`."""
    if isinstance(value, str):
        value = int(value) if value.isascii() and value.isdigit() and len(value) <= 16 else None
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= _LARGEST else None
