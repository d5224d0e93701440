"""Rules of attempts and timeouts: who inherits what, and what is refused."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import pytest

from llmgw_core.config.build import build_models
from llmgw_core.config.errors import ConfigErrors
from llmgw_core.config.load import load_file, parse
from llmgw_core.config.masking import MASK, effective
from llmgw_core.config.schema import Config, DeploymentConfig, ModelConfig
from llmgw_core.config.schema_routing import DeploymentRouting, RoutingConfig, inherit
from llmgw_core.config.secret_files import FileCredential, secrets_of
from llmgw_core.domain.deployment import Deployment, Timeouts
from llmgw_core.domain.rules import CallRules, Rules

if TYPE_CHECKING:
    from pathlib import Path

    from llmgw_core.domain.deployment import Model


class Options(msgspec.Struct):
    """None."""


def parsed(text: str, base: Path | str = "/base") -> Config:
    head = "accounting: {unpriced: zero}\n"
    return parse(head + text, base_dir=base, env={"KEY": "sk-one"})


def built(text: str, base: Path | str = "/base") -> dict[str, Model]:
    return build_models(parsed(text, base), {"b": Options})


def deployment(text: str) -> Deployment:
    return built(text)["m"].deployments[0]


def errors(text: str) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        parsed(text)
    return str(caught.value).split("\n")


def test_a_deployment_goes_before_its_model_and_that_before_the_general_section() -> None:
    found = deployment(
        """
routing: {retries: 1, backoff_ms: 1, pause_max_ms: 1, failures: {cut: stop, connect: stop}}
models:
  m:
    routing: {backoff_ms: 2, pause_max_ms: 2, failures: {connect: elsewhere, server: stop}}
    deployments:
      - {name: a, backend: b, zone: z, routing: {pause_max_ms: 3, failures: {server: retry}}}
"""
    ).rules
    assert (found.retries, found.backoff_ms, found.pause_max_ms) == (1, 2, 3)
    treatments = found.failures
    assert (treatments.cut, treatments.connect, treatments.server) == ("stop", "elsewhere", "retry")
    assert found.cooldown_seconds == Rules().cooldown_seconds


def test_without_any_section_the_rules_are_the_defaults() -> None:
    found = built("models: {m: {deployments: [{name: a, backend: b, zone: z}]}}")["m"]
    assert found.rules == CallRules()
    assert found.deployments[0].rules == inherit(Rules, RoutingConfig())
    assert found.deployments[0].timeouts == Timeouts()
    assert found.deployments[0].streaming is None


def test_the_number_of_attempts_may_stand_where_it_always_stood() -> None:
    text = "models: {m: {deployments: [{name: a, backend: b, zone: z}]}}\n"
    assert built(text + "requests: {attempts: 7}")["m"].rules.attempts == 7
    both = "requests: {attempts: 7}\nrouting: {attempts: 3}"
    assert built(text + both)["m"].rules.attempts == 3


def test_timeouts_are_inherited_one_by_one() -> None:
    found = deployment(
        """
routing: {timeouts: {connect: 1, first_byte: 1, idle: 1}}
models:
  m:
    timeouts: {first_byte: 2, idle: 2}
    deployments: [{name: a, backend: b, zone: z, timeouts: {idle: 3}}]
"""
    )
    assert found.timeouts == Timeouts(connect=1, first_byte=2, idle=3)
    assert found.streaming is None


def test_streams_have_timeouts_of_their_own_where_they_are_given() -> None:
    found = deployment(
        """
routing: {timeouts: {stream: {first_byte: 9, first_token: 20}}}
models:
  m:
    timeouts: {stream: {total: 90}}
    deployments:
      - {name: a, backend: b, zone: z, timeouts: {first_byte: 5, stream: {idle: 4}}}
"""
    )
    assert found.timeouts == Timeouts(first_byte=5)
    assert found.streaming is not None
    # What a deployment says of everything goes before what is generally said of streams.
    assert found.streaming.timeouts == Timeouts(first_byte=5, idle=4, total=90)
    assert (found.streaming.first_token, found.streaming.total) == (20, 90)


def test_a_stream_without_limits_has_none() -> None:
    found = deployment(
        "models: {m: {deployments: [{name: a, backend: b, zone: z,"
        " timeouts: {stream: {idle: 4}}}]}}"
    )
    assert found.streaming is not None
    assert (found.streaming.first_token, found.streaming.total) == (math.inf, math.inf)


def test_plain_timeouts_are_taken_from_configurations_in_python() -> None:
    made = DeploymentConfig("a", "b", "z", timeouts=Timeouts(idle=7.0))  # type: ignore[arg-type]
    config = Config(models={"m": ModelConfig((made,))})
    [found] = build_models(config, {"b": Options})["m"].deployments
    assert (found.timeouts, found.streaming) == (Timeouts(idle=7.0), None)


def test_windows_are_the_models_unless_a_deployment_has_its_own() -> None:
    found = built(
        """
