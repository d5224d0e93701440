"""Limits on the command line: `--rpm 60`, `--burst 10`, `--shadow tpm`, and for single models
`--model-limit 'gpt-*:rpm=5,tpd=1000'`."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from llmgw_core.domain.limits import NO_LIMITS, Limits

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llmgw_core.tenancy.records import LevelInfo

NO_LIMIT = "none"
_TEXTS = {
    "rpm": "requests in any 60 seconds",
    "tpm": "tokens in any 60 seconds",
    "parallel": "calls at once",
    "rpd": "requests in any 24 hours",
    "tpd": "tokens in any 24 hours",
    "input_tpm": "tokens of input alone in any 60 seconds",
    "output_tpm": "tokens of output alone in any 60 seconds",
    "input_tpd": "tokens of input alone in any 24 hours",
    "output_tpd": "tokens of output alone in any 24 hours",
}
_NUMBER = re.compile(r"-?[0-9]{1,30}")
_FIELDS = (*_TEXTS, "burst", "shadow")

Patterned = tuple[str, "Limits | None"]


def add_limits(group: argparse._ArgumentGroup) -> None:
    """One option for each limit."""
    for name, text in _TEXTS.items():
        group.add_argument(
            f"--{_dashed(name)}",
            type=limit,
            default=UNSET,
            metavar="N",
            help=f"{text}, or `{NO_LIMIT}`",
        )
    group.add_argument(
        "--burst",
        type=burst,
        default=UNSET,
        metavar="SECONDS",
        help="the limits by the minute are token buckets that hold so many seconds' worth; "
        f"`{NO_LIMIT}`: sliding windows",
    )
    group.add_argument(
        "--shadow",
        type=shadow,
        default=UNSET,
        metavar="A,B",
        help=f"limits that are counted and reported and never refuse, e.g. `rpm,tpd`; `{NO_LIMIT}`",
    )
    group.add_argument(
        "--model-limit",
        type=model_limit,
        action="append",
        default=None,
        metavar="PATTERN:LIMITS",
        help="limits on each model that a pattern covers, e.g. `gpt-*:rpm=5,tpd=1000`;"
        f" `PATTERN:{NO_LIMIT}` takes them away; may be given several times",
    )


def limits_given(args: argparse.Namespace) -> bool:
    """Whether any of the options was."""
    return bool(args.model_limit) or any(getattr(args, name) is not UNSET for name in _FIELDS)


def limits_of(args: argparse.Namespace, old: Limits) -> Limits:
    """`old` with the limits that are given."""
    given = {name: value for name in _FIELDS if (value := getattr(args, name)) is not UNSET}
    return msgspec.structs.replace(old, **given)


def model_limits_of(
    args: argparse.Namespace, old: Sequence[tuple[str, Limits]]
) -> tuple[tuple[str, Limits], ...]:
    """`old` with the patterns that are given."""
    found: dict[str, Limits | None] = {**dict(old), **dict(args.model_limit or ())}
    return tuple((pattern, limits) for pattern, limits in found.items() if limits is not None)


def limit(text: str) -> int | None:
    """A number, or `none` as None."""
    if text == NO_LIMIT:
        return None
    if not _NUMBER.fullmatch(text):
        raise argparse.ArgumentTypeError(f"'{text}' is neither a whole number nor `{NO_LIMIT}`")
    return int(text)


def burst(text: str) -> float | None:
    """Seconds, or `none` as None."""
    if text == NO_LIMIT:
        return None
    try:
        return float(text)
    except ValueError:
        message = f"'{text}' is neither a number of seconds nor `{NO_LIMIT}`"
        raise argparse.ArgumentTypeError(message) from None


def shadow(text: str) -> tuple[str, ...]:
    """Names of limits."""
    parts = [] if text == NO_LIMIT else text.replace("-", "_").split(",")
    return tuple(name for part in parts if (name := part.strip()))


def model_limit(text: str) -> Patterned:
    """`PATTERN:rpm=5,tpd=1000`, in which `shadow=rpm+tpd` names several; None for `none`."""
    pattern, colon, rest = text.rpartition(":")
    if not colon or not pattern:
        raise argparse.ArgumentTypeError(f"'{text}' is not like gpt-*:rpm=5,tpd=1000")
    if rest == NO_LIMIT:
        return pattern, None
    return pattern, msgspec.structs.replace(NO_LIMITS, **dict(map(_field, rest.split(","))))


def _field(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    name = name.strip().replace("-", "_")
    if not equals or name not in _FIELDS:
        known = ", ".join(map(_dashed, _FIELDS))
        raise argparse.ArgumentTypeError(f"'{text}' is no limit like rpm=5; there are {known}")
    if name == "shadow":
        return name, shadow(value.replace("+", ","))
    return name, burst(value) if name == "burst" else limit(value)


def other_limits(info: LevelInfo) -> str | None:
    """What has no column of its own; None when there is nothing."""
    limits = msgspec.structs.replace(info.limits, rpm=None, tpm=None, parallel=None)
    pairs = (f"{pattern}:{text(each)}" for pattern, each in info.model_limits)
    return " ".join(part for part in (text(limits), *pairs) if part) or None


def text(limits: Limits) -> str:
    """As `--model-limit` takes them."""
    return ",".join(_texts(limits))


def _texts(limits: Limits) -> Iterable[str]:
    for name in (*_TEXTS, "burst"):
        value = getattr(limits, name)
        if value is not None:
            yield f"{_dashed(name)}={value:g}" if name == "burst" else f"{_dashed(name)}={value}"
    if limits.shadow:
        yield f"shadow={'+'.join(map(_dashed, limits.shadow))}"


def _dashed(name: str) -> str:
    return name.replace("_", "-")
