"""Secrets in files follow their files, and survive what happens to them."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import TYPE_CHECKING

import pytest

from llmgw_core.config.load import parse
from llmgw_core.config.secret_files import FileCredential, SecretWatch, credential_of
from llmgw_core.domain.credential import Credential
from llmgw_core.testing.clock import FakeClock

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text("first\n")
    return path


async def test_a_static_credential_is_what_it_is() -> None:
    credential = Credential("s")
    assert await credential.get() == "s"
    assert credential.invalidate() is False


def test_a_credential_of_a_configuration_knows_its_file(file: Path) -> None:
    text = "{name: a, backend: b, zone: z, credential: 'file:key'}"
    document = f"accounting: {{unpriced: zero}}\nmodels: {{m: {{deployments: [{text}]}}}}"
    config = parse(document, base_dir=file.parent, env={})
    credential = credential_of(config.models["m"].deployments[0].credential)
    assert isinstance(credential, FileCredential)
    assert (credential.value, credential.path) == ("first", file)
    assert type(credential_of("plain")) is Credential


def test_a_look_takes_what_is_new(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "llmgw.secrets")
    credential = FileCredential(file, "first")
    assert credential.look() is False
    file.write_text("second")
    assert credential.look() is True
    assert credential.value == "second"
    assert credential.look() is False
    assert "second" not in caplog.text
    assert "has changed" in caplog.text


@pytest.mark.parametrize("damage", ["vanish", "empty", "binary", "directory", "huge"])
def test_a_file_that_cannot_be_used_leaves_the_last_value_and_is_told_once(
    file: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    credential = FileCredential(file, "first")
    file.unlink()
    if damage == "directory":
        file.mkdir()
    elif damage != "vanish":
        content = {"empty": b" \n", "binary": b"\xff\xfe", "huge": b"x" * (1 << 21)}[damage]
        file.write_bytes(content)
    assert [credential.look(), credential.look()] == [False, False]
    assert credential.value == "first"
    assert len(caplog.records) == 1
    assert "its last value holds on" in caplog.text
    if damage == "directory":
        file.rmdir()
    file.write_text("second")
    assert credential.look() is True
    file.unlink()
    credential.look()
    assert len(caplog.records) == 2


async def test_after_a_refusal_it_is_looked_at_at_once_but_not_twice_in_a_second(
    file: Path,
) -> None:
    clock = FakeClock(100.0)
    credential = FileCredential(file, "first", clock=clock)
    file.write_text("second")
    assert await credential.get() == "first"
    assert credential.invalidate() is True
    assert await asyncio.gather(*(credential.get() for _ in range(5))) == ["second"] * 5
    file.write_text("the third")
    credential.invalidate()
    assert await credential.get() == "second"
    clock.now += 1.0
    credential.invalidate()
    assert await credential.get() == "the third"


async def test_the_watch_looks_again_and_again_and_forgets_what_nobody_uses(file: Path) -> None:
    loop, looked = asyncio.get_running_loop(), asyncio.Event()

    class Observed(FileCredential):
        def look(self) -> bool:
            changed = super().look()
            loop.call_soon_threadsafe(looked.set)
            return changed

    watch = SecretWatch(interval=0.001)
    credential = Observed(file, "first")
    watch.add([credential, Credential("x"), FileCredential(file, "nobody's")])
    gc.collect()
    watch.start()
    watch.start()
    for text in ("second", "the third"):
        file.write_text(text)
        for _ in range(2):  # the first may have been under way before
            looked.clear()
            await looked.wait()
        assert credential.value == text
    assert len(watch._files) == 1
    await watch.aclose()
    await watch.aclose()


def test_two_of_the_same_file_are_equal(file: Path) -> None:
    one, other = FileCredential(file, "a"), FileCredential(file, "b")
    assert one == other
    assert hash(one) == hash(other)
    assert one != Credential("a")
