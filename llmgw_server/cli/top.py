"""`top`: what a running gateway does now, again and again, as plain text."""

from __future__ import annotations

import itertools
import sys
import time
from typing import TYPE_CHECKING

from llmgw_core.pipeline.overview import Load
from llmgw_server.cli.asking import add_gateway, admin_key, ask, gateway_address
from llmgw_server.cli.options import add_config, run_with, seconds, whole
from llmgw_server.cli.output import say_now, table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

CLEAR = "\x1b[H\x1b[2J"
_RATES = "CALLS/s FAILED/s IN/s OUT/s RUNNING ATTEMPTS/s SECONDS TRIES"


def configure(parser: argparse.ArgumentParser, _command: str) -> None:
    """Add the options."""
    add_config(parser)
    add_gateway(parser, "where the gateway is (default: where the configuration says)")
    parser.add_argument(
        "--every", type=seconds, default=2.0, metavar="SECONDS", help="how often (default: 2)"
    )
    parser.add_argument(
        "--times", type=whole(1, 10**9), metavar="N", help="end after so many (default: Ctrl-C)"
    )
    parser.add_argument(
        "--calls",
        type=whole(0, 10**6),
        default=20,
        metavar="N",
        help="at most so many calls (default: 20)",
    )
    run_with(parser, _top)


def _top(args: argparse.Namespace) -> None:
    key, address, before = admin_key(args), gateway_address(args), None
    clear = CLEAR if sys.stdout.isatty() else ""
    for number in itertools.count(1):
        now = ask(address, key, "/calls/running", Load)
        sys.stdout.write(clear)
        lines = screen(now, before, address.url, args.calls)
        say_now("\n".join(lines) + ("" if clear else "\n"))
        if number == args.times:
            return
        before = now
        time.sleep(max(args.every, 0.1))


def screen(now: Load, before: Load | None, url: str, calls: int) -> Iterator[str]:
    """What is shown; rates are those since `before`, and unknown without it."""
    rates = _Rates(now, before)
    total = sum(model.calls for model in now.models)
    earlier = sum(model.calls for model in before.models) if before else 0
    refused = rates(now.refused, before.refused if before else 0)
    waiting = f" ({now.waiting} waiting for a slot)" if now.waiting else ""
    yield (
        f"{url}: {len(now.running)} calls running{waiting},"
        f" {rates(total, earlier)} ended and {refused} refused a second"
    )
    yield from _models(now, before, rates)
    yield from _deployments(now, before, rates)
    if now.running:
        yield ""
        yield from table(
            ("CALL", "MODEL", "DEPLOYMENT", "SECONDS", "TRIES", "STATE"),
            [
                (
                    call.call_id,
                    call.model,
                    call.deployment,
                    f"{call.seconds:.1f}",
                    call.attempts + bool(call.deployment),
                    _state(call.deployment, content=call.content, stream=call.stream),
                )
                for call in now.running[:calls]
            ],
            right=_RATES,
        )
    if len(now.running) > calls:
        yield f"... and {len(now.running) - calls} more"


class _Rates:
    """Differences as rates per second."""

    def __init__(self, now: Load, before: Load | None) -> None:
        # A gateway that has been started again counts from 0.
        self._seconds = now.at - before.at if before else 0.0

    def __call__(self, now: int, before: int) -> str:
        if self._seconds <= 0 or now < before:
            return "-"
        return f"{(now - before) / self._seconds:,.1f}"


def _models(now: Load, before: Load | None, rates: _Rates) -> Iterator[str]:
    running = [call.model for call in now.running]
    earlier = {model.model: model for model in before.models} if before else {}
    fields = ("calls", "failed", "input_tokens", "output_tokens")
    rows = [
        (
            model.model,
            running.count(model.model),
            *(rates(getattr(model, name), _of(earlier.get(model.model), name)) for name in fields),
        )
        for model in sorted(now.models, key=lambda model: model.model)
    ]
    if rows:
        yield ""
        titles = ("MODEL", "RUNNING", "CALLS/s", "FAILED/s", "IN/s", "OUT/s")
        yield from table(titles, rows, right=_RATES)


def _deployments(now: Load, before: Load | None, rates: _Rates) -> Iterator[str]:
    running = [call.deployment for call in now.running]
    earlier = before.attempts if before else {}
    rows = []
    for name in sorted({*now.attempts, *filter(None, running)}):
        outcomes, then = now.attempts.get(name, {}), earlier.get(name, {})
        good, good_then = outcomes.get("ok", 0), then.get("ok", 0)
        all, all_then = sum(outcomes.values()), sum(then.values())
        failed = rates(all - good, all_then - good_then)
        rows.append((name, running.count(name), rates(all, all_then), failed))
    if rows:
        yield ""
        titles = ("DEPLOYMENT", "RUNNING", "ATTEMPTS/s", "FAILED/s")
        yield from table(titles, rows, right=_RATES)


def _of(totals: object, name: str) -> int:
    return getattr(totals, name, 0)


def _state(deployment: str, *, content: bool, stream: bool) -> str:
    if not deployment:
        return "waiting"
    if content:
        return "streaming" if stream else "replying"
    return "no content yet"
