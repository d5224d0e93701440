"""The typed sections `routing.streams` and `routing.overload`: what clients see of a stream that
has not begun, and what happens when more calls come than can be served."""

from __future__ import annotations

from typing import Literal

import msgspec

Priority = Literal["high", "normal", "low"]


class StreamsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Leading events of a stream that say nothing yet (a role, empty deltas, comments) are held,
    so that a failure until then can go elsewhere: `held_bytes` and `held_events` at most. With more
    of them the stream is handed over as it is.

    `keep_alive_seconds`: while a client waits for the first content of its stream, in the queue or
    for the model, it gets a comment every so many seconds, which keeps connections open that a
    proxy on the way would close. Its reply has begun then with status 200: what fails later is told
    in an error event. Without it nothing is sent before the first content."""

    held_bytes: int = 64 * 1024
    held_events: int = 512
    keep_alive_seconds: float | None = None


class QueueRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Calls that this rule is for: all that is given must fit. `organization`, `team` and `user`
    are names or ids, `key` is an id or a name, `tag` one of the tags of the asked model. They
    wait with this `priority`, and their organisation is due `weight` times as many slots as one
    with weight 1."""

    organization: str = ""
    team: str = ""
    user: str = ""
    key: str = ""
    tag: str = ""
    priority: Priority = "normal"
    weight: float = 1.0


class OverloadConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What happens when more calls come than can be served. `in_flight`: how many calls the whole
    gateway serves at once; without it there is no such cap. Deployments have caps of their own.

    `queue`: calls that find no slot wait for one, and the queue of that name says who is next:
    `fair` is the gateway's own (by priority, fair among organisations), plugins may register
    others; `none` refuses them at once. At most `length` calls wait in each priority, and each at
    most `wait_seconds`; who cannot wait or has waited that long gets 503 with `retry-after`. The
    first of `rules` that fits a call says how urgent it is; without one it is `normal`."""

    in_flight: int | None = None
    queue: str = "none"
    length: int = 1000
    wait_seconds: float = 30.0
    rules: tuple[QueueRule, ...] = ()
