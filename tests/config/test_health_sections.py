"""The sections `breaker` and `probes`: what is inherited from where, and what is refused."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import msgspec
import pytest

from llmgw_core.config.build import build_models
from llmgw_core.config.errors import ConfigErrors
from llmgw_core.config.load import parse
from llmgw_core.domain.health import BreakerSettings, ProbeSettings

if TYPE_CHECKING:
    from llmgw_core.domain.rules import Rules


class Options(msgspec.Struct, frozen=True):
    pass


def rules(general: str = "", model: str = "", deployment: str = "") -> Rules:
    """What holds for a deployment when these stand in the file, its model and itself."""
    config = parse(
        f"""
accounting: {{unpriced: zero}}
routing: {{{general}}}
models:
  m:
    routing: {{{model}}}
    deployments: [{{name: a, backend: x, zone: eu, routing: {{{deployment}}}}}]
""",
        base_dir="/base",
        env={},
        today=dt.date(2026, 1, 1),
    )
    return build_models(config, {"x": Options})["m"].deployments[0].rules


def test_without_a_word_the_breaker_is_on_and_nobody_is_asked() -> None:
    found = rules()
    assert found.breaker == BreakerSettings(enabled=True)
    assert found.probes == ProbeSettings(enabled=False)


def test_each_key_is_inherited_from_the_nearest_that_gives_it() -> None:
    found = rules(
        "breaker: {consecutive: 9, probes: 2, window: 60}, probes: {enabled: true, interval: 30}",
        "breaker: {consecutive: 4, probes: 3}, probes: {health_path: /healthz}",
        "breaker: {consecutive: 2}, probes: {enabled: false}",
    )
    assert found.breaker == BreakerSettings(consecutive=2, probes=3, window=60)
    assert found.probes == ProbeSettings(enabled=False, interval=30, health_path="/healthz")


@pytest.mark.parametrize(
    ("section", "path", "message"),
    [
        ("breaker: {consecutive: -1}", "breaker.consecutive", "must be at least 0."),
        ("breaker: {minimum_calls: 0}", "breaker.minimum_calls", "must be at least 1."),
        ("breaker: {probes: 0}", "breaker.probes", "must be at least 1."),
        ("breaker: {failure_share: 50}", "breaker.failure_share", "a share between 0 and 1."),
        ("breaker: {max_ejected: -0.5}", "breaker.max_ejected", "a share between 0 and 1."),
        ("breaker: {window: 0}", "breaker.window", "must be a number of seconds greater than 0."),
        ("breaker: {window: 1e-320}", "breaker.window", "must be at least 0.001 seconds."),
        ("breaker: {decay: -1}", "breaker.decay", "must be a number of seconds greater than 0."),
        (
            "breaker: {ejection: 90, max_ejection: 60}",
            "breaker.max_ejection",
            "must be at least as long as `ejection`, which is 90 s.",
        ),
        ("breaker: {retries: 3}", "breaker", "unknown key `retries`"),
        ("probes: {interval: 0}", "probes.interval", "must be a number of seconds"),
        ("probes: {failures: 0}", "probes.failures", "must be at least 1."),
        ("probes: {max_kv_use: 80}", "probes.max_kv_use", "a share between 0 and 1."),
        ("probes: {max_waiting: -1}", "probes.max_waiting", "must be at least 0."),
        ("probes: {health_path: health}", "probes.health_path", "a path that begins with `/`"),
        ("probes: {metrics_path: '/a b'}", "probes.metrics_path", "a path that begins with `/`"),
        ("probes: {models: maybe}", "probes.models", "one of `ignore`, `warn`, `require`."),
    ],
)
@pytest.mark.parametrize(
    "place", ["routing", "models.m.routing", "models.m.deployments[0].routing"]
)
def test_what_cannot_work_is_refused_with_its_path(
    section: str, path: str, message: str, place: str
) -> None:
    at = {"routing": "general", "models.m.routing": "model"}.get(place, "deployment")
    with pytest.raises(ConfigErrors) as caught:
        rules(**{at: section})
    [error] = caught.value.errors
    assert error.path.startswith(f"{place}.{path}")
    assert message in error.message


def test_empty_paths_are_not_asked() -> None:
    assert rules("probes: {health_path: '', metrics_path: ''}").probes.health_path == ""
