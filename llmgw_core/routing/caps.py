"""The port to the caps of a deployment, which are counted elsewhere."""

from __future__ import annotations

from typing import Literal, Protocol

Full = tuple[Literal["requests", "tokens", "parallel", "money"], str, float]
"""That there is no room for a call: the unit of the cap, what it is in words, and the seconds until
there may be room."""


class CapTicket(Protocol):
    """What an attempt holds of the caps of its deployment; given back once, in either way."""

    def settle(self, tokens: int) -> None:
        """The attempt has used so many tokens."""
        ...

    def release(self) -> None:
        """Nothing has reached the deployment."""
        ...


class Caps(Protocol):
    """The caps of one deployment."""

    def full(self, tokens: int) -> Full | None:
        """Why a call that may use `tokens` has no room now. Counts nothing."""
        ...

    def take(self, tokens: int) -> CapTicket | None:
        """Count such a call in all caps at once, or in none when it has no room."""
        ...
