"""Reading a configuration: YAML, references, types. Every error names its place."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.config.errors import ConfigErrors
from llmgw_core.config.load import load, parse
from llmgw_core.config.schema import Config
from llmgw_core.config.schema_prices import starts_at

if TYPE_CHECKING:
    from pathlib import Path


TODAY = dt.date(2026, 1, 1)

MODEL = """
models:
  m:
    prices: [{from: 2025-01-01, cost: {input: 0.15, output: 1e-6}}]
    created: 2025-03-04
    deployments:
      - name: a
        backend: openai
        zone: no
        credential: ${KEY}
        options: {temperature: 0.7, version: 2024-06-01, exact: 0.1234567890123456789, n: [1]}
"""


def read(text: str, base: Path | str = "/base", **env: str) -> Config:
    return parse(text, base_dir=base, env=env, today=TODAY)


def errors(text: str, base: Path | str = "/base", **env: str) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        read(text, base, **env)
    assert str(caught.value).split("\n") == [str(error) for error in caught.value.errors]
    return str(caught.value).split("\n")


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "models:\n", "{}"])
def test_an_empty_file_is_an_empty_configuration(text: str) -> None:
    if text == "models:\n":
        assert errors(text) == ["models: expected `object`, got `null`."]
    else:
        assert read(text).models == {}


def test_prices_are_exact_and_dates_are_dates() -> None:
    model = read(MODEL, KEY="k").models["m"]
    cost = model.prices[0].cost
    assert cost is not None
    assert cost.input == Decimal("0.15")
    assert str(cost.input) == "0.15"
    assert cost.output == Decimal("0.000001")
    assert starts_at(model.prices[0].valid_from) == dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
    assert model.created == dt.date(2025, 3, 4)


@given(st.decimals(min_value=0, max_value=10**6, places=9))
def test_any_price_comes_out_as_it_was_written(price: Decimal) -> None:
    text = f"prices: [{{from: 2025-01-01, cost: {{input: {price:f}}}}}]"
    config = read(f"models: {{m: {{deployments: [{{name: a, backend: b, zone: z, {text}}}]}}}}")
    cost = config.models["m"].deployments[0].prices[0].cost
    assert cost is not None
    assert cost.input == price


def test_options_hold_plain_floats_unless_that_would_round() -> None:
    options = read(MODEL, KEY="k").models["m"].deployments[0].options
    assert options["temperature"] == 0.7
    assert type(options["temperature"]) is float
    assert options["exact"] == Decimal("0.1234567890123456789")
    assert options["version"] == "2024-06-01"
    assert options["n"] == [1]


def test_words_that_old_yaml_takes_for_booleans_and_times_are_words() -> None:
    assert read(MODEL, KEY="k").models["m"].deployments[0].zone == "no"
    assert errors("server: {host: 12:30, port: 12:30}") == [
        "server.port: expected `int`, got `str`."
    ]
    assert read("server: {port: 0x10}").server.port == 16
    assert read("server: {port: 0o10}").server.port == 8
    assert read("server: {port: 010}").server.port == 10


def test_anchors_and_merge_keys_work_and_the_own_key_wins() -> None:
    text = """
plugins:
  - &a {name: a, timeout: 1.5, config: {x: 1}}
  - {<<: *a, name: b}
  - {<<: [{timeout: 3}, *a], name: c}
  - {name: d, config: {"<<": 1}}
