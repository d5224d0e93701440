"""How deployments come into use that are new, or were ill and are well again."""

from __future__ import annotations

import msgspec


class Ramp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A new or recovered deployment is a candidate for the share `start` (0 to 1) of the calls, and
    after `seconds` for all of them; in between the share grows evenly. 0 seconds: for all at once.
    Where nobody else can take a call it always is one."""

    seconds: float = 30.0
    start: float = 0.1

    def share(self, since: float, now: float) -> float:
        """The share at `now` of who is a candidate `since`; at most 1."""
        passed = now - since
        if passed >= self.seconds:
            return 1.0
        return max(self.start, passed / self.seconds)
