"""What is wrong with limits that a configuration sets: of models, aliases and deployments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgw_core.config.errors import join
from llmgw_core.domain.errors import ConfigError
from llmgw_core.domain.limit_rules import LIMIT_NAMES, problems

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmgw_core.domain.limits import Limits

_OF_ONE_KIND = ("input_tpm", "output_tpm", "input_tpd", "output_tpd")


def limit_errors(
    limits: Limits, path: str, instead: str = "switch a model off"
) -> Iterator[ConfigError]:
    """`instead`: what 0 does not do, "" if there is nothing to say of it."""
    why = f" (0 would refuse every call: to {instead}, remove it)" if instead else ""
    for field, problem in problems(limits):
        too_small = field in LIMIT_NAMES and getattr(limits, field) < 1
        message = f"must be at least 1; leave it out for no limit{why}" if too_small else problem
        yield ConfigError(f"{message}.", path=join(path, field))


def cap_errors(caps: Limits, path: str) -> Iterator[ConfigError]:
    """Of the caps of a deployment."""
    yield from limit_errors(caps, path, "take the deployment out of use")
    for field in _OF_ONE_KIND:
        if getattr(caps, field) is not None:
            message = (
                "a deployment is capped by all of its tokens: use tpm or tpd. Tokens of one kind"
                " can be limited on the model."
            )
            yield ConfigError(message, path=join(path, field))
