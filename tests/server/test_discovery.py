"""What `serve --discover` makes of whoever listens: pure parts, and asking over real sockets."""

from __future__ import annotations

import datetime as dt
import json
import socket
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from llmgw_core.config.load import parse
from llmgw_core.domain.deployment import Timeouts
from llmgw_core.domain.outgoing import DIRECT
from llmgw_core.testing.upstream import Peer, Upstream, http_reply, repeating
from llmgw_server.cli import discovery
from llmgw_server.cli.discovered_text import configuration
from llmgw_server.cli.discovery import Finding, Offer, ask_all, read_listing
from llmgw_server.cli.errors import CommandError
from llmgw_server.cli.first_run import report
from llmgw_server.cli.sources import LOCAL, PUBLIC, Source, engine, engines, providers

DAY = dt.date(2026, 1, 1)


def listing(*rows: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"object": "list", "data": list(rows), **more}).encode()


VLLM = listing(
    {
        "id": "Qwen/Qwen3-8B",
        "object": "model",
        "created": 1_760_000_000,
        "owned_by": "vllm",
        "root": "Qwen/Qwen3-8B",
        "parent": None,
        "max_model_len": 32768,
        "permission": [{"id": "modelperm-1", "object": "model_permission", "is_blocking": False}],
    }
)
OLLAMA = listing(
    {"id": "llama3.2:3b", "object": "model", "created": 1_750_000_000, "owned_by": "library"},
    {"id": "nomic-embed-text:latest", "object": "model", "created": 1, "owned_by": "library"},
)
LLAMA_CPP = listing(
    {
        "id": "/models/smollm2-135m.Q8_0.gguf",
        "object": "model",
        "created": 1_760_000_000,
        "owned_by": "llamacpp",
        "meta": {"vocab_type": 2, "n_ctx_train": 8192},
    },
    models=[{"name": "/models/smollm2-135m.Q8_0.gguf", "type": "model"}],
)
LM_STUDIO = listing(
    {"id": "qwen2.5-7b-instruct", "object": "model", "owned_by": "organization_owner"},
    {"id": "text-embedding-nomic-embed-text-v1.5", "object": "model", "owned_by": "x"},
)
FORMATS = {"vllm": VLLM, "ollama": OLLAMA, "llamacpp": LLAMA_CPP, "lmstudio": LM_STUDIO}


def at(upstream: Upstream) -> Source:
    return Source("port", f"http://127.0.0.1:{upstream.port}/v1", LOCAL)


async def ask(source: Source, key: str = "") -> Finding:
    [finding] = await ask_all([source], DIRECT, lambda _: key)
    return finding


@pytest.mark.parametrize("name", FORMATS)
async def test_engines_are_known_by_what_they_answer(name: str) -> None:
    async with Upstream(repeating(http_reply(200, FORMATS[name]))) as upstream:
        finding = await ask(at(upstream))
    assert finding.source.name == f"{name}-{upstream.port}"
    assert finding.problem == ""
    [request] = upstream.requests
    assert (request.method, request.target) == ("GET", "/v1/models")
    assert request.header(b"authorization") is None


def test_kinds_are_told_apart_and_what_is_neither_is_left_out() -> None:
    source = Source("openai", "https://api.openai.com/v1", PUBLIC, "OPENAI_API_KEY")
    body = listing(
        *({"id": name} for name in ("gpt-4o", "text-embedding-3-small", "whisper-1", "dall-e-3")),
        {"id": "bge-m3:latest"},
        {"id": "mistral-ocr", "capabilities": {"completion_chat": False}},
        {"id": "flux", "type": "image"},
        {"id": "m2-bert", "type": "embedding"},
        {"id": "with\nnewline"},
        {"id": 7},
        "no object",  # type: ignore[arg-type]
    )
    assert {offer.id: offer.kind for offer in read_listing(source, body).offers} == {
        "gpt-4o": "chat",
        "text-embedding-3-small": "embedding",
        "bge-m3:latest": "embedding",
        "m2-bert": "embedding",
    }


@pytest.mark.parametrize(
    "body", [b"<html>", b"{}", b'"text"', b"[" * 100_000, b"\xff", b'{"data": null}', b"[]", b"7"]
)
def test_an_answer_without_models_is_a_problem_and_no_crash(body: bytes) -> None:
    finding = read_listing(Source("x", "http://127.0.0.1:1/v1", LOCAL), body)
    assert finding.problem
    assert not finding.offers


