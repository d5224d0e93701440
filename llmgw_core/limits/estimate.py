"""How many tokens a text will be, before the provider has said so.

Rule of this file: no tokenizer and no clock. Providers report exact usage after each call; the
ratio of bytes to tokens and the usual length of an answer are learned from that, per model.
"""

from __future__ import annotations

FIRST_RATIO = 4.0
"""Bytes per token before anything was learned: English prose in common vocabularies."""

LOWEST_RATIO = 1.0
HIGHEST_RATIO = 16.0
"""A sample outside (a picture in the request, hidden reasoning) is taken as the bound."""

RATIO_WEIGHT = 1 / 16
"""What a new sample weighs against all earlier ones."""

QUANTILE = 0.95
HIGHEST_OUTPUT = 1_000_000.0

_FIRST_STEP = 0.6
_LAST_STEP = 0.05
_STEP_DECAY = 0.98


class _Learned:
    """What is known of one model.

    `output` approaches the quantile in relative steps: up by QUANTILE of a step when an answer
    was longer, down by the rest when not, which is in balance when that share of the answers is
    shorter (stochastic approximation, Robbins and Monro 1951). Steps shrink to a floor, so that
    it settles at first and follows changes ever after.
    """

    __slots__ = ("input_ratio", "output", "output_ratio", "step")

    def __init__(self, output: float) -> None:
        self.input_ratio = FIRST_RATIO
        self.output_ratio = FIRST_RATIO
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
            ratio = _ratio(input_bytes, input_tokens)
            learned.input_ratio += RATIO_WEIGHT * (ratio - learned.input_ratio)
        if output_tokens <= 0:
            return
        if output_bytes > 0:
            ratio = _ratio(output_bytes, output_tokens)
            learned.output_ratio += RATIO_WEIGHT * (ratio - learned.output_ratio)
        step, tokens = learned.step, output_tokens
        if tokens > learned.output:
            learned.output = min(HIGHEST_OUTPUT, learned.output * (1 + QUANTILE * step))
        else:
            shorter = learned.output * (1 - (1 - QUANTILE) * step)
            learned.output = shorter if shorter > 1.0 else 1.0  # noqa: FURB136 -- a call is dear here
        if step > _LAST_STEP:
            learned.step = step * _STEP_DECAY


def _ratio(nbytes: int, tokens: int) -> float:
    ratio = nbytes / tokens
    if ratio < LOWEST_RATIO:
        return LOWEST_RATIO
    return HIGHEST_RATIO if ratio > HIGHEST_RATIO else ratio  # noqa: FURB136 -- a call is dear here
