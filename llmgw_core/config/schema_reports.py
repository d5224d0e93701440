"""What reports may show."""

from __future__ import annotations

import msgspec


class ReportsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`users: true` allows reports by user, and by keys that belong to users. `minimum_group`: sums
    that stem from fewer users than that are merged with others, or left out. `cost_header: true`
    adds `x-llmgw-cost` to replies: what the call was charged, in the currency of the books (streams
    have none: their head leaves before it is known)."""

    users: bool = False
    minimum_group: int = 1
    cost_header: bool = False
