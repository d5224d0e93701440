"""Aliases: public names that lead to models, in shares, and canary rollouts on them."""

from __future__ import annotations

from typing import Literal

import msgspec

Sticky = Literal["user", "session", "key", "call"]


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model that an alias leads to. `weight` is its share, relative to those of the others."""

    model: str
    weight: int = 1


class CanaryRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a canary of an alias is taken out by itself, and the shares of its steps in percent.

    `errors`: a share of failed calls that is this much above the baseline's (0.1: 1 % there, 11 %
    here) is what is looked for; null looks for none. `slower`: the same with the first token, whose
    time counts as slow beyond this many times the baseline's median; null looks for none.
    `minimum_calls`: nothing is decided before the canary has had that many."""

    steps: tuple[float, ...] = (5.0, 25.0, 50.0)
    minimum_calls: int = 20
    errors: float | None = 0.1
    slower: float | None = 2.0


class Alias(msgspec.Struct, frozen=True):
    """Where an alias leads. Whoever has the same `sticky` mark gets the same variant: the user (the
    request's `user` field, else the user of the key), the session (the header `session_header`),
    the key; or every call by itself."""

    variants: tuple[Variant, ...]
    sticky: Sticky = "user"
    session_header: str = "x-session-id"
    canary: CanaryRules = CanaryRules()


class EmbeddingTarget(msgspec.Struct, frozen=True):
    """What an alias of embeddings leads to; `dimensions` as far as the configuration says."""

    model: str
    dimensions: int | None = None

    def replaces(self, old: EmbeddingTarget) -> bool:
        """Whether vectors of `old` are of no use with these. Dimensions that were not given
        before, or are not now, are no other ones."""
        known = None not in {self.dimensions, old.dimensions}
        return self.model != old.model or (known and self.dimensions != old.dimensions)

    def __str__(self) -> str:
        """For messages."""
        size = "" if self.dimensions is None else f" with {self.dimensions} dimensions"
        return f"`{self.model}`{size}"
