"""How long the books keep what."""

from __future__ import annotations

import msgspec


class RetentionConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Days after which parts of the books are deleted, 0 for never. `rows`: single calls. `hours`:
    sums by the hour; after that, reports and statements count whole days. `days`: sums by the day;
    after that, whole months, which stay for ever. `hours` should be at least `rows`, and `days` at
    least `hours`.

    Nothing is deleted that a statement has not closed, once there is any closed statement."""

    rows: int = 400
    hours: int = 400
    days: int = 0