def test_a_bare_list_is_a_listing_too() -> None:
    source = Source("together", "https://api.together.xyz/v1", PUBLIC, "TOGETHER_API_KEY")
    finding = read_listing(source, b'[{"id": "meta-llama/x", "type": "chat"}]')
    assert finding.offers == (Offer("meta-llama/x", "chat"),)


async def _hang(peer: Peer) -> None:
    await peer.head()
    await peer.stall()


async def _not_http(peer: Peer) -> None:
    await peer.send(b"SSH-2.0-OpenSSH_9.6\r\n")
    await peer.gone()


async def _cut(peer: Peer) -> None:
    await peer.head()


async def test_whatever_else_listens_does_not_disturb(monkeypatch: pytest.MonkeyPatch) -> None:
    short = Timeouts(connect=3.0, first_byte=0.2, idle=0.2, total=3.0)
    monkeypatch.setattr(discovery, "TIMEOUTS", short)
    html = http_reply(200, b"<html><title>Grafana</title>", ((b"content-type", b"text/html"),))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = Source("port", f"http://127.0.0.1:{closed.getsockname()[1]}/v1", LOCAL)
        async with (
            Upstream(_hang) as hanging,
            Upstream(_not_http) as shell,
            Upstream(_cut) as cut,
            Upstream(repeating(html)) as web,
            Upstream(repeating(http_reply(404, b"no"))) as other,
            Upstream(repeating(http_reply(401, b"{}"))) as locked,
            Upstream(repeating(http_reply(200, VLLM))) as good,
        ):
            sources = [at(each) for each in (hanging, shell, cut, web, other, locked, good)]
            findings = await ask_all([*sources, nobody], DIRECT, lambda _: "")
    assert [finding.problem for finding in findings] == [
        "no answer (timeout)",
        "no answer (protocol)",
        "no answer (reset)",
        "is something else, not an OpenAI-compatible API",
        "answers 404",
        "wants a key (401)",
        "",
        "",
    ]
    assert [bool(finding.offers) for finding in findings] == [False] * 6 + [True, False]
    lines = report(findings)
    assert len(lines) == 7
    assert lines[-1].endswith("1 model")


async def test_a_key_is_shown_as_the_provider_wants_it() -> None:
    async with Upstream(repeating(http_reply(401, b"{}"))) as upstream:
        base = f"http://127.0.0.1:{upstream.port}/v1"
        plain = Source("a", base, PUBLIC, "A_KEY")
        other = Source(
            "b", base, PUBLIC, "B_KEY", key_header="x-api-key:", headers=(("x-version", "1"),)
        )
        findings = await ask_all([plain, other], DIRECT, lambda _: "secret")
    assert [finding.problem for finding in findings] == ["the key is refused (401)"] * 2
    by_version = {request.header(b"x-version"): request for request in upstream.requests}
    assert by_version[None].header(b"authorization") == b"Bearer secret"
    assert by_version[b"1"].header(b"x-api-key") == b"secret"


async def test_a_provider_that_is_out_of_reach_is_said() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        finding = await ask(Source("p", f"http://127.0.0.1:{port}/v1", PUBLIC, "P_KEY"))
    assert finding.problem == "no answer (refused)"


def test_providers_are_those_whose_key_is_set() -> None:
    found = providers({"GROQ_API_KEY": "x", "MISTRAL_API_KEY": " ", "OPENAI_API_KEY": "y"})
    assert [source.name for source in found] == ["openai", "groq"]
    found = providers({"OPENAI_API_KEY": "y", "OPENAI_BASE_URL": "https://eu.api.openai.com/v1/"})
    assert found[0].base_url == "https://eu.api.openai.com/v1"


@pytest.mark.parametrize(
    "base", ["api.openai.com", "http://x:99999", "http://x:y/v1", "http://[::1", "http://u:p@x/v1"]
)
def test_a_base_url_that_is_none_is_a_sentence_without_what_it_says(base: str) -> None:
    with pytest.raises(CommandError, match="OPENAI_BASE_URL") as caught:
        providers({"OPENAI_API_KEY": "y", "OPENAI_BASE_URL": base})
    assert base not in str(caught.value)


def test_our_own_port_is_not_asked() -> None:
    ports = {source.origin.port for source in engines((), 8080)}
    assert ports == {8000, 3000, 11434, 1234}


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("9000", "http://127.0.0.1:9000/v1"),
        ("gpu.lan:9000", "http://gpu.lan:9000/v1"),
        ("https://gpu.lan/engine/v1/", "https://gpu.lan/engine/v1"),
    ],
)
def test_engines_of_the_command_line(text: str, base: str) -> None:
    assert engine(text).base_url == base


