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


class Lots:
    """The numbers that belong to `texts` and to one more: equally distributed in (0, 1). The part
    that is always the same is hashed once."""

    __slots__ = ("_hash",)

    def __init__(self, *texts: str) -> None:
        self._hash = hashlib.blake2b(digest_size=8)
        for text in texts:
            encoded = _bytes(text)
            # With its length, or ("ab", "c") would be ("a", "bc").
            self._hash.update(len(encoded).to_bytes(8, "big"))
            self._hash.update(encoded)

    def number(self, mark: str) -> float:
        """That of `mark`."""
        digest = self._hash.copy()
        digest.update(_bytes(mark))
        return ((int.from_bytes(digest.digest(), "big") >> 11) + 0.5) / 2**53


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


class Weighted(Protocol):
    """Something with a share."""

    @property
    def lots(self) -> Lots:
        """Its numbers."""
        ...

    @property
    def weight(self) -> int:
        """Its share, relative to the others'; greater than 0."""
        ...


V = TypeVar("V", bound=Weighted)


def lots_of_variant(alias: str, model: str) -> Lots:
    """What decides who gets a variant."""
    return Lots("variant", alias, model)


def lots_of_canary(alias: str, model: str) -> Lots:
    """What decides who is in the share of a canary."""
    return Lots("canary", alias, model)


def pick(mark: str, variants: Iterable[V]) -> V:
    """The variant for `mark`. Raises `ValueError` when there is none."""
    return max(variants, key=lambda each: each.weight / -math.log(each.lots.number(mark)))


def in_share(lots: Lots, mark: str, percent: float) -> bool:
    """Whether `mark` is among the `percent` that a canary gets. Who is among them stays there when
    the share grows."""
    return lots.number(mark) * 100.0 < percent
