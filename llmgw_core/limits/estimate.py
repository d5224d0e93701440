"""How many tokens a text will be, before the provider has said so.

Rule of this file: no tokenizer and no clock. Providers report exact usage after each call; the
ratio of bytes to tokens and the usual length of an answer are learned from that, per model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

FIRST_RATIO = 4.0
"""Bytes per token before anything was learned: English prose in common vocabularies."""

LOWEST_RATIO = 1.0
HIGHEST_RATIO = 16.0
"""A sample outside (a picture in the request, hidden reasoning) is taken as the bound, and never
weighs more than others."""

RATIO_WEIGHT = 1 / 16
"""What a new sample weighs against all earlier ones; the first ones weigh as much as each other."""

QUANTILE = 0.95
HIGHEST_OUTPUT = 1_000_000.0

_FIRST_STEP = 0.6
_LAST_STEP = 0.05
_STEP_DECAY = 0.98


class Lengths(NamedTuple):
    """What was learned of one model, to be kept: bytes per token of requests and of answers, the
    length of answers in tokens, and how far that still moves."""

    input_ratio: float
    output_ratio: float
    output: float
    step: float


class _Learned:
    """What is known of one model. A ratio is a mean of samples and so never outside of what was
    seen: the first sample replaces the first guess.

    `output` approaches the quantile in relative steps: up by QUANTILE of a step when an answer
    was longer, down by the rest when not, which is in balance when that share of the answers is
    shorter (stochastic approximation, Robbins and Monro 1951). Steps shrink to a floor, so that
    it settles at first and follows changes ever after.
    """

    __slots__ = (
        "input_ratio",
        "input_weight",
        "output",
        "output_ratio",
        "output_weight",
        "step",
    )

    def __init__(self, output: float) -> None:
        self.input_ratio = FIRST_RATIO
        self.output_ratio = FIRST_RATIO
        self.input_weight = 1.0
        self.output_weight = 1.0
        self.output = output
        self.step = _FIRST_STEP


class TokenEstimator:
    """Estimates per model. Names must be configured ones: each that learns is remembered."""

    __slots__ = ("_default", "_models")

    def __init__(self, default_output: int = 256) -> None:
        self._default = _Learned(float(default_output))
        self._models: dict[str, _Learned] = {}

    def expect(self, default_output: int) -> None:
        """From now on that is the length of an answer of which nothing is known."""
        self._default = _Learned(float(default_output))

    def input_tokens(self, model: str, nbytes: int) -> int:
        """Tokens of a request of `nbytes` bytes, rounded up."""
        return -int(-nbytes // self._models.get(model, self._default).input_ratio)

    def output_tokens(self, model: str, nbytes: int) -> int:
        """Tokens of `nbytes` bytes of answer, rounded up."""
        return -int(-nbytes // self._models.get(model, self._default).output_ratio)

    def expected_output(self, model: str) -> int:
        """Tokens that 95 % of the answers do not exceed, as far as is known; at least 1."""
        return int(self._models.get(model, self._default).output + 0.5)

    def known(self) -> dict[str, Lengths]:
        """What was learned so far, by model."""
        return {
            model: Lengths(each.input_ratio, each.output_ratio, each.output, each.step)
            for model, each in self._models.items()
        }

    def adopt(self, known: Mapping[str, Lengths]) -> None:
        """Go on from what was learned before. What cannot be (somebody has written it by hand) is
        left out; so are models of which something is known already."""
        for model, lengths in known.items():
            if model in self._models or not _possible(lengths):
                continue
            learned = self._models[model] = _Learned(lengths.output)
            learned.step = lengths.step
            if lengths.input_ratio != FIRST_RATIO:
                learned.input_ratio, learned.input_weight = lengths.input_ratio, RATIO_WEIGHT
            if lengths.output_ratio != FIRST_RATIO:
                learned.output_ratio, learned.output_weight = lengths.output_ratio, RATIO_WEIGHT

    def learn(
        self, model: str, input_bytes: int, input_tokens: int, output_bytes: int, output_tokens: int
    ) -> None:
        """A request of `input_bytes` bytes was `input_tokens` tokens and its answer of
        `output_bytes` bytes `output_tokens` tokens, says the provider. 0 of one of them: it does
        not tell, except that an answer without text still tells how long answers are."""
        learned = self._models.get(model)
        if learned is None:
            if input_bytes * input_tokens <= 0 >= output_tokens:
                return
            learned = self._models[model] = _Learned(self._default.output)
        if input_bytes > 0 and input_tokens > 0:
            ratio, weight = input_bytes / input_tokens, learned.input_weight
            if not LOWEST_RATIO <= ratio <= HIGHEST_RATIO:
                ratio, weight = _bound(ratio), RATIO_WEIGHT
            elif weight > RATIO_WEIGHT:
                learned.input_weight = _next(weight)
            learned.input_ratio += weight * (ratio - learned.input_ratio)
        if output_tokens <= 0:
            return
        if output_bytes > 0:
            ratio, weight = output_bytes / output_tokens, learned.output_weight
            if not LOWEST_RATIO <= ratio <= HIGHEST_RATIO:
                ratio, weight = _bound(ratio), RATIO_WEIGHT
            elif weight > RATIO_WEIGHT:
                learned.output_weight = _next(weight)
            learned.output_ratio += weight * (ratio - learned.output_ratio)
        step, tokens = learned.step, output_tokens
        if tokens > learned.output:
            learned.output = min(HIGHEST_OUTPUT, learned.output * (1 + QUANTILE * step))
        else:
            shorter = learned.output * (1 - (1 - QUANTILE) * step)
            learned.output = shorter if shorter > 1.0 else 1.0  # noqa: FURB136 -- a call is dear here
        if step > _LAST_STEP:
            learned.step = step * _STEP_DECAY


def _possible(lengths: Lengths) -> bool:
    ratios = (lengths.input_ratio, lengths.output_ratio)
    return (
        all(LOWEST_RATIO <= ratio <= HIGHEST_RATIO for ratio in ratios)
        and 1.0 <= lengths.output <= HIGHEST_OUTPUT
        and 0.0 < lengths.step <= _FIRST_STEP
    )


def _bound(ratio: float) -> float:
    return LOWEST_RATIO if ratio < LOWEST_RATIO else HIGHEST_RATIO


def _next(weight: float) -> float:
    """One half after the first sample, a third after the second, down to `RATIO_WEIGHT`."""
    return max(RATIO_WEIGHT, weight / (1.0 + weight))
