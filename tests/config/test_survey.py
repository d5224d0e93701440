"""Every error of a file at once, each with its place."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.config.errors import ConfigErrors
from llmgw_core.config.load import load
from llmgw_core.config.positions import located, place, positions
from llmgw_core.config.repair import Repair, stand_in
from llmgw_core.config.schema import Config
from llmgw_core.config.survey import survey
from llmgw_core.domain.errors import ConfigError

TEXT = """\
server: {port: 70000, hsot: x}
models:
  gpt-4.1:
    fallbacks: [m, nobody]
    kind: chta
    deployments:
      - name: a
        backend: ${NOT_THERE}
        zone: eu
        weight: -1
        weigth: 2
      - {name: b, backend: c}
  m:
    prices: [{from: yesterday, cost: {input: x}}]
    deployments: 7
plugins:
  - {name: p, timeout: 0}
  - 3
"""


def found(text: str) -> list[str]:
    errors = survey(text, base=Path("/base"), env={}, today=dt.date(2026, 1, 1)).errors
    return [str(error) for error in place(errors, text, "f.yaml")]


def test_a_file_full_of_mistakes_is_explained_line_by_line() -> None:
    price = (
        "has no price: add `prices` to the model or the deployment, or set `accounting.unpriced:"
        " zero` to book such calls at zero."
    )
    assert found(TEXT) == [
        "f.yaml:1:10: server.port: must be from 1 to 65535, or 0 for any free port.",
        "f.yaml:1:23: server: unknown key `hsot`; did you mean `host`?",
        (
            'f.yaml:4:20: models."gpt-4.1".fallbacks[1]: unknown model `nobody`; there are'
            " `gpt-4.1`, `m`."
        ),
        (
            'f.yaml:5:5: models."gpt-4.1".kind: must be one of `chat`, `embedding`; did you mean'
            " `chat`?"
        ),
        f'f.yaml:7:9: models."gpt-4.1".deployments[0]: {price}',
        (
            'f.yaml:8:9: models."gpt-4.1".deployments[0].backend: the environment variable'
            " `NOT_THERE` is not set."
        ),
        (
            'f.yaml:10:9: models."gpt-4.1".deployments[0].weight: must be at least 1; to take a'
            " deployment out of use, remove it."
        ),
        (
            'f.yaml:11:9: models."gpt-4.1".deployments[0]: unknown key `weigth`; did you mean'
            " `weight`?"
        ),
        'f.yaml:12:9: models."gpt-4.1".deployments[1]: the key `zone` is missing.',
        f'f.yaml:12:9: models."gpt-4.1".deployments[1]: {price}',
        (
            "f.yaml:14:15: models.m.prices[0].from: is neither a date (2026-03-01, from its start"
            " in UTC) nor a date and time with zone (2026-03-01T00:00:00+01:00)."
        ),
        "f.yaml:14:39: models.m.prices[0].cost.input: invalid decimal string.",
        "f.yaml:15:5: models.m.deployments: expected `array`, got `int`.",
        "f.yaml:17:15: plugins[0].timeout: must be a number of seconds greater than 0.",
        "f.yaml:18:5: plugins[1]: expected `object`, got `int`.",
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("server: [", "f.yaml:2:1: line 2, column 1: did not find"),
        ("a: 1\na: 2", "f.yaml:2:1: a: given twice; a key may stand once in a mapping (line 2)."),
        ("[1]", "f.yaml: the configuration must be a mapping of sections."),
    ],
)
def test_what_is_no_mapping_in_yaml_has_its_place_too(text: str, sentence: str) -> None:
    assert found(text)[0].startswith(sentence)


def test_the_words_of_merged_mappings_stand_where_they_were_written() -> None:
    text = "plugins:\n  - &a {name: a, timeout: 0}\n  - {<<: [*a], name: b}\n"
    assert positions(text)["plugins[1].timeout"] == (2, 18)
    assert positions("? [a]\n: 1") == {}
    assert positions("") == positions("a: [") == {}
    assert max(len(path) for path in positions("[" * 60 + "]" * 60)) <= 3 * 60


def test_a_file_that_is_loaded_names_itself_in_its_errors(tmp_path: Path) -> None:
    file = tmp_path / "llmgw.yaml"
    file.write_text("\nserver:\n  port: x\n")
    with pytest.raises(ConfigErrors) as caught:
        load(file)
    [error] = caught.value.errors
    assert (error.file, error.line, error.column) == (str(file), 3, 3)
    assert str(error) == f"{file}:3:3: server.port: expected `int`, got `str`."


def test_a_place_that_is_known_is_not_looked_up_again() -> None:
    with pytest.raises(ConfigErrors) as caught, located("a: 1", "b.yaml"):
        raise ConfigErrors([ConfigError("x.", path="a", file="a.yaml", line=7, column=8)])
    assert str(caught.value) == "a.yaml:7:8: a: x."


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "a", "2026-01-01"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["models", "plugins", "server", "m", "name", "port", "deployments", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(list(Config.__struct_fields__)), VALUES))
def test_whatever_stands_in_a_file_can_be_repaired(raw: dict[str, object]) -> None:
    import msgspec

    repair = Repair()
    msgspec.convert(repair.value(raw, Config), Config)
    assert all(repair.covers(path) for path in repair.paths)


def test_a_stand_in_of_the_whole_file_is_a_configuration() -> None:
    assert stand_in(Config) == {}
    assert survey("models: 7", base=Path("/b"), env={}).config == Config()


def bomb(deep: int) -> str:
    merges = ["a0: &a0 {x: 1}"]
    merges += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, deep)]
    return "\n".join(merges)


@pytest.mark.parametrize("text", [bomb(12), "a: &a {<<: [*a, *a]}"])
def test_places_of_what_merges_multiply_are_looked_for_no_longer_than_places_of_all_else(
    text: str,
) -> None:
    assert len(found(text)) == 1


def test_nesting_that_would_overflow_the_stack_is_refused_where_it_gets_too_deep() -> None:
    for text in ("[" * 200_000, "{a: " * 200_000, "- " * 200_000):
        assert found(text)[0].endswith("nested deeper than 64 levels.")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("reload: {watch: !!float snan}", "reload.watch: not a number that can be read (line 1)."),
        ('store: {url: "a\\0b"}', "store.url: holds a zero character, which no value can have"),
    ],
)
def test_values_that_nothing_could_work_with_are_refused(text: str, problem: str) -> None:
    (error,) = found(text)
    assert problem in error


def test_a_file_that_never_ends_is_refused() -> None:
    with pytest.raises(ConfigErrors, match="more than 16777216 characters"):
        load("/dev/zero")
