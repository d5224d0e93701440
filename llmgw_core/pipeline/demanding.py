"""What a call needs of meters that count more than requests and all tokens. Only lanes with such
meters (`Lane.demanding`) come here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgw_core.limits.port import Demand

if TYPE_CHECKING:
    from llmgw_core.domain.call import Call
    from llmgw_core.domain.usage import Usage
    from llmgw_core.pipeline.lane import Lane


def demand_of(call: Call, lane: Lane, input_tokens: int, tokens: int) -> Demand:
    """The demand of a call with so many tokens of input, and `tokens` altogether. An expected
    output is a guess, which must not make a call impossible that may fit."""
    output = max(0, tokens - input_tokens)
    most = lane.output_limit
    if most is not None and call.request.max_tokens is None and output > most:
        output = most
    return Demand(input_tokens, output)


def used_of(usage: Usage, charge: int) -> Demand:
    """What a call has used."""
    return Demand(usage.input_tokens, usage.output_tokens, charge)