models:
  m:
    context_window: 8192
    context_fallbacks: [n]
    content_policy_fallbacks: [n]
    deployments:
      - {name: a, backend: b, zone: z}
      - {name: c, backend: b, zone: z, context_window: 4096}
  n: {deployments: [{name: a, backend: b, zone: z}]}
"""
    )
    assert [each.context_window for each in found["m"].deployments] == [8192, 4096]
    assert found["n"].deployments[0].context_window is None
    assert found["m"].context_fallbacks == found["m"].content_policy_fallbacks == ("n",)


def test_several_credentials_are_read_like_one(tmp_path: Path) -> None:
    (tmp_path / "two").write_text("sk-two\n")
    text = """
models:
  m:
    deployments:
      - {name: a, backend: b, zone: z, credential: '${KEY}', credentials: ['file:two', plain]}
      - {name: c, backend: b, zone: z, credentials: ['${KEY}']}
"""
    first, second = built(text, tmp_path)["m"].deployments
    assert [each.value for each in first.credentials] == ["sk-one", "sk-two", "plain"]
    assert first.credential is first.credentials[0]
    assert isinstance(first.credentials[1], FileCredential)
    assert first.credentials[1] in secrets_of([first])
    assert (second.credential.value, second.credentials) == ("sk-one", ())
    assert "sk-" not in repr(parsed(text, tmp_path).models["m"].deployments)


def test_credentials_are_masked_and_treatments_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "sk-one")
    file = tmp_path / "llmgw.yaml"
    file.write_text(
        """
accounting: {unpriced: zero}
routing: {failures: {credentials: stop}, timeouts: {stream: {first_token: 5}}}
models: {m: {deployments: [{name: a, backend: b, zone: z, credentials: ['${KEY}', plain]}]}}
"""
    )
    shown = effective(load_file(file))
    [found] = shown["models"]["m"]["deployments"]
    assert found["credentials"] == ["${KEY}", MASK]
    assert shown["routing"]["failures"]["credentials"] == "stop"
    assert shown["routing"]["timeouts"]["stream"]["first_token"] == 5.0


DEPLOYMENT = "{name: a, backend: b, zone: z, %s}"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("routing: {retries: -1}", "routing.retries: must be at least 0."),
        ("routing: {attempts: 0}", "routing.attempts: must be at least 1."),
        ("routing: {retry_share: -0.1}", "routing.retry_share: must be a number, 0 or more."),
        ("routing: {pause_max_ms: -1}", "routing.pause_max_ms: must be a number, 0 or more."),
        (
            "routing: {deadline_seconds: 0}",
            "routing.deadline_seconds: must be a number of seconds greater than 0.",
        ),
        (
            "routing: {timeouts: {stream: {first_token: 0}}}",
            ("routing.timeouts.stream.first_token: must be a number of seconds greater than 0."),
        ),
        (
            "routing: {failures: {client: retry}}",
            "routing.failures: unknown key `client`; known are `unavailable`, `connect`,",
        ),
        (
            "routing: {failures: {credentials: retry}}",
            "routing.failures.credentials: must be one of `elsewhere`, `stop`.",
        ),
        (
            "models: {m: {context_window: 0, deployments: [%s]}}" % (DEPLOYMENT % ""),
            "models.m.context_window: must be at least 1.",
        ),
        (
            "models: {m: {context_fallbacks: [n], deployments: [%s]}}" % (DEPLOYMENT % ""),
            "models.m.context_fallbacks[0]: unknown model `n`; there are `m`.",
        ),
        (
            "models: {m: {content_policy_fallbacks: [m], deployments: [%s]}}" % (DEPLOYMENT % ""),
            "models.m.content_policy_fallbacks[0]: a model cannot fall back to itself.",
        ),
        (
            "models: {m: {deployments: [%s]}}" % (DEPLOYMENT % "credentials: ['']"),
            "models.m.deployments[0].credentials[0]: a credential in the list must not be empty.",
        ),
        (
            "models: {m: {deployments: [%s]}}" % (DEPLOYMENT % "routing: {attempts: 3}"),
            "models.m.deployments[0].routing: unknown key `attempts`",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(text: str, sentence: str) -> None:
    [error] = errors(text)
    assert error.startswith(sentence)


def test_sections_are_put_together_from_layers_of_different_types() -> None:
    own = DeploymentRouting(retries=0)
    assert inherit(Rules, own, None, RoutingConfig(backoff_ms=7)).backoff_ms == 7
    assert inherit(Rules, own, RoutingConfig(retries=4)).retries == 0
