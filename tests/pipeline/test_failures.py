from __future__ import annotations

from typing import get_args

import pytest

from llmgw_core.backends.transport.port import TransportError, TransportKind, TransportPhase
from llmgw_core.domain.failure import FailureKind
from llmgw_core.pipeline.failures import classified, stale

KINDS: tuple[TransportKind, ...] = get_args(TransportKind)
PHASES: tuple[TransportPhase, ...] = get_args(TransportPhase)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("phase", PHASES)
def test_every_error_of_a_transport_has_a_class(kind: TransportKind, phase: TransportPhase) -> None:
    failure = classified(TransportError(kind, phase, "text"))
    assert failure.kind in get_args(FailureKind)
    assert (str(failure), failure.status) == ("text", 0)


@pytest.mark.parametrize(
    ("kind", "phase", "expected"),
    [
        ("reset", "connect", "connect"),
        ("reset", "head", "cut"),
        ("reset", "body", "cut"),
        ("refused", "connect", "connect"),
        ("timeout", "connect", "timeout"),
        ("pool", "connect", "overloaded"),
    ],
)
def test_a_reset_is_a_cut_unless_nothing_was_sent(
    kind: TransportKind, phase: TransportPhase, expected: FailureKind
) -> None:
    assert classified(TransportError(kind, phase, "")).kind == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("reused", [True, False])
@pytest.mark.parametrize("received", [True, False])
def test_only_a_kept_connection_that_died_before_any_byte_is_stale(
    kind: TransportKind, phase: TransportPhase, reused: bool, received: bool
) -> None:
    error = TransportError(kind, phase, "", reused=reused, received=received)
    died = kind in {"reset", "protocol"} and phase in {"send", "head"}
    assert stale(error) == (died and reused and not received)
