"""What `calls` prints: pure functions of what is known of a call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgw_server.call_facts import timestamp
from llmgw_server.cli.output import money, one_line, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from llmgw_core.pipeline.overview import Refusal, RunningCall
    from llmgw_server.call_facts import CallFacts, Told

_LABEL = 12
_WIDTHS = (24, 36, 11, 4, 24, 28, 5, 13, 9, 9)
_TITLES = (
    "AT",
    "CALL",
    "STATUS",
    "HTTP",
    "MODEL",
    "DEPLOYMENT",
    "TRIES",
    "TOKENS",
    "MS",
    "FIRST/ms",
)
_RIGHT = frozenset({"HTTP", "TRIES", "TOKENS", "MS", "FIRST/ms"})
_ATTEMPTS = ("TRY", "DEPLOYMENT", "MODEL", "OUTCOME", "HTTP", "MS", "COST", "CHARGE", "THEN")


def columns() -> str:
    """The titles over the lines of `tail`."""
    return _aligned(_TITLES) + "  CHARGE, ERROR"


def line(call: CallFacts) -> str:
    """One call as one line."""
    first = "-" if call.first_content_ms is None else f"{call.first_content_ms:,.1f}"
    served = f"{call.model} ({call.served_model})" if _elsewhere(call) else call.model
    tried = call.attempts[-1].deployment if call.attempts else ""
    cells = (
        call.at,
        call.call_id,
        call.status,
        str(call.http_status),
        served,
        call.deployment or tried or "-",
        str(len(call.attempts)),
        f"{call.input_tokens}+{call.output_tokens}",
        f"{call.duration_ms:,.1f}",
        first,
    )
    rest = " ".join(filter(None, (f"{money(call.charge_nano)} {call.currency}", call.error_code)))
    return f"{_aligned(cells)}  {rest}"


def described(told: Told, names: Mapping[str, str]) -> Iterator[str]:
    """Everything that is known of one call; `names` of ids, as far as they are known."""
    if told.ended is not None:
        yield from _ended(told.ended, names, told.refused)
    elif told.running is not None:
        yield from _running(told.running)
    elif told.refused is not None:
        yield from _refused(told.refused)


def _ended(call: CallFacts, names: Mapping[str, str], refusal: Refusal | None) -> Iterator[str]:
    kind = "stream" if call.stream else "complete reply"
    yield f"Call {call.call_id}, {call.at}, {call.endpoint}, {kind}"
    decided = f": {call.error_code}" if call.error_code else ""
    yield _labelled("status", f"{call.status} ({call.http_status}{decided})")
    if refusal is not None:
        yield _labelled("decided by", refusal.rule)
    served = f", served by {call.served_model}" if _elsewhere(call) else ""
    yield _labelled("model", f"{call.model}{served}")
    if call.deployment:
        yield _labelled("deployment", f"{call.deployment} (zone {call.zone})")
    ids = (call.organization_id, call.team_id, call.user_id, call.key_id)
    yield _labelled("caller", _caller(ids, names))
    if call.parent:
        yield _labelled("made by", f"a plugin, in the course of call {call.parent}")
    yield _labelled("tokens", _tokens(call))
    amounts = f"charged {money(call.charge_nano)}, cost {money(call.cost_nano)}"
    yield _labelled("price", f"{amounts} {call.currency}")
    first = "" if call.first_content_ms is None else f", first content {call.first_content_ms:,.1f}"
    yield _labelled("time/ms", f"{call.duration_ms:,.1f}{first}")
    if call.attempts:
        yield ""
        yield from _attempts(call)


def _attempts(call: CallFacts) -> list[str]:
    rows = [
        (
            number,
            each.deployment,
            each.model,
            each.outcome,
            str(each.http_status or "-"),
            f"{each.duration_ms:,.1f}",
            money(each.cost_nano),
            money(each.charge_nano),
            each.reason,
        )
        for number, each in enumerate(call.attempts, 1)
    ]
    return table(_ATTEMPTS, rows, right="TRY HTTP MS COST CHARGE")


def _tokens(call: CallFacts) -> str:
    text = f"{call.input_tokens:,} in, {call.output_tokens:,} out"
    parts = (("cached", call.cached_input_tokens), ("reasoning", call.reasoning_tokens))
    details = "".join(f", {number:,} {word}" for word, number in parts if number)
    source = {"provider": "as the provider reported", "none": "nothing was used"}
    return f"{text}{details} ({source.get(call.usage_source, call.usage_source)})"


def _running(call: RunningCall) -> Iterator[str]:
    kind = "stream" if call.stream else "complete reply"
    yield f"Call {call.call_id}, {call.endpoint}, {kind}, running for {call.seconds:.1f} s"
    yield _labelled("model", call.model)
    where = call.deployment or "none: it waits, or is at a plugin"
    yield _labelled("attempt", f"{call.attempts + 1} on {where}, {call.attempt_seconds:.1f} s")
    yield _labelled("content", "on its way" if call.content else "nothing yet")
    ids = (call.organization_id, call.team_id, call.user_id, call.key_id)
    yield _labelled("caller", _caller(ids, {}))


def _refused(call: Refusal) -> Iterator[str]:
    yield f"Call {call.call_id}, {timestamp(call.at_ns)}, {call.endpoint}, refused"
    yield _labelled("status", f"{call.http_status}: {call.error_code}")
    if call.rule:
        yield _labelled("decided by", call.rule)
    if call.model:
        yield _labelled("model", call.model)
    ids = (call.organization_id, call.team_id, call.user_id, call.key_id)
    yield _labelled("caller", _caller(ids, {}) or "unknown")


def _caller(ids: tuple[str | None, ...], names: Mapping[str, str]) -> str:
    words = ("organisation", "team", "user", "key")
    return ", ".join(
        f"{word} {names[id]} ({id})" if names.get(id, id) != id else f"{word} {id}"
        for word, id in zip(words, ids, strict=True)
        if id
    )


def _elsewhere(call: CallFacts) -> bool:
    return bool(call.served_model) and call.served_model != call.model


def _labelled(label: str, text: str) -> str:
    return f"  {label:<{_LABEL}}{one_line(text)}"


def _aligned(cells: tuple[str, ...]) -> str:
    return "  ".join(
        cell.rjust(width) if title in _RIGHT else cell.ljust(width)
        for cell, width, title in zip(map(one_line, cells), _WIDTHS, _TITLES, strict=True)
    )
