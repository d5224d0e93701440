"""What may stand in the sections that choose and set balancers, and how mistakes are told."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import pytest

from llmgw_core.config.load import parse
from llmgw_core.domain.errors import ConfigError
from llmgw_core.generation import own_parts
from llmgw_core.pipeline.balancing import chosen_balancers
from llmgw_core.routing.strategies.affinity import PrefixOptions, SessionOptions
from llmgw_core.routing.strategies.least_outstanding import LeastOutstandingOptions
from llmgw_core.testing.clock import FakeClock

if TYPE_CHECKING:
    from llmgw_core.config.schema import Config
    from llmgw_core.pipeline.balancing import ChosenBalancer

MODELS = """
models:
  m:
    prices: [{from: 2020-01-01, cost: {}}]
    deployments: [{name: a, backend: x, zone: onprem}]
  n:
    prices: [{from: 2020-01-01, cost: {}}]
    deployments: [{name: a, backend: x, zone: onprem}]
    routing: %s
"""


def read(text: str) -> Config:
    return parse(textwrap.dedent(text), base_dir="/base", env={})


def chosen(routing: str, of_n: str = "{}") -> dict[str, ChosenBalancer]:
    config = read(MODELS % of_n + f"routing: {routing}\n")
    return chosen_balancers(config, own_parts().balancers, FakeClock())


def test_a_model_takes_over_what_holds_for_all_with_its_options() -> None:
    found = chosen("{balancer: prefix_affinity, balancer_options: {bound: 2}}")
    assert found["m"].context.options == PrefixOptions(bound=2.0)
    assert found["m"] == found["n"]


def test_a_model_with_a_balancer_of_its_own_begins_with_that_ones_own_options() -> None:
    found = chosen(
        "{balancer: prefix_affinity, balancer_options: {bound: 2}}", "{balancer: session_affinity}"
    )
    assert found["n"].context.options == SessionOptions()
    assert found["m"] != found["n"]


def test_options_of_a_model_alone_replace_those_of_the_same_balancer() -> None:
    found = chosen(
        "{balancer: least_outstanding, balancer_options: {call_tokens: 9}}",
        "{balancer_options: {}}",
    )
    options = [found[name].context.options for name in "mn"]
    assert options == [LeastOutstandingOptions(9), LeastOutstandingOptions()]


def test_what_is_set_alike_is_made_once() -> None:
    found = chosen("{balancer: peak_ewma}", "{balancer: peak_ewma}")
    assert len({found["m"], found["n"]}) == 1


@pytest.mark.parametrize(
    ("routing", "of_n", "sentence"),
    [
        (
            "{balancer: round_robin, balancer_options: {speed: 1}}",
            "{}",
            "routing.balancer_options: the balancer `round_robin` has no options.",
        ),
        (
            "{balancer: prefix_affinity, balancer_options: {boundd: 2}}",
            "{}",
            "routing.balancer_options: unknown key `boundd`; did you mean `bound`?",
        ),
        (
            "{}",
            "{balancer: prefix_affinity, balancer_options: {bound: 0.5}}",
            "models.n.routing.balancer_options.bound: expected `float` >= 1.0.",
        ),
        (
            "{}",
            "{balancer: session_affinity, balancer_options: {explore: 2}}",
            "models.n.routing.balancer_options.explore: ",
        ),
        (
            "{}",
            "{balancer: fastest}",
            "models.n.routing.balancer: no balancer `fastest` is registered",
        ),
    ],
)
def test_mistakes_are_told_with_their_place(routing: str, of_n: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        chosen(routing, of_n)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("routing: {ramp: {seconds: -1}}", "routing.ramp.seconds: must be a number of seconds"),
        ("routing: {ramp: {start: 0}}", "routing.ramp.start: must be a share of the calls"),
        ("routing: {ramp: {start: 1.5}}", "routing.ramp.start: must be a share of the calls"),
        ("routing: {ramp: {steps: 3}}", "routing.ramp: unknown key `steps`"),
    ],
)
def test_a_ramp_leads_upwards(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert str(caught.value).startswith(sentence)


def test_a_cap_of_nothing_is_a_mistake() -> None:
    text = MODELS.replace("zone: onprem}]", "zone: onprem, caps: {rpm: 0}}]", 1) % "{}"
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert str(caught.value).startswith(
        "models.m.deployments[0].caps.rpm: must be at least 1; leave it out for no limit"
        " (0 would refuse every call: to take the deployment out of use, remove it)."
    )
