"""A secret that may change while the gateway runs.

Calls read `value`, an attribute: nothing is looked up for them. Whoever knows where a secret comes
from (a file, some day a token server) changes it behind their backs.
"""

from __future__ import annotations


class Credential:
    """A secret that never changes. `value` is the secret now, empty for none."""

    __slots__ = ("value",)

    def __init__(self, value: str = "") -> None:
        self.value = value

    async def get(self) -> str:
        """The secret, looked up anew if it was invalidated and there is where to look."""
        return self.value

    def invalidate(self) -> bool:
        """Say that whom it was shown to refused it. True: `get` may now give another one."""
        return False

    @property
    def identity(self) -> tuple[str, str]:
        """Equal for two that always have the same value."""
        return ("value", self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Credential) and self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.identity)

    def __bool__(self) -> bool:
        """Whether there is one."""
        return bool(self.value)

    def __repr__(self) -> str:
        """Never the secret."""
        return f"{type(self).__name__}({'set' if self.value else 'empty'})"


NO_CREDENTIAL = Credential()
