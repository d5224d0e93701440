"""`serve --discover` as a process in an empty directory, and what it leaves behind."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.testing.model_server import completion
from llmgw_server.cli.sources import PROVIDERS

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
KEYS = {source.variable for source in PROVIDERS} | {"OPENAI_BASE_URL"}
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in KEYS} | {
    "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
    "PYTHONUNBUFFERED": "1",
}


class Engine(BaseHTTPRequestHandler):
    """Lists models and answers calls; a provider's API asks for its key."""

    protocol_version = "HTTP/1.1"
    key = ""
    models: tuple[dict[str, Any], ...] = ({"id": "tiny", "owned_by": "vllm"},)

    def do_GET(self) -> None:
        self._reply({"object": "list", "data": self.models})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self._reply(completion())

    def _reply(self, document: object) -> None:
        known = not self.key or self.headers["authorization"] == f"Bearer {self.key}"
        body = json.dumps(document if known else {"error": {}}).encode()
        self.send_response(200 if known else 401)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


class Provider(Engine):
    key = "sk-of-the-provider"
    models = ({"id": "large"}, {"id": "text-embedding-x"}, {"id": "tiny"}, {"id": "tts-1"})


@contextlib.contextmanager
def listening(handler: type[Engine]) -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def command(*words: str, cwd: Path, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "llmgw_server", *words],
        cwd=cwd,
        env=ENVIRONMENT | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(*words: str, cwd: Path, **variables: str) -> tuple[int, str]:
    process = command(*words, cwd=cwd, **variables)
    text, _ = process.communicate(timeout=60)
    return process.returncode, text


@contextlib.contextmanager
def serving(*words: str, cwd: Path, **variables: str) -> Iterator[tuple[str, str]]:
    """What it says until it is ready, and the address."""
    process = command("serve", *words, cwd=cwd, **variables)
    assert process.stdout is not None
    try:
        text = ""
        for line in process.stdout:
            text += line
            if found := re.search(r"ready at http://([\d.:]+)$", line):
                yield text, found[1]
                break
        else:
            raise AssertionError(text)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def chat(address: str, key: str, model: str) -> tuple[int, Any]:
    with contextlib.closing(http.client.HTTPConnection(address, timeout=60)) as link:
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}]})
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        link.request("POST", "/v1/chat/completions", body, headers)
        reply = link.getresponse()
        return reply.status, json.load(reply)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def test_a_first_run_finds_writes_makes_keys_and_serves(tmp_path: Path) -> None:
    with listening(Engine) as engine, listening(Provider) as provider:
        variables = {
            "OPENAI_API_KEY": Provider.key,
            "OPENAI_BASE_URL": f"http://127.0.0.1:{provider}/v1",
        }
        words = ("--discover", "--engine", str(engine), "--port", str(free_port()))
        with serving(*words, cwd=tmp_path, **variables) as (text, address):
            assert f"vllm-{engine} (http://127.0.0.1:{engine}/v1): 1 model\n" in text
            assert "OPENAI_API_KEY" in text
            assert "3 models; without prices" in text
            key = (tmp_path / "llmgw-api.key").read_text().strip()
            admin = (tmp_path / "llmgw-admin.key").read_text().strip()
            for model in ("tiny", "large", "openai/tiny"):
                assert chat(address, key, model)[0] == 200
            assert chat(address, admin, "tiny")[0] == 401
        assert not {key, admin, Provider.key} & set(re.findall(r"[\w-]+", text))
        for name in ("llmgw-api.key", "llmgw-admin.key"):
            assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
        written = (tmp_path / "llmgw.yaml").read_text()
        assert Provider.key not in written
        assert admin not in written

        code, said = ended("check", cwd=tmp_path, OPENAI_API_KEY=Provider.key)
        assert (code, "4 models" in said) == (0, True), said

        with serving(*words, cwd=tmp_path, **variables) as (text, address):
            assert "llmgw.yaml is there already; nothing is looked for." in text
            assert chat(address, key, "tiny")[0] == 200
        assert (tmp_path / "llmgw.yaml").read_text() == written
        assert (tmp_path / "llmgw-api.key").read_text().strip() == key


def test_an_admin_key_that_is_there_is_kept_and_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "llmgw-admin.key").write_text("a key of somebody else")
    (tmp_path / "llmgw-api.key").symlink_to(tmp_path / "nowhere" / "key")
    with listening(Engine) as engine:
        words = ("serve", "--discover", "--engine", str(engine), "--port", str(free_port()))
        code, text = ended(*words, cwd=tmp_path)
    assert "was there already" in text
    assert "mode 0600" not in text
    assert code == 1
    assert "llmgw-api.key: a link that leads nowhere is in its place" in text


def test_where_nothing_is_found_nothing_is_written(tmp_path: Path) -> None:
    code, text = ended("serve", "--discover", "--engine", str(free_port()), cwd=tmp_path)
    assert code == 1
    assert "Nothing was found" in text
    assert "Traceback" not in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [("serve",), ("serve", "--config", "other.yaml")])
def test_without_a_configuration_serve_says_what_to_do(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    code, text = ended(*words, cwd=tmp_path)
    assert code == 1
    assert "there is no configuration" in text
    assert "llmgw-server serve --discover" in text
    assert len(text.splitlines()) < 8
    assert list(tmp_path.iterdir()) == []


def test_a_proxy_of_the_environment_that_is_not_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "llmgw.yaml").write_text("{}")
    variables = {"HTTPS_PROXY": "http://u:hush@127.0.0.1:1"}
    with serving("--port", "0", cwd=tmp_path, **variables) as (text, _):
        assert "HTTPS_PROXY is set but not used" in text
        assert "hush" not in text
    (tmp_path / "llmgw.yaml").write_text("outgoing: {proxy: none}")
    with serving("--port", "0", cwd=tmp_path, **variables) as (text, _):
        assert "HTTPS_PROXY" not in text
