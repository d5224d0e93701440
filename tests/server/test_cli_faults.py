"""`llmgw-server faults`, as a process and as a command line."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from llmgw_core.domain.deployment import Timeouts
from llmgw_core.testing.faults.scenario import Scenario
from llmgw_core.testing.installation import at
from llmgw_server.cli import main
from llmgw_server.cli.faults import control_port, scenario_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmgw_core.testing.installation import Install

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}


@pytest.fixture
def started() -> Iterator[Any]:
    """Starts the command; gives the process and its ports."""
    # A shell that runs the tests in the background has them ignore Ctrl-C, which is inherited.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    processes: list[subprocess.Popen[str]] = []

    def start(*words: str) -> tuple[subprocess.Popen[str], int, int]:
        process = subprocess.Popen(
            [sys.executable, "-m", "llmgw_server", "faults", "--port", "0", *words],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout is not None
        text = "".join(process.stdout.readline() for _ in range(4))
        port = re.search(r"https?://127\.0\.0\.1:(\d+)/v1 ", text)
        control = re.search(r"http://127\.0\.0\.1:(\d+)/$", text.strip())
        assert port is not None
        assert control is not None, text
        return process, int(port[1]), int(control[1])

    yield start
    for process in processes:
        process.kill()
        process.communicate()
    signal.signal(signal.SIGINT, before)


def ask(port: int, method: str, path: str, body: str = "") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def test_it_fails_as_it_is_told_to_until_it_is_interrupted(started: Any) -> None:
    process, port, control = started("--scenario", "503")
    call = json.dumps({"model": "m", "messages": []})
    assert ask(port, "POST", "/v1/chat/completions", call)[0] == 503
    assert ask(port, "POST", "/v1/chat/completions", call.replace('"m"', '"fault-422"'))[0] == 422
    assert ask(control, "PUT", "/scenario", "ok")[0] == 200
    status, answer = ask(port, "POST", "/v1/chat/completions", call)
    assert (status, json.loads(answer)["usage"]["completion_tokens"]) == (200, 10)
    assert ask(control, "PUT", "/scenario", "down")[0] == 200
    with pytest.raises(ConnectionRefusedError):
        ask(port, "GET", "/v1/models")
    calls = json.loads(ask(control, "GET", "/calls")[1])
    assert [each["fault"] for each in calls] == ["503", "422", "ok"]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (130, "The upstream has ended.\n")


async def test_a_gateway_gets_over_it(started: Any, installed: Install) -> None:
    _, port, _ = started("--scenario", "starting", "--pause", "0.01")
    dead, starting = at(port, "a", model="fault-reset"), at(port, "b", timeouts=Timeouts(idle=0.2))
    here = await installed({"m": [dead, starting]})
    statuses = [(await here.client.chat("m")).status for _ in range(6)]
    assert statuses[0] >= 500
    assert statuses[-1] == 200


def test_the_list_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["faults", "--list"]) == 0
    text = capsys.readouterr().out
    rows = [line.split() for line in text.splitlines()]
    assert ["no-end", "delivers", "cuts", "neither", "finish_reason", "nor", "[DONE]"] in rows
    assert any(row[:1] == ["throttled"] for row in rows)


def test_a_scenario_is_a_name_or_a_file(tmp_path: Path) -> None:
    path = tmp_path / "night.yaml"
    path.write_text("requests: [503, ok]\nshare: {429-ms: 0.5}\nseed: 3\n")
    expected = Scenario(requests=("503", "ok"), share={"429-ms": 0.5}, seed=3)
    assert scenario_of(str(path)) == expected
    assert scenario_of("stall@12") == Scenario(always="stall@12")
    path.write_text("")
    assert scenario_of(str(path)) == Scenario()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory."),
        ("requests: [oops]", "There is no fault 'oops'"),
        ("oops: 1", "unknown field `oops`"),
        ("[1", "it is not YAML"),
        ("- 1", "Expected `object`"),
        ("share: {503: 2}", "probabilities"),
    ],
)
def test_what_is_no_scenario_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, message: str
) -> None:
    path = tmp_path / "night.yaml"
    if content is not None:
        path.write_text(content)
    assert main(["faults", "--scenario", str(path)]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("llmgw-server: ")
    assert message in errors
    assert errors.rstrip().endswith(".")
    assert main(["faults", "--scenario", "nonsense"]) == 1
    assert "There is no fault 'nonsense'" in capsys.readouterr().err


def test_a_port_that_is_taken_and_files_that_are_no_certificate_are_sentences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["faults", "--port", port]) == 1
    assert "Cannot listen on 127.0.0.1" in capsys.readouterr().err
    path = tmp_path / "x.pem"
    path.write_text("nothing")
    assert main(["faults", "--tls", str(path), str(path)]) == 1
    assert "no certificate and its key" in capsys.readouterr().err


def test_behind_the_last_port_any_port_is_for_control(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 65535)):
        assert main(["faults", "--port", "65535"]) == 1
    assert control_port(65535, None) == 0
    assert control_port(4100, None) == 4101
    assert control_port(4100, 7) == 7
    assert "Cannot listen on 127.0.0.1" in capsys.readouterr().err


def test_it_can_speak_tls(started: Any, tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    _, port, _ = started("--tls", str(certificate), str(key))
    context = ssl.create_default_context()
    with pytest.raises(ssl.SSLCertVerificationError):
        _models(port, context)
    authority.configure_trust(context)
    assert _models(port, context) == 200


def _models(port: int, context: ssl.SSLContext) -> int:
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
    try:
        connection.request("GET", "/v1/models")
        return connection.getresponse().status
    finally:
        connection.close()
