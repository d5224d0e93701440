"""Options that several commands share, and how their values are written."""

from __future__ import annotations

import argparse
import datetime as dt
import os
import re
import time
from typing import TYPE_CHECKING

from msgspec import UNSET

from llmgw_core.domain.limits import NO_LIMITS
from llmgw_server.cli.limit_options import add_limits, limits_of, model_limits_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llmgw_core.tenancy.service import Grants

DEFAULT_CONFIG = "llmgw.yaml"
CONFIG_VARIABLE = "LLMGW_CONFIG"
INHERIT = "inherit"
_NUMBER = re.compile(r"-?[0-9]{1,30}")
_SPAN = re.compile(r"([0-9]{1,12})([mhdw])")
_YEAR = 366 * 86400
_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}

LEVELS = {"org": "organization", "team": "team", "user": "user", "key": "key"}
"""The words for levels, and their kinds."""


def add_config(parser: argparse.ArgumentParser, *, inherited: bool = False) -> None:
    """`--config FILE`. `inherited`: the command above this one has it, too, with the default."""
    default = os.environ.get(CONFIG_VARIABLE, DEFAULT_CONFIG)
    parser.add_argument(
        "--config",
        metavar="FILE",
        default=argparse.SUPPRESS if inherited else default,
        help=f"the configuration (default: ${CONFIG_VARIABLE}, else {DEFAULT_CONFIG})",
    )


def add_json(parser: argparse._ActionsContainer) -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def add_organization(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """`--org`."""
    parser.add_argument(
        "--org", metavar="ORG", required=required, help="id or name of the organisation"
    )


def add_level(parser: argparse.ArgumentParser) -> None:
    """Which organisation, team, user or key: its level, its id or name, `--org`; and `--config`."""
    parser.add_argument("level", choices=LEVELS)
    parser.add_argument("which", help="id or name")
    add_organization(parser)
    add_config(parser)


def add_grants(parser: argparse.ArgumentParser) -> None:
    """What a level may use: `--models`, `--zones`, and its limits."""
    group = parser.add_argument_group("what it may use")
    group.add_argument(
        "--models",
        type=names,
        default=UNSET,
        metavar="A,B*",
        help=f"model names, wildcards or tag:NAME, separated by commas; `{INHERIT}` for what the"
        " level above may use",
    )
    group.add_argument(
        "--zones", type=names, default=UNSET, metavar="A,B", help=f"zones, or `{INHERIT}`"
    )
    add_limits(group)


def grants_of(args: argparse.Namespace) -> Grants:
    """The grants of something new: what is not given is inherited."""
    return {
        "models": None if args.models is UNSET else args.models,
        "zones": None if args.zones is UNSET else args.zones,
        "limits": limits_of(args, NO_LIMITS),
        "model_limits": model_limits_of(args, ()),
    }


def names(text: str) -> Sequence[str] | None:
    """`a,b` as names, `inherit` as None."""
    if text == INHERIT:
        return None
    return tuple(name for part in text.split(",") if (name := part.strip()))


def whole(low: int, high: int) -> Callable[[str], int]:
    """What reads a whole number from `low` to `high`."""

    def read(text: str) -> int:
        if _NUMBER.fullmatch(text) and low <= int(text) <= high:
            return int(text)
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number from {low} to {high}")

    return read


def seconds(text: str) -> float:
    """A time from 0 seconds to a year."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= _YEAR:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of seconds from 0 to {_YEAR}")
    return value


def moment(text: str, now: float, *, ahead: bool) -> float:
    """Seconds since the epoch of an ISO date or time (UTC unless it says otherwise), or of a
    span like `90d`, `12h`, `30m`, `2w` from `now`: ahead or back."""
    if span := _SPAN.fullmatch(text):
        seconds = int(span[1]) * _UNITS[span[2]]
        return _dated(text, now + seconds if ahead else now - seconds)
    try:
        value = dt.datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"'{text}' is neither a date like 2027-01-31 nor a span like 90d, 12h or 30m"
        ) from None
    return (value if value.tzinfo else value.replace(tzinfo=dt.UTC)).timestamp()


def _dated(text: str, seconds: float) -> float:
    """`seconds` since the epoch, if there is a date for them."""
    try:
        dt.datetime.fromtimestamp(seconds, dt.UTC)
    except (ValueError, OverflowError, OSError):
        message = f"'{text}' reaches beyond the years 1 to 9999"
        raise argparse.ArgumentTypeError(message) from None
    return seconds


def expiry(text: str) -> float | None:
    """When something ends; `never` as None."""
    return None if text == "never" else moment(text, time.time(), ahead=True)


def past(text: str) -> dt.datetime:
    """A moment of a report; a span counts back from now."""
    return dt.datetime.fromtimestamp(moment(text, time.time(), ahead=False), dt.UTC)


def run_with(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], None]) -> None:
    """What `main` calls for this command."""
    parser.set_defaults(run=run)
