"""What somebody asks of the usage API: parameters of a query as OpenAI's clients write them.

Rule of this file: pure; every wrong parameter is a 400 that names it. The parameters are those of
OpenAI's reference of `GET /v1/organization/usage/completions` and `GET /v1/organization/costs`;
`organization_ids`, the group `organization_id` and `side` are the gateway's own. A list comes as
`name=a&name=b`, `name[]=a&name[]=b` or `name=a,b`.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, NoReturn

import msgspec

from llmgw_core.domain.errors import invalid_request

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from llmgw_core.store.usage_report import Dimension

Subject = Literal["completions", "embeddings", "costs"]
Side = Literal["charge", "cost"]

HOUR: Final = 3_600
DAY: Final = 24 * HOUR
_LATEST: Final = 253_370_764_800
"""The start of the year 9999: buckets end before the last moment that there is a date for."""
_DIGITS: Final = 12
"""What a number has at most, zeros in front included."""
_LONGEST_LIST: Final = 1000


class Width(NamedTuple):
    """Seconds of a bucket; how many there are on a page, and at most."""

    seconds: int
    usual: int
    most: int


_USAGE_WIDTHS: Final = {"1d": Width(DAY, 7, 31), "1h": Width(HOUR, 24, 168)}
_WIDTHS: Final[Mapping[Subject, Mapping[str, Width]]] = {
    "completions": _USAGE_WIDTHS,
    "embeddings": _USAGE_WIDTHS,
    "costs": {"1d": Width(DAY, 7, 180)},
}

GROUPS: Final[Mapping[str, Dimension]] = {
    "organization_id": "organization",
    "project_id": "team",
    "user_id": "user",
    "api_key_id": "key",
    "model": "model",
}
"""What sums can be kept apart by. A project is a team."""
FILTERS: Final[Mapping[str, Dimension]] = {
    "organization_ids": "organization",
    "project_ids": "team",
    "user_ids": "user",
    "api_key_ids": "key",
    "models": "model",
}
_ALIKE: Final = frozenset({"batch", "service_tier", "api_source"})
"""Groups of OpenAI's in which all that a gateway serves is alike."""
LINE_ITEM: Final = "line_item"
_USAGE_GROUPS: Final = frozenset({*GROUPS, *_ALIKE})
_COST_GROUPS: Final = frozenset({*GROUPS, LINE_ITEM, "api_source"}) - {"model"}
_COMMON: Final = frozenset({"start_time", "end_time", "bucket_width", "limit", "page", "group_by"})
_KNOWN: Final[Mapping[Subject, frozenset[str]]] = {
    "completions": _COMMON | {*FILTERS, "batch"},
    "embeddings": _COMMON | set(FILTERS),
    "costs": (_COMMON | {*FILTERS, "line_items", "side"}) - {"models"},
}


class Question(msgspec.Struct, frozen=True):
    """`first` to `last` are seconds since the epoch and multiples of `width.seconds`; a page begins
    at `page` and has `limit` buckets at most. `groups` are names of OpenAI's, in the order of the
    question. `nothing`: no row can fit."""

    subject: Subject
    first: int
    last: int
    page: int
    limit: int
    width: Width
    groups: tuple[str, ...] = ()
    filters: dict[Dimension, tuple[str, ...]] = {}
    line_items: tuple[str, ...] = ()
    side: Side = "charge"
    nothing: bool = False

    @property
    def end(self) -> int:
        """Where this page ends."""
        return min(self.last, self.page + self.limit * self.width.seconds)

    @property
    def next_page(self) -> str | None:
        """The cursor of the page behind this one; None if this is the last one."""
        if self.end >= self.last:
            return None
        return base64.urlsafe_b64encode(b"page_%d" % self.end).decode()


