"""`x-llmgw-zone`: a caller confines one call to some of the zones that he may use.

It narrows and never widens: a zone that is not allowed stays so. A zone that no deployment is in is
a mistake and refused, and so is a header that is there twice: nobody could say which line holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llmgw_core.domain.errors import invalid_request

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llmgw_core.domain.call import Head
    from llmgw_core.domain.deployment import Model
    from llmgw_core.pipeline.lane import Lanes

ZONE: Final = b"x-llmgw-zone"
_READ = 256
"""Different values that are remembered."""


class ZoneHeader:
    """Reads the header; one per generation."""

    def __init__(self, models: Iterable[Model]) -> None:
        self._known = frozenset(each.zone for model in models for each in model.deployments)
        self._read: dict[bytes, frozenset[str]] = {}

    def narrow(self, lanes: Lanes, head: Head) -> Lanes:
        """`lanes` within the zones that `head` names. Raises `GatewayError` 400."""
        values = [value for name, value in head.headers if name == ZONE]
        if len(values) != 1:
            raise _mistake("The header x-llmgw-zone is given twice; give one, with commas.")
        zones = self._read.get(values[0])
        if zones is None:
            zones = self._zones(values[0])
            if len(self._read) < _READ:
                self._read[values[0]] = zones
        return lanes.within(zones)

    def _zones(self, value: bytes) -> frozenset[str]:
        names = [name.strip() for name in value.decode("latin-1").split(",")]
        for name in names:
            if not name:
                raise _mistake("The header x-llmgw-zone names zones, separated by commas.")
            if name not in self._known:
                raise _mistake(f"There is no zone '{name[:50]}' here.")
        return frozenset(names)


def _mistake(message: str) -> Exception:
    return invalid_request(message, param="x-llmgw-zone", code="invalid_zone")
