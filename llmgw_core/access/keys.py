"""API keys: how one is made, recognised and digested. Pure; randomness is passed in.

A key is `sk-llmgw-`, 43 base62 characters that carry 256 random bits, and 6 base62 characters
of a CRC-32 over everything before them. The fixed prefix and the checksum let secret scanners
find leaked keys and let the gateway refuse typing errors without asking the database. The
checksum adds no strength: that is in the 256 bits alone, which is also why one round of
SHA-256, without salt, is enough to store a key.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PREFIX = "sk-llmgw-"
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM_BYTES = 32
_BODY_LENGTH = 43
_CHECKSUM_LENGTH = 6
_LENGTH = len(PREFIX) + _BODY_LENGTH + _CHECKSUM_LENGTH
HINT_LENGTH = 4


def generate(randomness: Callable[[int], bytes]) -> str:
    """A new key. `randomness(n)` returns `n` random bytes, e.g. `secrets.token_bytes`."""
    number = int.from_bytes(randomness(_RANDOM_BYTES), "big")
    body = PREFIX + base62(number, _BODY_LENGTH)
    return body + _checksum(body)


def well_formed(text: str) -> bool:
    """Whether `text` can be a key at all: prefix, length, alphabet and checksum."""
    if len(text) != _LENGTH or not text.startswith(PREFIX):
        return False
    if not (text.isascii() and text[len(PREFIX) :].isalnum()):
        return False
    return _checksum(text[:-_CHECKSUM_LENGTH]) == text[-_CHECKSUM_LENGTH:]


def digest(key: str) -> bytes:
    """The SHA-256 under which a key is stored and looked up; defined for any text."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def hint(key: str) -> str:
    """The last characters of a key, by which its owner recognises it in a list."""
    return key[-HINT_LENGTH:]


def base62(number: int, length: int) -> str:
    """`number` in base 62, padded with zeros to `length` characters."""
    digits = []
    for _ in range(length):
        number, remainder = divmod(number, 62)
        digits.append(_ALPHABET[remainder])
    return "".join(reversed(digits))


def _checksum(body: str) -> str:
    return base62(zlib.crc32(body.encode("ascii")), _CHECKSUM_LENGTH)