"""
    plugins = read(text).plugins
    assert [plugin.timeout for plugin in plugins] == [1.5, 1.5, 3.0, 30.0]
    assert plugins[1].config == {"x": 1}
    assert plugins[3].config == {"<<": 1}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "server: {}\nserver: {}",
            "server: given twice; a key may stand once in a mapping (line 2).",
        ),
        ("server: !!python/name:os.system x", "server: tags (`!...`) are not allowed"),
        ("server: {port: !!int x}", "server.port: not a number that can be read (line 1)."),
        (
            "routing: {backoff_ms: %s}" % ("9" * 400),
            "routing.backoff_ms: not a number that can be read",
        ),
        ("server: {port: -1000000000000000001}", "server.port: not a number that can be read"),
        ("server: {port: !!bool x}", "server.port: tags (`!...`) are not allowed"),
        ("? [a]\n: 1", "a key must be a single word, not a list or mapping (line 1)."),
        ("server: {<<: 1}", "server: `<<` takes a mapping or a list of mappings (line 1)."),
        ("server: *nobody", "line 1, column 9: an alias (`*name`) without its anchor"),
        ("server: [", "line "),
        ("a: 1\n---\nb: 1", "line 2, column 1: an alias"),
        ("server: {port: 0o9}", "server.port: expected `int`, got `str`."),
        ("server: {port: !!float x}", "server.port: not a number that can be read (line 1)."),
        ("server: '\x01'", "not text that YAML allows: a control character at "),
        ("[1]", "the configuration must be a mapping of sections."),
        ("just a word", "the configuration must be a mapping of sections."),
        ("server: {drain_seconds: .inf}", "server.drain_seconds: expected `float`, got `str`."),
    ],
)
def test_what_is_not_good_yaml_is_refused_with_its_place(text: str, sentence: str) -> None:
    assert errors(text)[0].startswith(sentence)


def test_aliases_that_multiply_are_bounded() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert errors("\n".join(lines))[0].endswith("aliases expand to more than 200000 values.")
    merges = ["a0: &a0 {x: 1}"]
    merges += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 12)]
    assert errors("\n".join(merges))[0].endswith("aliases expand to more than 200000 values.")


@pytest.mark.parametrize("text", ["a: &a [*a]", "[" * 900 + "]" * 900])
def test_endless_and_too_deep_nesting_is_refused(text: str) -> None:
    assert errors(text) == ["nested deeper than 64 levels."]


def test_every_unknown_missing_and_mistyped_key_is_reported_at_once() -> None:
    text = """
models:
  gpt-4.1:
    kind: chta
    created: yesterday
    limits: {rmp: 3}
    deployments:
      - {name: x, weigth: 1, zone: 1, backend: b}
      - 7
sevrer: {}
qqq: 1
server: {port: x, host: [1]}
"""
    sections = ", ".join(f"`{name}`" for name in Config.__struct_fields__)
    assert errors(text) == [
        "unknown key `sevrer`; did you mean `server`?",
        f"unknown key `qqq`; known are {sections}.",
        'models."gpt-4.1".deployments[0]: unknown key `weigth`; did you mean `weight`?',
        'models."gpt-4.1".deployments[0].zone: expected `str`, got `int`.',
        'models."gpt-4.1".deployments[1]: expected `object`, got `int`.',
        'models."gpt-4.1".kind: must be one of `chat`, `embedding`; did you mean `chat`?',
        'models."gpt-4.1".limits: unknown key `rmp`; did you mean `rpm`?',
        'models."gpt-4.1".created: invalid RFC3339 encoded date.',
        "server.host: expected `str`, got `array`.",
        "server.port: expected `int`, got `str`.",
        # What the types let through is looked at in the same go.
        (
            'models."gpt-4.1".deployments[0]: has no price: add `prices` to the model or the'
            " deployment, or set `accounting.unpriced: zero` to book such calls at zero."
        ),
    ]
    free = "accounting: {unpriced: zero}"
    assert errors(f"models: {{m: {{deployments: [{{name: x}}]}}}}\n{free}") == [
        "models.m.deployments[0]: the key `backend` is missing.",
        "models.m.deployments[0]: the key `zone` is missing.",
    ]


def test_variables_are_put_into_string_values_and_dollars_can_be_escaped() -> None:
    text = "server: {host: '${A}-$${A}-$A-${B}'}"
    assert read(text, A="1", B="${A}").server.host == "1-${A}-$A-${A}"


def test_missing_and_malformed_variables_are_named_with_their_path() -> None:
    assert errors("server: {host: '${NOPE} ${'}\nstore: {url: '${1x}'}") == [
        "server.host: the environment variable `NOPE` is not set.",
        (
            "server.host: `${` must be followed by the name of an environment variable and `}`;"
            " write `$${` for a plain `${`."
        ),
        (
            "store.url: `${` must be followed by the name of an environment variable and `}`;"
            " write `$${` for a plain `${`."
        ),
    ]


def test_secret_files_are_read_for_credentials_and_in_plugins_own_sections(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("  sk-file\n")
    text = """