def read_question(subject: Subject, query: Iterable[tuple[str, str]], now: int) -> Question:
    """The question in `query`, asked at `now` (seconds since the epoch). Raises `GatewayError`."""
    given = _collect(query)
    for name in given:
        if name not in _KNOWN[subject]:
            _refuse(name, "is no parameter of this page")
    width = _width(subject, _single(given, "bucket_width", "1d"))
    first, last = _times(given, width, now)
    groups = tuple(dict.fromkeys(_many(given, "group_by")))
    for group in groups:
        if group not in (_COST_GROUPS if subject == "costs" else _USAGE_GROUPS):
            _refuse("group_by", f"has '{group[:50]}', by which nothing can be grouped here")
    return Question(
        subject,
        first,
        last,
        _page(_single(given, "page"), first, last, width),
        _limit(_single(given, "limit"), width),
        width,
        groups,
        {FILTERS[name]: values for name in FILTERS if (values := _many(given, name))},
        _many(given, "line_items", separated=False),
        _side(_single(given, "side", "charge")),
        nothing=_batch(_single(given, "batch")),
    )


def _collect(query: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    given: dict[str, list[str]] = {}
    for name, value in query:
        given.setdefault(name.removesuffix("[]"), []).append(value)
    return given


def _many(given: Mapping[str, list[str]], name: str, *, separated: bool = True) -> tuple[str, ...]:
    values = given.get(name, [])
    if separated:
        values = [part.strip() for value in values for part in value.split(",") if part.strip()]
    if len(values) > _LONGEST_LIST:
        _refuse(name, f"has more than {_LONGEST_LIST} entries")
    return tuple(values)


def _single(given: Mapping[str, list[str]], name: str, default: str = "") -> str:
    values = given.get(name, [default])
    if len(values) > 1:
        _refuse(name, "is given more than once")
    return values[0]


def _width(subject: Subject, text: str) -> Width:
    widths = _WIDTHS[subject]
    width = widths.get(text)
    if width is None:
        _refuse("bucket_width", f"must be one of {', '.join(widths)}: sums are kept by the hour")
    return width


def _times(given: Mapping[str, list[str]], width: Width, now: int) -> tuple[int, int]:
    """Whole buckets: the one that `start_time` lies in is the first."""
    if "start_time" not in given:
        _refuse("start_time", "is missing: seconds since the epoch")
    start = _time(_single(given, "start_time"), "start_time")
    end = _time(_single(given, "end_time"), "end_time") if "end_time" in given else now
    if "end_time" in given and end <= start:
        _refuse("end_time", "must be later than start_time")
    first = start - start % width.seconds
    return first, max(first, -(-end // width.seconds) * width.seconds)


def _time(text: str, name: str) -> int:
    seconds = _whole(text)
    if seconds is None or seconds >= _LATEST:
        _refuse(name, "must be seconds since the epoch, a whole number")
    return seconds


def _whole(text: str) -> int | None:
    """The whole number that `text` is; None if it is none, or absurdly long."""
    plain = text.isascii() and text.isdecimal() and len(text) <= _DIGITS
    return int(text) if plain else None


def _limit(text: str, width: Width) -> int:
    if not text:
        return width.usual
    limit = _whole(text)
    if limit is None or not 1 <= limit <= width.most:
        _refuse("limit", f"must be a whole number from 1 to {width.most}")
    return limit


def _page(text: str, first: int, last: int, width: Width) -> int:
    if not text:
        return first
    try:
        plain = base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        plain = b""
    number = plain.removeprefix(b"page_")
    page = None if plain == number else _whole(number.decode("latin-1"))
    if page is None:
        _refuse("page", "is no cursor that this page has given")
    if not first <= page < max(last, first + 1) or page % width.seconds:
        _refuse("page", "belongs to another question")
    return page


def _side(text: str) -> Side:
    if text not in {"charge", "cost"}:
        _refuse("side", "must be charge (what tenants pay) or cost (what providers bill)")
    return "charge" if text == "charge" else "cost"


def _batch(text: str) -> bool:
    """Whether only batch jobs are asked for, of which there are none."""
    if text not in {"", "true", "false"}:
        _refuse("batch", "must be true or false")
    return text == "true"


def _refuse(name: str, what: str) -> NoReturn:
    raise invalid_request(f"The parameter '{name[:50]}' {what}.", param=name[:50])
