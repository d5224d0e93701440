"""Which variant of an alias: weighted rendezvous hashing, without any state.

Every pair of a mark (a user, a session, a key) and a variant has a number of its own in (0, 1),
drawn by a hash; the variant with the largest `weight / -ln(number)` is taken. Each gets exactly its
share of the marks, in every process and after every restart the same ones. Where one weight
changes, marks move to or from that variant only. (The scheme is that of weighted distributed
hash tables, Schindelhauer and Schomaker 2005, in its logarithmic form.)
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable


class Weighted(Protocol):
    """Something with a name and a share."""

    @property
    def name(self) -> str:
        """What it is hashed by."""
        ...

    @property
    def weight(self) -> int:
        """Its share, relative to the others'; greater than 0."""
        ...


V = TypeVar("V", bound=Weighted)


def number(*texts: str) -> float:
    """A number in (0, 1) that belongs to `texts`; equally distributed over different ones."""
    digest = hashlib.blake2b(digest_size=8)
    for text in texts:
        encoded = text.encode(errors="surrogatepass")
        # With its length, or ("ab", "c") would be ("a", "bc").
        digest.update(len(encoded).to_bytes(8, "big"))
        digest.update(encoded)
    return ((int.from_bytes(digest.digest(), "big") >> 11) + 0.5) / 2**53


def pick(alias: str, mark: str, variants: Iterable[V]) -> V:
    """The variant of `alias` for `mark`. Raises `ValueError` when there is none."""
    return max(variants, key=lambda each: each.weight / -math.log(number(alias, each.name, mark)))


def in_share(alias: str, model: str, mark: str, percent: float) -> bool:
    """Whether `mark` is among the `percent` that a canary `model` of `alias` gets. Who is among
    them stays there when the share grows."""
    return number("canary", alias, model, mark) * 100.0 < percent
