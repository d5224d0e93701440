import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.domain.call import Endpoint
from llmgw_core.domain.errors import GatewayError
from llmgw_core.wire.request import RequestView, decode_request

MESSAGES = '"messages":[{"role":"user","content":"Hi"}]'

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=10,
)


def chat(text: str) -> RequestView:
    return decode_request(text.encode(), "chat.completions")


def refused(body: bytes | str, endpoint: Endpoint = "chat.completions") -> GatewayError:
    data = body if isinstance(body, bytes) else body.encode()
    with pytest.raises(GatewayError) as caught:
        decode_request(data, endpoint)
    assert caught.value.status == 400
    return caught.value


def test_only_the_model_name_changes_on_the_way_to_the_upstream() -> None:
    body = '{"model":"a",' + MESSAGES + ',"temperature":0.70,"top_k":1e2,"x":{"b":1,"a":[ 1 ]}}'
    assert chat(body).encode("b") == body.replace('"a",', '"b",', 1).encode()


@given(st.dictionaries(st.text(min_size=1, max_size=10), json_values, max_size=6))
def test_unknown_fields_survive(extra: dict[str, object]) -> None:
    known = ("stream", "stream_options", "n", "max_tokens", "max_completion_tokens", "tools")
    fields = {key: value for key, value in extra.items() if key not in known}
    fields |= {"model": "a", "messages": [{"role": "user", "content": "x"}]}
    view = decode_request(msgspec.json.encode(fields), "chat.completions")
    assert msgspec.json.decode(view.encode("b")) == fields | {"model": "b"}


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ('{"model":"cheap","model":"dear",' + MESSAGES + "}", "model"),
        ('{"model":"a","model":"a",' + MESSAGES + "}", "model"),
        ('{"model":"a",' + MESSAGES + ',"model":"a"}', "model"),
        ('{"n":1,"model":"a",' + MESSAGES + ',"n":12}', "n"),
        ('{"n":12,"n":1,"model":"a",' + MESSAGES + "}", "n"),
        ('{"model":"a","mod\\u0065l":"a",' + MESSAGES + "}", "model"),
        ('{ "x" : 1 , "model": "a", "x" : 1,' + MESSAGES + "}", "x"),
        ('{"model":"a","":1,"":1,' + MESSAGES + "}", ""),
    ],
)
def test_a_field_that_is_given_twice_is_refused_by_its_name(body: str, name: str) -> None:
    error = refused(body)
    assert (error.code, error.param) == ("invalid_request", name)
    assert "twice" in error.message


@given(
    st.lists(st.tuples(st.text(max_size=4) | st.just("x"), json_values), max_size=5),
    st.sampled_from([(",", ":"), (", ", ": "), (" ,\n  ", "\t:\r\n ")]),
    st.booleans(),
)
def test_twice_is_twice_in_every_notation(
    extra: list[tuple[str, object]], separators: tuple[str, str], escaped: bool
) -> None:
    pairs = [("model", "a"), ("messages", [1]), *((f"+{name}", value) for name, value in extra)]
    comma, colon = separators
    written = [
        json.dumps(name, ensure_ascii=escaped) + colon + json.dumps(value, separators=separators)
        for name, value in pairs
    ]
    body = ("{" + comma.join(written) + "}").encode()
    if len({name for name, _ in pairs}) == len(pairs):
        assert decode_request(body, "chat.completions").model == "a"
    else:
        assert "twice" in refused(body).message


@pytest.mark.parametrize("value", ["1e999", "9" * 5000])
def test_a_number_that_nobody_can_hold_passes_until_somebody_looks_at_it(value: str) -> None:
    view = chat('{"model":"a","seed":' + value + "," + MESSAGES + "}")
    with pytest.raises(GatewayError) as caught:
        view.get("seed")
    assert (caught.value.status, caught.value.param) == (400, "seed")


def test_streams_ask_for_usage_and_keep_the_other_stream_options() -> None:
    view = chat('{"model":"a","stream":true,"stream_options":{"x":1},' + MESSAGES + "}")
    assert not view.usage_wanted
    sent = msgspec.json.decode(view.encode("a"))
    assert sent["stream_options"] == {"x": 1, "include_usage": True}


@pytest.mark.parametrize("options", ["", ',"stream_options":null', ',"stream_options":{}'])
def test_streams_without_options_get_them(options: str) -> None:
    view = chat('{"model":"a","stream":true' + options + "," + MESSAGES + "}")
    assert msgspec.json.decode(view.encode("a"))["stream_options"] == {"include_usage": True}


def test_a_client_that_asked_for_usage_is_remembered_and_its_options_are_untouched() -> None:
    text = '{"model":"a","stream":true,"stream_options":{"include_usage":true,"y": 2},' + MESSAGES
    view = chat(text + "}")
    assert view.usage_wanted
    assert b'{"include_usage":true,"y": 2}' in view.encode("a")