accounting: {unpriced: zero, journal: "file:key"}
plugins: [{name: p, config: {a: {b: ["file:${NAME}"]}}}]
models:
  m:
    tags: ["file:key"]
    deployments: [{name: a, backend: b, zone: z, credential: "file:key", options: {o: "file:key"}}]
"""
    config = read(text, tmp_path, NAME="key")
    assert config.models["m"].deployments[0].credential == "sk-file"
    assert config.models["m"].deployments[0].options == {"o": "sk-file"}
    assert config.plugins[0].config == {"a": {"b": ["sk-file"]}}
    assert config.models["m"].tags == ("file:key",)
    assert config.accounting.journal == str(tmp_path / "file:key")


def test_what_a_variable_contains_is_not_interpreted_again() -> None:
    config = read("plugins: [{name: p, config: {k: '${K}'}}]", K="file:/etc/hostname")
    assert config.plugins[0].config == {"k": "file:/etc/hostname"}


def test_secret_files_that_cannot_be_used_are_named_with_their_path(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "large").write_bytes(b"x" * (2**20 + 1))
    names = ["missing", "empty", "binary", "large", "${UNSET}"]
    values = ", ".join(f"'file:{name}'" for name in names)
    text = f"plugins: [{{name: p, config: {{k: [{values}]}}}}]"
    assert errors(text, tmp_path) == [
        "plugins[0].config.k[0]: the file `missing` cannot be read (No such file or directory).",
        "plugins[0].config.k[1]: the file `empty` is empty.",
        "plugins[0].config.k[2]: the file `binary` is not UTF-8 text.",
        "plugins[0].config.k[3]: the file `large` is larger than 1048576 bytes.",
        "plugins[0].config.k[4]: the environment variable `UNSET` is not set.",
    ]


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "llmgw.yaml"
    file.write_text("store: {url: 'sqlite:///data/x.db'}\naccounting: {journal: j}")
    config = load(file)
    assert config.store.url == f"sqlite:///{tmp_path}/data/x.db"
    assert config.accounting.journal == str(tmp_path / "j")


@pytest.mark.parametrize(
    "url", ["sqlite:////abs/x.db", "sqlite:///:memory:", "sqlite://", "postgresql://u@h/db"]
)
def test_absolute_and_other_stores_stay_as_they_are(url: str) -> None:
    assert read(f"store: {{url: '{url}'}}").store.url == url


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors, match=r"nope.yaml cannot be read: No such file"):
        load(tmp_path / "nope.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    with pytest.raises(ConfigErrors, match=r"latin.yaml is not UTF-8 text"):
        load(tmp_path / "latin.yaml")


SECRET = "sk-very-secret-0123456789"


def test_no_repr_shows_a_secret() -> None:
    text = """
accounting: {unpriced: zero}
store: {url: "postgresql://u:${KEY}@h/db"}
plugins: [{name: p, config: {key: "${KEY}"}}]
models:
  m: {deployments: [{name: a, backend: b, zone: z, credential: "${KEY}", options: {k: "${KEY}"}}]}
"""
    config = read(text, KEY=SECRET)
    assert config.models["m"].deployments[0].credential == SECRET
    assert SECRET not in repr(config)


@pytest.mark.parametrize(
    "text",
    [
        "models: {m: {deployments: [{name: a, backend: b, zone: z, credential: [SECRET]}]}}",
        "models: {m: {deployments: [{name: a, credential: SECRET, weight: SECRET}]}}",
        "models: {m: {kind: SECRET, deployments: []}}",
        "models: {m: {deployments: [{name: a, backend: b, zone: z, transport: SECRET}]}}",
        "server: {port: SECRET, server: SECRET}",
        "server: *SECRET",
        "server: !SECRET x",
        "server: 'SECRET",
        "store: {url: SECRET, staleness: -1}",
        "plugins: [{name: a, on_error: SECRET}]",
        "models: {m: {created: SECRET, deployments: []}}",
        "plugins: [{name: a, config: {k: '${SECRET'}}]",
    ],
)
@pytest.mark.parametrize("by_variable", [False, True])
def test_no_error_shows_a_secret(text: str, by_variable: bool) -> None:
    written = text.replace("SECRET", "${KEY}" if by_variable else SECRET)
    assert not any(SECRET in sentence for sentence in errors(written, KEY=SECRET))