@pytest.mark.parametrize("text", ["http://", "gpu:0", "gpu:x", "ftp://gpu:1", "http://u@gpu:1"])
def test_an_engine_that_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(Exception, match="is not a port"):
        engine(text)


def written(*findings: Finding, **changes: Any) -> str:
    fields = {"host": "127.0.0.1", "port": 4000, "admin_key": "k", "day": DAY, "proxied": False}
    return configuration(findings, **{**fields, **changes})


def test_the_written_configuration_is_valid_and_says_what_it_does_not_know(tmp_path: Path) -> None:
    (tmp_path / "k").write_text("0123456789abcdef")
    one = Source("vllm-8000", "http://127.0.0.1:8000/v1", LOCAL)
    two = Source("llamacpp-8080", "http://127.0.0.1:8080/v1", LOCAL)
    public = Source("openai", "https://api.openai.com/v1", PUBLIC, "OPENAI_API_KEY")
    text = written(
        Finding(public, (Offer("gpt-4o", "chat"), Offer("shared", "chat"))),
        Finding(one, (Offer("shared", "chat"), Offer('odd "${name}"', "embedding"))),
        Finding(two, (Offer("shared", "chat"), Offer("/models/small.gguf", "chat"))),
        Finding(public.named("silent"), problem="no answer"),
        proxied=True,
    )
    config = parse(text, base_dir=tmp_path, env={"OPENAI_API_KEY": "sk-x"}, today=DAY)
    models = config.models
    assert set(models) == {"shared", 'odd "${name}"', "small", "gpt-4o", "openai/shared"}
    assert [d.name for d in models["shared"].deployments] == ["vllm-8000", "llamacpp-8080"]
    assert {d.zone for d in models["shared"].deployments} == {"onprem"}
    cost = models["shared"].prices[0].cost
    assert cost is not None
    assert cost.input == 0
    assert models['odd "${name}"'].kind == "embedding"
    assert models["small"].deployments[0].model == "/models/small.gguf"
    [there] = models["openai/shared"].deployments
    assert (there.model, there.zone, there.credential) == ("shared", "world", "sk-x")
    assert models["gpt-4o"].prices == ()
    assert config.accounting.unpriced == "zero"
    assert "NOT FIT FOR INVOICES" in text
    assert "sk-x" not in text
    assert config.outgoing.proxy == "environment"


def test_engines_alone_need_no_exception_of_prices(tmp_path: Path) -> None:
    (tmp_path / "k").write_text("0123456789abcdef")
    source = Source("vllm-8000", "http://127.0.0.1:8000/v1", LOCAL)
    text = written(Finding(source, (Offer("m", "chat"),)), port=4100)
    config = parse(text, base_dir=tmp_path, env={}, today=DAY)
    assert config.accounting.unpriced == "refuse"
    assert (config.server.port, config.outgoing.proxy) == (4100, None)


@given(
    st.lists(
        st.lists(
            st.one_of(
                st.text(max_size=6),
                st.sampled_from(("x", "a/x.gguf", "b/x.gguf", "e-1/x", "e-1/a/x.gguf", "p/x")),
            ),
            max_size=6,
        ),
        min_size=3,
        max_size=3,
    )
)
@example([["\U0001f600 m", "\u2028", "\\", "${HOME}"], [], []])
@example([["a/x.gguf", "b/x.gguf", "c/x.gguf"], ["a/x.gguf", "b/x.gguf"], ["x", "e-1/x"]])
def test_whatever_models_are_called_the_written_configuration_is_valid(
    ids: list[list[str]],
) -> None:
    # Two engines on the same port of two machines, and a provider.
    one = Source("e-1", "http://one:1/v1", LOCAL)
    sources = (
        one,
        msgspec.structs.replace(one, base_url="http://two:1/v1"),
        Source("p", "https://p.example/v1", PUBLIC, "P_KEY"),
    )
    findings = [
        Finding(source, read_listing(source, listing(*({"id": each} for each in names))).offers)
        for source, names in zip(sources, ids, strict=True)
    ]
    assume(any(finding.offers for finding in findings))
    text = written(*findings, admin_key="k", host="::")
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        (base / "k").write_text("0123456789abcdef")
        config = parse(text, base_dir=base, env={"P_KEY": "sk-x"}, today=DAY)
    assert config.server.host == "::"
    served = [each for model in config.models.values() for each in model.deployments]
    assert 0 < len(served) <= sum(len(finding.offers) for finding in findings)
