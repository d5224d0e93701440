"""The benchmark: what a call costs beside nginx as a bare proxy, in CPU time of the kernel's own
accounting, with authentication, eight meters and the books on.

Servers run on CPU 0, load and upstream on CPU 1. The rounds are interleaved, because the same
code varies by a third within minutes; only ratios within a round mean anything. CPU time is
counted until the ledger has a row for every answer, and that there is exactly one is asserted.

Environment: RUNS (rounds, default 5), SECONDS (of load per run, default 5).
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from footprint import ROOT, install, is_ready, starts
from gateway import Gateway, create_tenants
from idle import idle_streams
from load import Kind, Run, run
from nginx import nginx_command
from processes import Failed, free_port, listens, running, wait_until
from report import BASE, Fact, Line, line, save, show
from upstream import EXTRA_EVENTS

if TYPE_CHECKING:
    from collections.abc import Callable

RUNS = int(os.environ.get("RUNS", "5"))
SECONDS = int(os.environ.get("SECONDS", "5"))
CHUNKS = 100
INTERVAL_MS = 20
DIRECTORY = ROOT / "build" / "bench"
SERVERS = ("hypercorn", "uvicorn")
KINDS = (
    Kind("chat", 32, 1, 1),
    Kind("chat20", 32, 1, 1),  # the same, shared out among 20 deployments
    Kind("embed", 32, 1, 1),
    Kind("stream", 200, CHUNKS + EXTRA_EVENTS, 2 + CHUNKS * INTERVAL_MS // 1000, "event"),
)


@dataclass
class Subject:
    """A server under load and what it has shown so far."""

    name: str
    port: int
    pid: int
    settle: Callable[[int], None]
    runs: dict[str, list[Run]] = field(default_factory=dict)

    def load(self, kind: Kind, keys: Path, seconds: int, *, counted: bool = True) -> None:
        """One run; a warm-up is not counted."""
        result = run(kind, self.port, self.pid, keys, seconds=seconds, settle=self.settle)
        if counted:
            self.runs.setdefault(kind.name, []).append(result)
            print(f"  {self.name:<10} {kind.name:<7} {result.cost(kind):8.1f} µs", flush=True)


def measure() -> tuple[list[Line], list[Fact]]:
    """Start everything, run the rounds, stop everything."""
    with ExitStack() as stack:
        upstream = free_port()
        script = str(Path(__file__).with_name("upstream.py"))
        command = [sys.executable, script, str(upstream), str(CHUNKS), str(INTERVAL_MS)]
        stack.enter_context(running(command, 1, DIRECTORY / "upstream.log"))
        wait_until(lambda: listens(upstream), "the upstream", 10, 0.05)
        tenants = create_tenants(DIRECTORY / "tenants")
        gateways = [Gateway(DIRECTORY / name, upstream, tenants) for name in SERVERS]
        subjects = [_nginx(stack, upstream)]
        subjects += [
            _gateway(stack, gateway, name) for gateway, name in zip(gateways, SERVERS, strict=True)
        ]
        _rounds(subjects, tenants / "keys")
        facts = [gateway.books(name) for gateway, name in zip(gateways, SERVERS, strict=True)]
    print("Opening idle streams ...", flush=True)
    facts += [idle_streams(DIRECTORY, tenants, name) for name in SERVERS]
    base = subjects[0].runs
    lines = [
        line(subject.name, kind, subject.runs[kind.name], base[kind.name])
        for kind in KINDS
        for subject in subjects
    ]
    return lines, facts


def _nginx(stack: ExitStack, upstream: int) -> Subject:
    port = free_port()
    command = nginx_command(DIRECTORY / "nginx", port, upstream)
    process = stack.enter_context(running(command, 0, DIRECTORY / "nginx.log"))
    wait_until(lambda: listens(port), "nginx", 10, 0.05)
    return Subject(BASE, port, process.pid, lambda answered: None)


def _gateway(stack: ExitStack, gateway: Gateway, server: str) -> Subject:
    port = free_port()
    command = [*gateway.command(Path(sys.executable), server), "--port", str(port)]
    process = stack.enter_context(running(command, 0, gateway.log))
    wait_until(lambda: is_ready(port), f"the gateway on {server}, see {gateway.log}", 30, 0.05)
    return Subject(server, port, process.pid, gateway.settle)


def _rounds(subjects: list[Subject], keys: Path) -> None:
    print("Warming up ...", flush=True)
    for kind in KINDS:
        for subject in subjects:
            subject.load(kind, keys, 2, counted=False)
    for number in range(RUNS):
        print(f"Round {number + 1} of {RUNS}", flush=True)
        for kind in KINDS:
            for subject in subjects:
                subject.load(kind, keys, SECONDS)


def footprint() -> list[Fact]:
    """Size, start-up time and idle memory of an installation with the default server."""
    print("Installing llmgw[server] into an empty environment ...", flush=True)
    installed = install(DIRECTORY / "venv")
    gateway = Gateway(DIRECTORY / "footprint", free_port())
    started = starts(gateway.command(installed.python, "hypercorn"), gateway.log, max(RUNS, 5))
    return [
        Fact("distributions that llmgw[server] installs", installed.distributions, "", 40),
        Fact("bytes that llmgw[server] installs", installed.bytes / 1e6, "MB", 100),
        Fact("start to ready, making a new database", started.first, "s"),
        Fact("start to ready", started.later, "s", 1.5),
        Fact("idle memory of the process tree", started.resident / 1e6, "MB", 90),
    ]


def main() -> int:
    """Exit status 0 when everything is within its bound."""
    if RUNS < 5:
        print("Fewer than five rounds: good for a look, not for a quotation.")
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    DIRECTORY.mkdir(parents=True)
    os.sched_setaffinity(0, {1})
    try:
        facts = footprint()
        lines, books = measure()
    except Failed as error:
        print(f"The benchmark failed: {error}", file=sys.stderr)
        return 2
    facts += books
    show(lines, facts)
    setup = {
        "runs": RUNS,
        "seconds": SECONDS,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "chunks": CHUNKS,
        "interval_ms": INTERVAL_MS,
    }
    save(ROOT / "build" / "bench.json", lines, facts, setup)
    passed = [one.passed for one in lines] + [fact.passed for fact in facts]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