def test_requests_that_do_not_stream_get_no_stream_options() -> None:
    assert b"stream_options" not in chat('{"model":"a","stream":null,' + MESSAGES + "}").encode("a")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ("{" + MESSAGES + "}", "model"),
        ('{"model":7,' + MESSAGES + "}", "model"),
        ('{"model":"",' + MESSAGES + "}", "model"),
        ('{"model":"a"}', "messages"),
        ('{"model":"a","messages":"Hi"}', "messages"),
        ('{"model":"a","messages":[ ]}', "messages"),
        ('{"model":"a","stream":"yes",' + MESSAGES + "}", "stream"),
        ('{"model":"a","max_tokens":"9",' + MESSAGES + "}", "max_tokens"),
        ('{"model":"a","max_tokens":-1,' + MESSAGES + "}", "max_tokens"),
        ('{"model":"a","max_completion_tokens":1.5,' + MESSAGES + "}", "max_completion_tokens"),
        ('{"model":"a","n":0.5,' + MESSAGES + "}", "n"),
        ('{"model":"a","n":-1,' + MESSAGES + "}", "n"),
        ('{"model":"a","stream":true,"stream_options":[],' + MESSAGES + "}", "stream_options"),
        (
            '{"model":"a","stream":true,"stream_options":{"include_usage":1},' + MESSAGES + "}",
            "stream_options.include_usage",
        ),
    ],
)
def test_what_we_read_has_to_have_its_type_and_the_error_names_the_field(
    body: str, param: str
) -> None:
    error = refused(body)
    assert error.param == param
    assert error.should_retry is False


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"nothing",
        b'{"model":"a","messages":[1],}',
        b'\xef\xbb\xbf{"model":"a"}',
        b'{"model":"a","messages":[{"content":"\xff"}]}',
        b'{"model":"a","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    assert refused(body).code == "invalid_json"


@pytest.mark.parametrize(
    ("input", "tokens"),
    [("[1,2,3]", 3), ("[[1, 2],[3]]", 3), ('"text"', None), ('["a","b"]', None)],
)
def test_token_arrays_are_counted_exactly(input: str, tokens: int | None) -> None:
    view = decode_request(f'{{"model":"e","input":{input}}}'.encode(), "embeddings")
    assert view.exact_tokens == tokens
    assert view.max_tokens == 0


@pytest.mark.parametrize("body", ['{"model":"e"}', '{"model":"e","input":7}'])
def test_embeddings_need_an_input(body: str) -> None:
    assert refused(body, "embeddings").param == "input"


def test_the_bound_of_the_output_counts_for_every_choice() -> None:
    view = chat('{"model":"a","max_completion_tokens":10,"max_tokens":99,"n":3,' + MESSAGES + "}")
    assert view.max_tokens == 30
    assert chat('{"model":"a","max_tokens":null,' + MESSAGES + "}").max_tokens is None


def test_embedded_documents_do_not_count_as_text() -> None:
    image = "data:image/png;base64," + "A" * 50_000
    content = [{"type": "image_url", "image_url": {"url": image}}] * 2
    body = {"model": "a", "messages": [{"role": "user", "content": content}]}
    view = decode_request(msgspec.json.encode(body), "chat.completions")
    assert view.embedded == 2
    assert view.text_bytes < 500
    cut = decode_request(
        b'{"model":"a","messages":[";base64,AAAA' + b"A" * 99 + b'"]}', "chat.completions"
    )
    assert cut.embedded == 1


def test_tools_count_as_input() -> None:
    plain = chat('{"model":"a",' + MESSAGES + "}")
    tools = chat('{"model":"a","tools":[{"type":"function"}],' + MESSAGES + "}")
    assert tools.text_bytes == plain.text_bytes + len('[{"type":"function"}]')


def test_a_changed_copy_leaves_the_original_alone() -> None:
    view = chat('{"model":"a","user":"u",' + MESSAGES + "}")
    changed = view.replace("chat.completions", {"model": "b", "user": None, "seed": 7})
    assert (changed.model, changed.get("user"), changed.get("seed")) == ("b", None, 7)
    assert (view.model, view.get("user"), view.get("seed")) == ("a", "u", None)


@pytest.mark.parametrize(("asked", "other"), [("true", False), ("true", None), ("false", True)])
def test_whether_the_reply_is_a_stream_is_up_to_the_client(asked: str, other: object) -> None:
    view = chat('{"model":"a","stream":' + asked + "," + MESSAGES + "}")
    with pytest.raises(ValueError, match="up to the client"):
        view.replace("chat.completions", {"stream": other})
    assert view.replace("chat.completions", {"stream": asked == "true"}).stream is view.stream
