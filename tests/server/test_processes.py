"""Whole processes: `serve`, the factory under other servers' own commands, and the demo."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
    "PYTHONUNBUFFERED": "1",
}
PATIENCE = 60.0


class Process:
    """A running program whose output is read line by line."""

    def __init__(self, *words: str, cwd: Path) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=cwd,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.text = ""
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self._lines.put(line)
        self._lines.put("")

    def until(self, pattern: str) -> re.Match[str]:
        """The first match of `pattern` in what is printed from now on."""
        while line := self._lines.get(timeout=PATIENCE):
            self.text += line
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"ended without {pattern!r}: {self.text}")

    def end(self, number: signal.Signals | None = None) -> int:
        """The exit code, after a signal if given."""
        if number is not None:
            self.popen.send_signal(number)
        code = self.popen.wait(PATIENCE)
        self._reader.join(PATIENCE)
        while line := self._lines.get(timeout=PATIENCE):
            self.text += line
        return code

    def children(self) -> list[int]:
        """The process ids of its children."""
        pid = self.popen.pid
        return [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]


@contextlib.contextmanager
def process(*words: str, cwd: Path) -> Iterator[Process]:
    running = Process(*words, cwd=cwd)
    try:
        yield running
    finally:
        if running.popen.poll() is None:
            running.popen.kill()
        running.popen.wait()
        running._reader.join()
        assert running.popen.stdout is not None
        running.popen.stdout.close()


def get(url: str, path: str) -> tuple[int, bytes]:
    """One GET; a server that is not there yet is tried again by the caller."""
    host, port = url.removeprefix("http://").split(":")
    with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=PATIENCE)) as link:
        link.request("GET", path)
        reply = link.getresponse()
        assert reply.headers["x-request-id"]
        return reply.status, reply.read()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_says_when_it_is_ready_and_ends_cleanly(
    kind: str, number: signal.Signals, tmp_path: Path
) -> None:
    (tmp_path / "llmgw.yaml").write_text("{}")
    with process("llmgw_server", "serve", "--port", "0", "--server", kind, cwd=tmp_path) as server:
        url = server.until(r"ready at (http://127\.0\.0\.1:\d+)$")[1]
        assert get(url, "/health/ready")[0] == 200
        status, body = get(url, "/v1/models")
        assert (status, json.loads(body)["error"]["code"]) == (401, "invalid_api_key")
        memory = Path(f"/proc/{server.popen.pid}/status").read_text()
        resident = re.search(r"VmRSS:\s+(\d+) kB", memory)
        assert resident is not None
        assert int(resident[1]) < 90_000
        assert server.end(number) == 0
    assert server.text.splitlines()[1:] == ["llmgw has ended."]


def test_serve_that_cannot_start_says_why_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "llmgw.yaml").write_text("plugins: [{name: no-such}]")
    with process("llmgw_server", "serve", "--port", "0", cwd=tmp_path) as server:
        assert server.end() == 1
    assert "plugins[0]: the plugin `no-such` is enabled but not installed" in server.text
    assert "Traceback" not in server.text
    (tmp_path / "llmgw.yaml").write_text("server: {workers: 2}")
    with process("llmgw_server", "serve", "--port", "0", cwd=tmp_path) as server:
        assert server.end() == 1
    assert "server.workers: must be 1" in server.text
    with socket.create_server(("127.0.0.1", 0)) as taken:
        (tmp_path / "llmgw.yaml").write_text(f"server: {{port: {taken.getsockname()[1]}}}")
        with process("llmgw_server", "serve", cwd=tmp_path) as server:
            assert server.end() == 1
    assert "is already in use; choose another with --port." in server.text


@pytest.mark.parametrize(
    "words",
    [
        ("uvicorn", "--factory", "llmgw_server.app:factory", "--port", "0"),
        ("hypercorn", "llmgw_server.app:factory()", "--bind", "127.0.0.1:0"),
    ],
    ids=["uvicorn", "hypercorn"],
)
def test_the_factory_runs_under_a_servers_own_command(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "llmgw.yaml").write_text("{}")
    with process(*words, cwd=tmp_path) as server:
        url = server.until(r"[Rr]unning on (http://127\.0\.0\.1:\d+)")[1]
        assert get(url, "/health/ready")[0] == 200
        assert get(url, "/v1/models")[0] == 401
        server.end(signal.SIGTERM)
    assert "Traceback" not in server.text


def test_a_factory_without_a_valid_configuration_is_a_sentence(tmp_path: Path) -> None:
    words = ("uvicorn", "--factory", "llmgw_server.app:factory", "--port", "0")
    with process(*words, cwd=tmp_path) as server:
        assert server.end() == 3
    assert "the configuration file llmgw.yaml cannot be read" in server.text
    assert "Traceback" not in server.text


def curl(line: str) -> Any:
    """What the curl command in `line` would print, decoded."""
    words = shlex.split(line)
    headers = dict(words[i + 1].split(": ", 1) for i, word in enumerate(words) if word == "-H")
    host, port = words[1].removeprefix("http://").partition("/")[0].split(":")
    with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=PATIENCE)) as link:
        link.request("POST", "/v1/chat/completions", words[words.index("-d") + 1], headers)
        reply = link.getresponse()
        assert reply.status == 200
        return json.loads(reply.read())


def test_the_demo_answers_shows_its_cost_and_leaves_nothing_running(tmp_path: Path) -> None:
    words = ("llmgw_server", "demo", "--dir", "d", "--port", "0")
    keys = set()
    for _ in range(2):
        with process(*words, cwd=tmp_path) as demo:
            demo.until("Loading the language model")
            demo.until("shown only now")
            keys.add(demo.until(r"^  (sk-llmgw-\w+)$")[1])
            reply = curl(demo.until("^curl .*")[0])
            engines = demo.children()
            demo.until("every call as a line of JSON")
            if len(keys) == 1:
                snippet = demo.text[demo.text.index("from openai") : demo.text.index("What it c")]
                told = subprocess.run(
                    [sys.executable, "-c", snippet], capture_output=True, text=True, check=True
                )
                assert "Paris" in told.stdout
            assert demo.end(signal.SIGINT) == 0
        assert "Paris" in reply["choices"][0]["message"]["content"]
        assert len(engines) == 2
        assert not any(Path(f"/proc/{engine}").exists() for engine in engines)
    assert len(keys) == 2
    usage = subprocess.run(
        [sys.executable, "-m", "llmgw_server", "usage", "--config", "d/llmgw.yaml", "--json"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        check=True,
    ).stdout
    [line] = json.loads(usage)
    assert (line["organization_name"], line["calls"], line["estimated_calls"]) == ("demo", 3, 0)
    assert line["input_tokens"] == 3 * reply["usage"]["prompt_tokens"]
    assert line["output_tokens"] == 3 * reply["usage"]["completion_tokens"]
    assert line["cost_nano"] == 10_000 * line["input_tokens"] + 30_000 * line["output_tokens"]


def test_a_demo_that_finds_its_port_taken_writes_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with process("llmgw_server", "demo", "--port", port, cwd=tmp_path) as demo:
            assert demo.end() == 1
    assert demo.text == (
        f"llmgw-server: Port {port} on 127.0.0.1 is already in use; choose another with --port.\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_demo_that_cannot_write_says_where(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    words = ("llmgw_server", "demo", "--port", "0", "--dir", "file/d")
    with process(*words, cwd=tmp_path) as demo:
        assert demo.end() == 1
    assert re.search(r"Cannot write .*file/d/llmgw.yaml: .*; see --dir\.", demo.text)
