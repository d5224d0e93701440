"""Typed models from configured ones."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import msgspec
import pytest

from llmgw_core.config.build import build_models
from llmgw_core.config.decode import decode
from llmgw_core.config.errors import ConfigErrors
from llmgw_core.config.load import parse
from llmgw_core.domain.deployment import Timeouts
from llmgw_core.domain.limits import Limits

if TYPE_CHECKING:
    from llmgw_core.config.schema import Config


class Options(msgspec.Struct, frozen=True):
    base_url: str
    retries: int = 0


class Nested(msgspec.Struct):
    inner: Options | None = None
    either: Options | int | None = None
    pair: tuple[int, str] = (0, "")
    many: list[Options] = []
    by_name: dict[str, Options] = {}


class Tagged(msgspec.Struct, tag=True):
    x: int


def config(text: str) -> Config:
    return parse(
        f"accounting: {{unpriced: zero}}\n{text}",
        base_dir="/base",
        env={"KEY": "sk-secret"},
        today=dt.date(2026, 1, 1),
    )


def test_a_model_is_built_with_typed_options_and_an_id() -> None:
    built = build_models(
        config(
            """
models:
  m:
    tags: [t]
    fallbacks: [n]
    limits: {rpm: 3}
    created: 2025-01-01
    deployments:
      - name: a
        backend: openai
        zone: eu
        model: upstream
        weight: 2
        credential: ${KEY}
        transport: aiohttp
        timeouts: {idle: 7}
        on_disconnect: drain
        options: {base_url: "http://x/v1"}
  n: {deployments: [{name: b, backend: openai, zone: eu, options: {base_url: u}}]}
"""
        ),
        {"openai": Options},
    )
    model, other = built["m"], built["n"]
    deployment = model.deployments[0]
    assert (model.name, model.tags, model.fallbacks, model.kind) == ("m", ("t",), ("n",), "chat")
    assert model.limits == Limits(rpm=3)
    assert model.created == 1735689600
    assert other.created == 0
    assert deployment.id == "m/a"
    assert (deployment.model, deployment.upstream_model) == ("m", "upstream")
    assert other.deployments[0].upstream_model == "n"
    assert (deployment.weight, deployment.transport) == (2, "aiohttp")
    assert (deployment.zone, deployment.on_disconnect) == ("eu", "drain")
    assert deployment.timeouts == Timeouts(idle=7)
    assert deployment.credential.value == "sk-secret"
    assert deployment.options == Options("http://x/v1")
    assert "sk-secret" not in repr(model)


def test_unknown_backends_and_bad_options_are_reported_together() -> None:
    wrong = config(
        """
models:
  m:
    deployments:
      - {name: a, backend: opnai, zone: eu, credential: "${KEY}"}
      - {name: b, backend: openai, zone: eu, options: {bas_url: "${KEY}", retries: "${KEY}"}}
      - {name: c, backend: qqq, zone: eu}
"""
    )
    with pytest.raises(ConfigErrors) as caught:
        build_models(wrong, {"openai": Options})
    assert str(caught.value).split("\n") == [
        (
            "models.m.deployments[0].backend: no enabled plugin has a backend `opnai`"
            " (enabled: `openai`); did you mean `openai`?"
        ),
        "models.m.deployments[1].options: unknown key `bas_url`; did you mean `base_url`?",
        "models.m.deployments[1].options: the key `base_url` is missing.",
        "models.m.deployments[1].options.retries: expected `int`, got `str`.",
        (
            "models.m.deployments[2].backend: no enabled plugin has a backend `qqq`"
            " (enabled: `openai`)."
        ),
    ]
    assert "sk-secret" not in str(caught.value)
    with pytest.raises(ConfigErrors, match=r"enabled: none"):
        build_models(wrong, {})


def sentences(value: object, kind: type) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        decode(value, kind, "p")
    return [str(error) for error in caught.value.errors]


def test_nested_values_are_explained_where_they_are() -> None:
    assert decode({"inner": None, "pair": [1, "x"]}, Nested).pair == (1, "x")
    assert decode({"either": {"base_url": "u"}}, Nested).either == Options("u")
    assert sentences({"inner": {"base_url": 1}}, Nested) == [
        "p.inner.base_url: expected `str`, got `int`."
    ]
    assert sentences({"many": [{"base_url": "u"}, {"x": 1}]}, Nested) == [
        "p.many[1]: unknown key `x`; known are `base_url`, `retries`.",
        "p.many[1]: the key `base_url` is missing.",
    ]
    assert sentences({"by_name": {"a.b": {"base_url": "u", "retries": "x"}}}, Nested) == [
        'p.by_name."a.b".retries: expected `int`, got `str`.'
    ]
    assert sentences({"pair": [1, 2]}, Nested) == ["p.pair[1]: expected `str`, got `int`."]
    assert sentences({"either": {"base_url": 1}}, Nested) == [
        "p.either.base_url: expected `str`, got `int`."
    ]
    assert sentences([], Nested) == ["p: expected `object`, got `array`."]


def test_a_tag_is_no_unknown_key_and_a_wrong_one_is_not_quoted() -> None:
    assert decode({"type": "Tagged", "x": 1}, Tagged).x == 1
    assert sentences({"type": "sk-secret", "x": 1}, Tagged) == [
        "p.type: not one of the values that are allowed."
    ]


def test_what_the_way_out_lacks_is_told_once_and_at_its_place() -> None:
    text = """
outgoing: {proxy: environment, ca_file: general.pem}
models:
  m:
    deployments:
      - {name: a, backend: openai, zone: eu, options: {base_url: u}}
      - {name: b, backend: openai, zone: eu, options: {base_url: u}}
      - name: c
        backend: openai
        zone: eu
        outgoing: {ca_file: own.pem}
        options: {base_url: u}
"""
    with pytest.raises(ConfigErrors) as raised:
        build_models(config(text), {"openai": Options}, env={})
    assert str(raised.value).splitlines() == [
        "outgoing.ca_file: there is no file /base/general.pem.",
        "models.m.deployments[2].outgoing.ca_file: there is no file /base/own.pem.",
    ]
    with pytest.raises(ConfigErrors) as raised:
        build_models(config(text), {"openai": Options}, env={"all_proxy": "socks5://SECRET@h"})
    assert "outgoing.proxy: the variable `http_proxy`" in str(raised.value)
    assert "SECRET" not in str(raised.value)
