"""Aliases, the life of names, dimensions and zones: what is wrong, and what is hardly meant."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from llmgw_core.config.errors import ConfigErrors
from llmgw_core.config.load import parse
from llmgw_core.config.survey import survey
from llmgw_core.config.validate_names import warnings

TODAY = dt.date(2027, 1, 1)
PLAIN = "{deployments: [{name: a, backend: b, zone: eu}]}"
ELSEWHERE = "{deployments: [{name: a, backend: b, zone: world}]}"


def model(extra: str, deployments: str = "[{name: a, backend: b, zone: eu}]") -> str:
    return f"{{deployments: {deployments}, {extra}}}"


def vectors(extra: str = "") -> str:
    return model(f"kind: embedding, {extra}")


def text(models: dict[str, str], aliases: dict[str, str] | None = None) -> str:
    lines = ["accounting: {unpriced: zero}", "models:"]
    lines += [f"  {name}: {value}" for name, value in models.items()]
    if aliases:
        lines += ["aliases:", *(f"  {name}: {value}" for name, value in aliases.items())]
    return "\n".join(lines)


def errors(models: dict[str, str], aliases: dict[str, str] | None = None) -> list[str]:
    try:
        parse(text(models, aliases), base_dir="/base", env={}, today=TODAY)
    except ConfigErrors as error:
        return str(error).split("\n")
    return []


def remarks(models: dict[str, str], aliases: dict[str, str] | None = None) -> list[str]:
    config = parse(text(models, aliases), base_dir="/base", env={}, today=TODAY)
    return [str(each) for each in warnings(config, today=TODAY)]


def test_a_sound_configuration_has_no_errors_and_no_warnings() -> None:
    models = {
        "a": model("fallbacks: [b], life: {state: preview, successor: b}"),
        "b": model("life: {deprecated: 2027-02-01, sunset: 2027-02-01, successor: chat}"),
        "c": model("life: {state: retired, deprecated: 2020-01-01, sunset: 2021-01-01}", "[]"),
        "e": vectors("dimensions: 1024, fallbacks: [f]"),
        "f": model(
            "kind: embedding, dimensions: 1024", "[{name: a, backend: b, zone: eu, model: e}]"
        ),
        "g": vectors(),
    }
    aliases = {
        "chat": "{variants: [{model: a, weight: 95}, {model: b, weight: 5}], limits: {rpm: 3}}",
        "old": (
            "{variants: [{model: b}], sticky: session, session_header: X-Chat,"
            " life: {state: deprecated, deprecated: 2026-01-01, link: 'https://docs.example/old'}}"
        ),
        "embed": "{variants: [{model: e}]}",
    }
    assert errors(models, aliases) == []
    assert remarks(models, aliases) == []


@pytest.mark.parametrize(
    ("alias", "sentence"),
    [
        ("{variants: []}", "aliases.x.variants: an alias needs at least one variant."),
        (
            "{variants: [{model: a}, {model: a}]}",
            "aliases.x.variants: `a` is named 2 times; give it one weight.",
        ),
        (
            "{variants: [{model: bb}]}",
            "aliases.x.variants[0].model: unknown model `bb`; there are `a`, `e`, `f`, `gone`.",
        ),
        (
            "{variants: [{model: y}]}",
            (
                "aliases.x.variants[0].model: `y` is an alias itself; name the model that it leads"
                " to."
            ),
        ),
        (
            "{variants: [{model: gone}]}",
            (
                "aliases.x.variants[0].model: the model `gone` is retired and serves nobody; its"
                " successor is `a`."
            ),
        ),
        (
            "{variants: [{model: a, weight: 0}]}",
            (
                "aliases.x.variants[0].weight: must be at least 1; to send nobody there, remove the"
                " variant."
            ),
        ),
        (
            "{variants: [{model: a}, {model: e}]}",
            (
                "aliases.x.variants: the variants of an alias are of one kind, `chat` or"
                " `embedding`."
            ),
        ),
        (
            "{variants: [{model: e}, {model: f}]}",
            (
                "aliases.x.variants: vectors of different models cannot be compared: an alias of"
                " kind `embedding` has one variant."
            ),
        ),
        (
            "{variants: [{model: a}], session_header: 'a b'}",
            "aliases.x.session_header: must be the name of a header, e.g. `x-session-id`.",
        ),
        (
            "{variants: [{model: a}], limits: {rpm: 0}}",
            "aliases.x.limits.rpm: must be at least 1; leave it out for no limit.",
        ),
        *(
            (
                f"{{variants: [{{model: a}}], canary: {{steps: {steps}}}}}",
                (
                    "aliases.x.canary.steps: must be growing shares in percent, greater than 0 and"
                    " less than 100."
                ),
            )
            for steps in ("[]", "[0]", "[5, 100]", "[25, 5]", "[5, 5]")
        ),
        (
            "{variants: [{model: a}], canary: {minimum_calls: 0}}",
            "aliases.x.canary.minimum_calls: must be at least 1.",
        ),
        (
            "{variants: [{model: a}], canary: {errors: 0}}",
            (
                "aliases.x.canary.errors: must be a share from 0.01 to 0.9, or null for no abort on"
                " errors."
            ),
        ),
        (
            "{variants: [{model: a}], canary: {slower: 1}}",
            (
                "aliases.x.canary.slower: must be a factor from 1.1 to 100, or null for no abort on"
                " slowness."
            ),
        ),
    ],
)
def test_what_is_wrong_with_an_alias_is_a_sentence(alias: str, sentence: str) -> None:
    models = {
        "a": PLAIN,
        "e": vectors(),
        "f": vectors(),
        "gone": model("life: {state: retired, successor: a}"),
    }
    assert sentence in errors(models, {"x": alias, "y": "{variants: [{model: a}]}"})


def test_an_alias_has_a_name_of_its_own_that_can_be_audited() -> None:
    aliases = {"a": "{variants: [{model: a}]}", "n" * 101: "{variants: [{model: a}]}"}
    found = errors({"a": PLAIN}, aliases)
    assert "aliases.a: `a` is a model already; give the alias or the model another name." in found
    assert f"aliases.{'n' * 101}: the name of an alias has 1 to 100 characters." in found


@pytest.mark.parametrize(
    ("life", "sentence"),
    [
        (
            "{state: deprecated}",
            (
                "models.x.life: say since when, with `deprecated: DATE`: clients are told in a"
                " header."
            ),
        ),
        (
            "{sunset: 2027-01-01}",
            (
                "models.x.life.sunset: a name that ends is deprecated before; add `deprecated:"
                " DATE`."
            ),
        ),
        (
            "{deprecated: 2027-01-02, sunset: 2027-01-01}",
            "models.x.life.sunset: lies before the day of `deprecated` (2027-01-02).",
        ),
        *(
            (
                f"{{link: '{link}'}}",
                "models.x.life.link: must be the address of a page, `https://...`, in ASCII.",
            )
            for link in ("docs", "https://a b", "https://a>; rel=x", "https://ä.example", "https:")
        ),
        (
            "{successor: b}",
            (
                "models.x.life.successor: unknown model or alias `b`; there are `a`, `chat`, `e`,"
                " `gone`, `x`."
            ),
        ),
        ("{successor: x}", "models.x.life.successor: a name cannot be its own successor."),
        (
            "{successor: gone}",
            "models.x.life.successor: `gone` is retired itself; name what is to be used now.",
        ),
        (
            "{successor: e}",
            "models.x.life.successor: `e` is of another kind and cannot be used instead.",
        ),
        (
            "{successor: chat}",
            "models.x.life.successor: successors run in a circle (x → chat → a → x).",
        ),
    ],
)
def test_what_is_wrong_with_a_life_is_a_sentence(life: str, sentence: str) -> None:
    models = {
        "x": model(f"life: {life}"),
        "a": model("life: {successor: x}"),
        "e": vectors(),
        "gone": model("life: {state: retired}"),
    }
    assert sentence in errors(models, {"chat": "{variants: [{model: a}], life: {successor: a}}"})


def test_only_a_retired_model_may_be_without_deployments() -> None:
    assert errors({"a": model("life: {state: retired}", "[]")}) == []
    assert errors({"a": model("life: {state: preview}", "[]")}) == [
        "models.a: a model needs at least one deployment."
    ]


def test_a_fallback_serves_and_is_no_alias() -> None:
    models = {
        "a": model("fallbacks: [gone, chat]"),
        "gone": model("life: {state: retired, successor: a}"),
    }
    found = errors(models, {"chat": "{variants: [{model: a}]}"})
    assert found == [
        "models.a.fallbacks[1]: `chat` is an alias; name the model that it leads to.",
        (
            "models.a.fallbacks[0]: the model `gone` is retired and serves nobody; its successor"
            " is `a`."
        ),
    ]


def test_dimensions_are_those_of_embeddings_and_of_what_stands_in() -> None:
    models = {
        "a": model("dimensions: 3"),
        "e": vectors("dimensions: 1024, fallbacks: [f, g]"),
        "f": vectors("dimensions: 768"),
        "g": vectors("dimensions: 0"),
    }
    assert errors(models) == [
        "models.a.dimensions: only a model of `kind: embedding` has dimensions.",
        "models.e.fallbacks[0]: `f` has 768 dimensions, not 1024.",
        "models.e.fallbacks[1]: `g` has 0 dimensions, not 1024.",
        "models.g.dimensions: must be at least 1.",
    ]


@pytest.mark.parametrize("zone", ["''", "' '"])
def test_a_deployment_without_a_zone_is_an_error(zone: str) -> None:
    assert errors({"a": f"{{deployments: [{{name: a, backend: b, zone: {zone}}}]}}"}) == [
        (
            "models.a.deployments[0].zone: a deployment must say in which zone it is, e.g."
            " `onprem`, `eu` or `world`."
        )
    ]


def test_a_zone_that_nobody_could_be_granted_is_an_error() -> None:
    assert errors({"a": "{deployments: [{name: a, backend: b, zone: 'eu, world'}]}"}) == [
        (
            "models.a.deployments[0].zone: is no zone that could be granted: one consists of 1 to"
            " 50 letters, digits and . _ -"
        )
    ]


def test_a_fallback_in_other_zones_is_worth_a_warning() -> None:
    models = {
        "a": model("fallbacks: [b, c], context_fallbacks: [c, b]"),
        "b": ELSEWHERE,
        "c": PLAIN,
    }
    assert remarks(models) == [
        (
            f"models.a.{place}: `b` is in `world` only, `a` in `eu`: callers who are confined"
            " to `eu` never fall back to it."
        )
        for place in ("fallbacks[0]", "context_fallbacks[1]")
    ]


def test_a_zone_that_is_missing_is_an_error_and_no_warning() -> None:
    written = text({"a": model("fallbacks: [b]"), "b": "{deployments: [{name: a, backend: b}]}"})
    found = survey(written, base=Path("/base"), env={})
    assert [error.message for error in found.errors] == ["the key `zone` is missing."]
    assert found.config is not None
    assert warnings(found.config, today=TODAY) == []


def test_vectors_of_another_model_in_a_fallback_are_worth_a_warning() -> None:
    assert remarks({"e": vectors("fallbacks: [f]"), "f": vectors()}) == [
        (
            "models.e.fallbacks[0]: if `f` is another model than `e`, callers get vectors of both,"
            " which cannot be compared, and no reply says so."
        )
    ]


def test_days_that_have_come_are_worth_a_warning_and_no_error() -> None:
    models = {
        "a": model("life: {deprecated: 2027-01-01}"),
        "b": model("life: {state: deprecated, deprecated: 2026-01-01, sunset: 2027-01-01}"),
        "c": model("life: {state: retired, deprecated: 2026-01-01, sunset: 2027-01-01}"),
    }
    aliases = {
        "d": "{variants: [{model: a}], life: {state: preview, deprecated: 2026-01-01}}",
    }
    assert remarks(models, aliases) == [
        (
            "models.a.life.deprecated: the day has come, and it still is active: set `state:"
            " deprecated`."
        ),
        (
            "models.b.life.sunset: the day has come, and it still is deprecated: set `state:"
            " retired`, or a later day."
        ),
        (
            "aliases.d.life.deprecated: the day has come, and it still is preview: set `state:"
            " deprecated`."
        ),
    ]
