"""Results of the right type that are made of the wrong things, and the decoded views."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.config.schema import PluginConfig
from llmgw_core.domain.access import Level, Principal
from llmgw_core.domain.call import Head
from llmgw_core.domain.errors import GatewayError
from llmgw_core.domain.reply import Reply
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.testing.plugins import host_of
from llmgw_core.wire.request import RequestView, decode_request

if TYPE_CHECKING:
    from pathlib import Path

    from llmgw_core.domain.call import Call

LEVEL = Level("organization", "org")
FIELDS = {"model": msgspec.Raw(b'"m"'), "messages": msgspec.Raw(b"[1]")}


def view(**more: Any) -> RequestView:
    made = RequestView(dict(FIELDS), "chat.completions")
    made.fields.update(more)
    return made


def giving(hook: str, result: Any, **attributes: Any) -> type[Any]:
    class Giving:
        def __init__(self, config: None, context: Any) -> None: ...

    setattr(Giving, hook, hookimpl(lambda self: result))
    for name, value in attributes.items():
        setattr(Giving, name, value)
    return Giving


@pytest.mark.parametrize(
    ("hook", "result", "sound"),
    [
        ("pre_auth", Head("GET", "/", [(b"a", b"b")]), True),
        ("pre_auth", Head("GET", "/", ()), True),
        ("pre_auth", Head("GET", None, ()), False),  # type: ignore[arg-type]
        ("pre_auth", Head("GET", "/", {b"a": b"b"}), False),  # type: ignore[arg-type]
        ("pre_auth", Head("GET", "/", [("a", "b")]), False),  # type: ignore[list-item]
        ("pre_auth", Head("GET", "/", [(b"a",)]), False),  # type: ignore[list-item]
        ("authenticate", Principal((LEVEL,), "org"), True),
        ("authenticate", Principal([LEVEL], "org"), False),  # type: ignore[arg-type]
        ("authenticate", Principal((1,), "org"), False),  # type: ignore[arg-type]
        ("pre_route", view(), True),
        ("pre_route", view(seed=7), False),
        ("pre_route", Reply(b"{}", None), True),
        ("pre_route", Reply("{}", None), False),  # type: ignore[arg-type]
        ("post_process", Reply(b"{}", None), True),
        ("post_process", Reply(b"{}", {"input_tokens": 1}), False),  # type: ignore[arg-type]
        ("post_process", Reply(None, None), False),  # type: ignore[arg-type]
    ],
)
async def test_what_a_result_is_made_of_is_looked_at(
    tmp_path: Path, head: Head, call: Call, hook: str, result: Any, sound: bool
) -> None:
    host = host_of(tmp_path, ("p", giving(hook, result)))
    run: Any = {
        "pre_auth": lambda: host.run_pre_auth(head, call),
        "authenticate": lambda: host.run_authenticate(head, call),
        "pre_route": lambda: host.run_pre_route(view(), call),
        "post_process": lambda: host.run_post_process(Reply(b"", None), call),
    }[hook]
    if sound:
        await run()
        assert host.failures == {}
    else:
        with pytest.raises(GatewayError, match="an extension of the gateway failed"):
            await run()
        assert host.failures == {("p", hook): 1}


@pytest.mark.parametrize("on_error", ["closed", "open"])
@pytest.mark.parametrize(
    "rubbish",
    [
        {"status": "403"},
        {"status": 200},
        {"status": 600},
        {"code": 7},
        {"code": ["a"]},
        {"message": None},
        {"message": "half a pair: \ud800"},
        {"type": None},
        {"param": 1},
        {"retry_after": "soon"},
        {"retry_after": float("nan")},
        {"should_retry": "no"},
        {"headers": None},
        {"headers": [("a", "b")]},
        {"headers": [(b"a b", b"c")]},
        {"headers": [(b"a", b"b\r\nset-cookie: c=d")]},
    ],
)
async def test_an_error_that_could_not_be_told_is_a_failure(
    tmp_path: Path,
    call: Call,
    rubbish: dict[str, Any],
    on_error: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    given: dict[str, Any] = {"status": 403, "code": "c", "message": "m", **rubbish}

    def pre_route(self: Any) -> None:
        raise GatewayError(**given)

    class Raising:
        def __init__(self, config: None, context: Any) -> None: ...

    setattr(Raising, "pre_route", hookimpl(pre_route))  # noqa: B010
    sections = [PluginConfig("p", on_error=on_error)]  # type: ignore[arg-type]
    host = host_of(tmp_path, ("p", Raising), configs=sections)
    if on_error == "open":
        request = view()
        assert await host.run_pre_route(request, call) is request
    else:
        with pytest.raises(GatewayError, match="an extension of the gateway failed"):
            await host.run_pre_route(view(), call)
    assert host.failures == {("p", "pre_route"): 1}
    assert "Plugin p failed in pre_route: it raised a GatewayError whose" in caplog.text


def test_a_denial_that_could_not_be_told_still_denies(tmp_path: Path, call: Call) -> None:
    host = host_of(tmp_path, ("p", giving("authorize", "half a pair: \ud800")))
    sentence = host.run_authorize(call, "m")
    assert sentence is not None
    assert "an extension of the gateway failed" in sentence
    host = host_of(tmp_path, ("p", giving("authorize", "No.")))
    assert host.run_authorize(call, "m") == "No."


@pytest.mark.parametrize("needs", [frozenset(), frozenset({"request"})])
async def test_what_the_client_did_wrong_is_said_before_a_plugin_that_needs_it_is_asked(
    tmp_path: Path, call: Call, needs: frozenset[str]
) -> None:
    host = host_of(tmp_path, ("p", giving("pre_route", None, needs=needs)))
    bad = decode_request(b'{"model": "m", "messages": [{"content": 1e999}]}', "chat.completions")
    if needs:
        with pytest.raises(GatewayError) as caught:
            await host.run_pre_route(bad, call)
        assert (caught.value.status, caught.value.param) == (400, "messages")
        assert host.describe()[0].calls == 0
    else:
        assert await host.run_pre_route(bad, call) is bad
    assert host.failures == {}


@pytest.mark.parametrize("needs", [frozenset(), frozenset({"reply"})])
async def test_what_the_upstream_did_wrong_is_no_failure_of_a_plugin(
    tmp_path: Path, call: Call, needs: frozenset[str]
) -> None:
    host = host_of(tmp_path, ("p", giving("post_process", None, needs=needs)))
    reply = Reply(b'{"choices": [1e999]}', None)
    if needs:
        with pytest.raises(GatewayError) as caught:
            await host.run_post_process(reply, call)
        assert caught.value.status == 502
    else:
        assert await host.run_post_process(reply, call) is reply
    assert host.failures == {}


def test_views_are_decoded_once() -> None:
    request = decode_request(b'{"model": "m", "messages": ["x"], "n": 2}', "chat.completions")
    assert request.decoded == {"model": "m", "messages": ["x"], "n": 2}
    assert request.decoded is request.decoded
    changed = request.replace("chat.completions", {"n": 3})
    assert (changed.decoded["n"], request.decoded["n"]) == (3, 2)
    reply = Reply(b'{"a": [1]}', None)
    assert reply.decoded == {"a": [1]}
    assert reply.decoded is reply.decoded
    assert reply == Reply(b'{"a": [1]}', None)
