"""Limits of models, aliases and deployments in the configuration."""

from __future__ import annotations

import pytest

from llmgw_core.config.errors import ConfigErrors
from llmgw_core.config.load import parse

EVERYTHING = (
    "{rpm: 9, tpm: 9, parallel: 9, rpd: 9, tpd: 9, input_tpm: 9, output_tpm: 9, input_tpd: 9,"
    " output_tpd: 9, burst: 0.5, shadow: [rpm, output_tpd]}"
)


def text(limits: str = "{}", caps: str = "{}", alias: str = "{}") -> str:
    return f"""
models:
  m:
    limits: {limits}
    deployments: [{{name: a, backend: b, zone: z, caps: {caps}}}]
aliases:
  x: {{variants: [{{model: m}}], limits: {alias}}}
accounting: {{unpriced: zero}}
"""


def errors(limits: str = "{}", caps: str = "{}", alias: str = "{}") -> list[str]:
    try:
        parse(text(limits, caps, alias), base_dir="/base", env={})
    except ConfigErrors as error:
        return str(error).split("\n")
    return []


def test_a_model_an_alias_and_a_deployment_can_have_all_that_make_sense() -> None:
    caps = "{rpm: 9, tpm: 9, parallel: 9, rpd: 9, tpd: 9, burst: 30, shadow: [tpd]}"
    assert errors(EVERYTHING, caps, EVERYTHING) == []


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ("{rpd: 0}", "limits.rpd: must be at least 1; leave it out for no limit"),
        ("{tpd: -5}", "limits.tpd: must be at least 1"),
        ("{rpd: 5, burst: 9}", "limits.burst: shapes limits by the minute, and there is none: set"),
        ("{rpm: 5, burst: 0}", "limits.burst: is a number of seconds above 0, up to 3600."),
        ("{rpm: 5, shadow: [tpm]}", "limits.shadow: names tpm, which is not set: set it, or"),
        ("{rpm: 5, shadow: [requests]}", "limits.shadow: knows no `requests`; limits are rpm,"),
        ("{tpm: 1000000000000000000}", "limits.tpm: is a whole number from 1 to"),
    ],
)
def test_what_cannot_be_meant_is_named_with_its_place(limits: str, says: str) -> None:
    for place, found in (
        ("models.m.limits", errors(limits)),
        ("aliases.x.limits", errors(alias=limits)),
    ):
        assert len(found) == 1
        assert says.replace("limits.", f"{place}.", 1) in found[0]


def test_a_deployment_has_no_caps_of_one_kind_of_tokens() -> None:
    [error] = errors(caps="{input_tpm: 5}")
    assert "caps.input_tpm: a deployment is capped by all of its tokens: use tpm or tpd." in error
