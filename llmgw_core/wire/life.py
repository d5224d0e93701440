"""The life of a name in the words of HTTP.

`Deprecation` is RFC 9745, a date of structured fields (`@` and seconds since the epoch); `Sunset`
is RFC 8594, a date of RFC 9110, section 5.6.7. `Link` (RFC 8288) leads to the successor
(`successor-version`, RFC 5829) and to the page about it (`deprecation`, RFC 9745, section 3).
"""

from __future__ import annotations

import datetime as dt
from email.utils import format_datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from llmgw_core.domain.life import Life


def life_headers(life: Life, *, successor: bool = True) -> tuple[tuple[bytes, bytes], ...]:
    """The headers of every answer about a name with this life; none for one that nothing was
    announced of. Without `successor` the name of it is left out."""
    headers = []
    if life.deprecated is not None:
        headers.append((b"deprecation", b"@%d" % _midnight(life.deprecated).timestamp()))
    if life.sunset is not None:
        text = format_datetime(_midnight(life.sunset), usegmt=True)
        headers.append((b"sunset", text.encode()))
    if headers or life.state in {"deprecated", "retired"}:
        links = []
        if life.successor and successor:
            links.append(f'</v1/models/{quote(life.successor, safe="")}>; rel="successor-version"')
        if life.link:
            links.append(f'<{life.link}>; rel="deprecation"; type="text/html"')
        if links:
            headers.append((b"link", ", ".join(links).encode()))
    return tuple(headers)


def _midnight(day: dt.date) -> dt.datetime:
    return dt.datetime.combine(day, dt.time(), dt.UTC)
