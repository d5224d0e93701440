"""`budgets`: what organisations, teams, users and keys may spend in a day, week or month, or in
total."""

from __future__ import annotations

import argparse
import datetime as dt
from decimal import Decimal
from typing import TYPE_CHECKING, Any, get_args

import msgspec

from llmgw_core.config.load import load
from llmgw_core.domain.limits import Budget, BudgetPeriod
from llmgw_core.limits.budget_counts import decimal
from llmgw_core.limits.budget_state import BudgetState  # noqa: TC001 -- decoded at run time
from llmgw_core.limits.periods import zone_of
from llmgw_core.tenancy.budgeting import Budgeting
from llmgw_core.tenancy.records import KINDS
from llmgw_server.cli.asking import add_gateway, ask_running
from llmgw_server.cli.database import actor, on_store
from llmgw_server.cli.options import (
    LEVELS,
    add_config,
    add_json,
    add_level,
    run_with,
)
from llmgw_server.cli.output import remark, say, say_json, say_table

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from llmgw_core.config.schema import Config

"""As the command line calls them."""
_NANO = 10**9
_NUMBERS = "AMOUNT SPENT RESERVED REMAINING"


class _Told(msgspec.Struct):
    data: list[BudgetState]


def configure(parser: argparse.ArgumentParser, _command: str) -> None:
    """Add the actions."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    put = actions.add_parser(
        "set",
        help="give one of them a budget",
        description="Give an organisation, team, user or key a budget. It replaces one in the same"
        " unit and period that reacts in the same way (refuses; --fallback; --shadow).",
    )
    add_level(put)
    amount = put.add_mutually_exclusive_group(required=True)
    amount.add_argument(
        "--money", type=money, metavar="AMOUNT", help="what is charged at most, e.g. 250.00"
    )
    amount.add_argument("--tokens", type=tokens, metavar="N", help="input plus output")
    put.add_argument("--per", choices=get_args(BudgetPeriod), default="month")
    put.add_argument(
        "--tz", default="UTC", metavar="ZONE", help="whose calendar counts, e.g. Europe/Berlin"
    )
    put.add_argument(
        "--alerts",
        type=alerts,
        default=(50, 80, 100),
        metavar="50,80,100",
        help="percentages that are told, each once a period; `none`",
    )
    put.add_argument(
        "--fallback", default="", metavar="MODEL", help="serves calls for which there is no room"
    )
    put.add_argument("--shadow", action="store_true", help="count and tell, and never refuse")
    run_with(put, _set)
    remove = actions.add_parser("remove", help="take budgets of one of them away")
    add_level(remove)
    remove.add_argument("--unit", choices=("money", "tokens"), help="default: both")
    remove.add_argument("--per", choices=get_args(BudgetPeriod), help="default: all")
    run_with(remove, _remove)
    listing = actions.add_parser("list", help="all budgets: spent, reserved, remaining, reset")
    add_config(listing)
    add_gateway(listing, "where the gateway is (default: where the configuration says)")
    add_json(listing)
    run_with(listing, _list)


def _set(args: argparse.Namespace) -> None:
    config = load(args.config)
    in_money = args.money is not None
    budget = Budget(
        "money" if in_money else "tokens",
        args.money if in_money else args.tokens,
        args.per,
        args.tz,
        args.alerts,
        args.fallback,
        args.shadow,
    )
    info = _with(
        args,
        lambda budgeting: budgeting.set(
            KINDS[LEVELS[args.level]], args.which, budget, organization=args.org, actor=actor()
        ),
    )
    currency = config.accounting.currency
    say(f"{_capital(args.level)} {info.name} may spend {in_words(budget, currency)}.")
    for remark_ in cautions(budget, config):
        remark(remark_)
    _say_when(config)


def _remove(args: argparse.Namespace) -> None:
    info, removed = _with(
        args,
        lambda budgeting: budgeting.remove(
            KINDS[LEVELS[args.level]],
            args.which,
            unit=args.unit,
            period=args.per,
            organization=args.org,
            actor=actor(),
        ),
    )
    say(f"{_capital(args.level)} {info.name} has lost {removed} of its budgets.")
    _say_when(load(args.config))


def _list(args: argparse.Namespace) -> None:
    told, where = ask_running(args, "/budgets", _Told)
    if told is not None:
        states = told.data
    else:
        states = _with(args, lambda budgeting: budgeting.states())
        remark(f"{where} What has not come to the ledger yet is not counted.")
    if args.json:
        say_json(states)
    elif not states:
        say("There are no budgets.")
    else:
        titles = ("LEVEL", "NAME", "ID", "UNIT", "PER", *_NUMBERS.split(), "RESET", "REACTION")
        say_table(titles, [_cells(each) for each in states], right=_NUMBERS)


def _cells(state: BudgetState) -> tuple[object, ...]:
    amounts = (state.amount, state.spent, state.reserved, state.remaining)
    shown: Sequence[object] = amounts
    if state.unit == "money":
        shown = [decimal(each) for each in amounts]
    return (
        "org" if state.level == "organization" else state.level,
        state.name,
        state.id,
        state.unit,
        state.period,
        *shown,
        _reset(state),
        "shadow" if state.shadow else state.fallback or "refuse",
    )


def _reset(state: BudgetState) -> str | None:
    if state.end_ns is None:
        return None
    moment = dt.datetime.fromtimestamp(state.end_ns // _NANO, dt.UTC)
    return moment.astimezone(zone_of(state.timezone)).strftime("%Y-%m-%d %H:%M%z")


def in_words(budget: Budget, currency: str) -> str:
    """`250 EUR by the month (Europe/Berlin)`, `1,000,000 tokens in total`."""
    amount = f"{budget.amount:,} tokens"
    if budget.unit == "money":
        amount = f"{decimal(budget.amount)} {currency}"
    if budget.period == "total":
        return f"{amount} in total"
    return f"{amount} by the {budget.period} ({budget.timezone})"


def cautions(budget: Budget, config: Config) -> list[str]:
    """What the operator may not have meant."""
    found = []
    if budget.fallback and budget.fallback not in {**config.models, **config.aliases}:
        found.append(f"There is no model {budget.fallback}: calls without room are refused.")
    if budget.unit == "money" and config.accounting.unpriced == "zero":
        found.append("Models without a price are booked at zero: no budget in money holds them.")
    return found


def money(text: str) -> int:
    """Units of the currency as nano-units."""
    try:
        nano = Decimal(text) * _NANO
        if nano.is_finite() and abs(nano) <= 10**30 and nano == int(nano):
            return int(nano)
    except (ArithmeticError, ValueError):
        pass
    raise argparse.ArgumentTypeError(f"'{text[:50]}' is no amount like 250 or 0.05")


def tokens(text: str) -> int:
    """A whole number."""
    if text.isascii() and text.isdigit() and len(text) <= 30:
        return int(text)
    raise argparse.ArgumentTypeError(f"'{text[:50]}' is no whole number of tokens")


def alerts(text: str) -> tuple[int, ...]:
    """Percentages, separated by commas; `none`."""
    if text == "none":
        return ()
    try:
        return tuple(sorted(int(part.strip().removesuffix("%")) for part in text.split(",")))
    except ValueError:
        message = f"'{text[:50]}' is no list of percentages like 50,80,100"
        raise argparse.ArgumentTypeError(message) from None


def _capital(level: str) -> str:
    return "Organisation" if level == "org" else level.capitalize()


def _say_when(config: Config) -> None:
    say(f"A gateway that runs knows within {config.store.staleness:g} s.")


def _with(args: argparse.Namespace, work: Callable[[Budgeting], Awaitable[Any]]) -> Any:
    return on_store(args, lambda store: work(Budgeting(store)))
