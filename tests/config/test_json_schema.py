"""The schema for editors accepts what loads and refuses what does not."""

from __future__ import annotations

import datetime as dt  # noqa: TC003 -- msgspec reads the annotations at run time
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema
import msgspec
import pytest

from llmgw_core.config.document import read_document
from llmgw_core.config.json_schema import json_schema

EXAMPLES = Path(__file__).parents[2] / "examples"


class Options(msgspec.Struct, forbid_unknown_fields=True):
    """`base_url` is where it lives. It has `tries`."""

    base_url: str
    tries: int = 1


class Inner(msgspec.Struct):
    price: int


class Config(msgspec.Struct):
    inner: Inner | None = None


class Strict(msgspec.Struct):
    word: Literal["a", "b"] = "a"
    start: Annotated[str, msgspec.Meta(pattern="^x")] = "x"
    day: dt.date | None = None


class Strange(msgspec.Struct):
    thing: object = None
    when: type | None = None


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    plugins: dict[str, Any] = {"openai": None, "jsonlog": None, "p": Config, "strange": Strange}
    made = json_schema(plugins, {"openai": Options})
    made["$defs"]["PluginConfig"]["allOf"] = [
        rule
        for rule in made["$defs"]["PluginConfig"]["allOf"]
        if rule["if"]["properties"]["name"]["const"] != "jsonlog"  # it is not installed here
    ]
    return made


def check(text: str, schema: dict[str, Any]) -> list[str]:
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    return [error.json_path for error in validator.iter_errors(read_document(text))]


def test_it_is_a_schema(schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda file: file.name)
def test_the_examples_are_valid(file: Path, schema: dict[str, Any]) -> None:
    assert check(file.read_text(encoding="utf-8"), schema) == []


DEPLOYMENT = "{name: a, backend: openai, zone: eu, options: {base_url: u}}"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("sevrer: {}", "$"),
        ("server: {port: x}", "$.server.port"),
        (
            "statements: {pools: {p: {monthly: 1, weights: {input: {}}}}}",
            "$.statements.pools.p.weights.input",
        ),
        ("server: {prot: 1}", "$.server"),
        ("models: {m: {}}", "$.models.m"),
        ("models: {m: {deployments: [], kind: chta}}", "$.models.m.kind"),
        ("models: {m: {deployments: [{name: a, backend: openai}]}}", "$.models.m.deployments[0]"),
        (
            "models: {m: {deployments: [{name: a, backend: openai, zone: z, options: {x: 1}}]}}",
            "$.models.m.deployments[0].options",
        ),
        ("models: {m: {deployments: [], prices: [{from: x, cost: {input: y}}]}}", "$.models.m"),
        ("plugins: [{name: p, config: {inner: {price: x}}}]", "$.plugins[0].config.inner"),
        ("plugins: [{name: openai, config: {x: 1}}]", "$.plugins[0].config"),
    ],
)
def test_what_does_not_load_is_refused_at_its_place(
    text: str, path: str, schema: dict[str, Any]
) -> None:
    found = check(text, schema)
    assert found
    assert any(each.startswith(path) for each in found)


@pytest.mark.parametrize(
    "text",
    [
        f"models: {{m: {{deployments: [{DEPLOYMENT}]}}}}",
        "models: {m: {deployments: [], prices: [{from: 2026-01-01, cost: {input: 0.15}}]}}",
        "models: {m: {deployments: [{name: a, backend: unknown, zone: z, options: {x: 1}}]}}",
        "plugins: [{name: p, config: {inner: {price: 1}}}, {name: other, config: {y: 2}}]",
        "plugins: [{name: openai}, {name: strange, config: {thing: 7}}]",
    ],
)
def test_what_is_right_or_unknown_is_let_through(text: str, schema: dict[str, Any]) -> None:
    assert check(text, schema) == []


def test_what_the_documentation_says_of_a_key_is_shown_with_it(schema: dict[str, Any]) -> None:
    options = schema["$defs"]["backend.openai.Options"]["properties"]
    assert options["base_url"]["description"] == "`base_url` is where it lives."
    assert options["tries"]["description"] == "It has `tries`."
    reload = schema["$defs"]["ReloadConfig"]["properties"]["watch"]
    assert reload["description"].startswith("`watch`: every how many seconds")


@pytest.mark.parametrize(
    "text",
    [
        "server: {server: '${KIND}'}",
        "plugins: [{name: strict, config: {word: '${KIND}', start: 'file:x', day: '${DAY}'}}]",
        "models: {m: {kind: '${K}', deployments: [], prices: [{from: 2024-01-01, cost: {}}]}}",
        "models: {m: {deployments: [], prices: [{from: '${DAY}', cost: {}}]}}",
        "models: {m: {deployments: [], prices: [{from: 2024-01-01, cost: {input: '${PRICE}'}}]}}",
    ],
)
def test_a_reference_may_stand_for_any_text_and_a_price_may_be_quoted(text: str) -> None:
    schema = json_schema({"strict": Strict}, {"openai": Options})
    assert check(text, schema) == []
    assert check(text.replace("${", "x{"), schema) != []
    assert (
        check(
            "models: {m: {deployments: [], prices: [{from: 2024-01-01, cost: {input: '1'}}]}}",
            schema,
        )
        == []
    )
