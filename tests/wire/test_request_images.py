from __future__ import annotations

from typing import Any

import msgspec
import pytest

from llmgw_core.wire.request import RequestView, decode_request

URL = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
EMBEDDED = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
TEXT = {"type": "text", "text": 'what is in this "image_url"?'}


def request(*contents: Any) -> RequestView:
    messages = [{"role": "user", "content": content} for content in contents]
    return decode_request(
        msgspec.json.encode({"model": "m", "messages": messages}), "chat.completions"
    )


@pytest.mark.parametrize(
    ("contents", "images"),
    [
        (["Hello"], 0),
        (["an image_url in words"], 0),
        ([[TEXT]], 0),
        ([[TEXT, URL]], 1),
        ([[TEXT, URL, EMBEDDED], "and", [URL]], 3),
        ([[{"type": "input_image", "image_url": "x"}, {"type": "image", "source": {}}]], 2),
        ([[{"type": ["image_url"]}, 7, None, {"type": {"image": 1}}]], 0),
    ],
)
def test_images_are_parts_of_messages(contents: list[Any], images: int) -> None:
    assert request(*contents).images == images


def test_images_of_embeddings_are_in_their_input() -> None:
    body = msgspec.json.encode({"model": "m", "input": [TEXT, URL]})
    assert decode_request(body, "embeddings").images == 1


def test_a_request_that_is_nested_deeply_is_counted_or_has_none() -> None:
    body = b'{"model":"m","messages":[' + b'{"image":[' * 400 + b"1" + b"]}" * 400 + b"]}"
    assert decode_request(body, "chat.completions").images == 0
    deeper = b'{"model":"m","messages":[' + b"[" * 100_000 + b'"image"' + b"]" * 100_000 + b"]}"
    view = RequestView(
        {"model": msgspec.Raw(b'"m"'), "messages": msgspec.Raw(deeper[25:-1])}, "chat.completions"
    )
    assert view.images == 0


def test_another_spelling_hides_no_image() -> None:
    body = rb'{"model":"m","messages":[{"content":[{"type":"\u0069m\u0061ge_url"}]}]}'
    view = decode_request(body, "chat.completions")
    assert (view.images, view.media) == (1, True)


@pytest.mark.parametrize(
    ("content", "media"),
    [
        ("Hello", False),
        ([{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}], True),
        ([EMBEDDED], True),
    ],
)
def test_sounds_and_images_are_noticed(content: Any, *, media: bool) -> None:
    assert request(content).media is media
