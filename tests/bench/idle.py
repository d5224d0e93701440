"""What an open stream costs while nothing happens on it: memory of the gateway's process tree with
thousands of them, each behind its first content.

Environment: STREAMS (how many, default 5000). Each is an open file here and at the upstream, and
two at the gateway; with a lower limit of open files there are fewer.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from footprint import is_ready
from gateway import Gateway
from processes import Failed, free_port, listens, resident_bytes, running, wait_until
from report import Fact

if TYPE_CHECKING:
    from collections.abc import Sequence

STREAMS = int(os.environ.get("STREAMS", "5000"))
WARM_UP = 200
"""Streams that are opened and closed before: what the first ones load stays anyway."""
TOGETHER = 100
"""Connections that are opened at once."""
BOUND_KB = 64
_SPARE_FILES = 200
_BODY = b'{"model":"bench","messages":[{"role":"user","content":"Hi"}],"stream":true}'


def idle_streams(directory: Path, tenants: Path, server: str) -> Fact:
    """Memory per stream on `server`."""
    streams = _raise_limit(STREAMS)
    upstream, port = free_port(), free_port()
    script = str(Path(__file__).with_name("upstream.py"))
    gateway = Gateway(directory / f"idle-{server}", upstream, tenants)
    command = [*gateway.command(Path(sys.executable), server), "--port", str(port)]
    key = (tenants / "keys").read_text(encoding="utf-8").split()[0]
    with (
        running([sys.executable, script, str(upstream), "0", "1000"], 1, gateway.log),
        running(command, 0, gateway.log) as process,
    ):
        wait_until(lambda: listens(upstream), "the upstream", 10, 0.05)
        wait_until(lambda: is_ready(port), f"the gateway on {server}", 30, 0.05)
        kilobytes = asyncio.run(_measured(port, process.pid, key, streams)) / 1000
        gateway.settle(WARM_UP + streams)
    print(f"  {server:<10} {streams} idle streams: {kilobytes:.1f} kB each", flush=True)
    return Fact(f"memory per stream, {streams:,} idle ones on {server}", kilobytes, "kB", BOUND_KB)


def _raise_limit(wanted: int) -> int:
    """Let this process, and those that it starts, open as many files as they may; how many streams
    that is enough for, at most `wanted`."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if most == resource.RLIM_INFINITY:
        return wanted
    streams = min(wanted, (most - _SPARE_FILES) // 2)
    if streams < wanted:
        print(f"{most} open files are enough for {streams} streams only.", flush=True)
    return streams


async def _measured(port: int, pid: int, key: str, streams: int) -> float:
    """Bytes per stream."""
    await _close(await _opened(port, key, WARM_UP))
    await asyncio.sleep(1)
    before = resident_bytes(pid)
    opened = await _opened(port, key, streams)
    await asyncio.sleep(1)
    after = resident_bytes(pid)
    await _close(opened)
    return (after - before) / streams


async def _opened(port: int, key: str, number: int) -> list[asyncio.StreamWriter]:
    writers: list[asyncio.StreamWriter] = []
    while len(writers) < number:
        batch = min(TOGETHER, number - len(writers))
        writers += await asyncio.gather(*(_open(port, key) for _ in range(batch)))
    return writers


async def _open(port: int, key: str) -> asyncio.StreamWriter:
    """A stream that has had its first content."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\n"
    kind = f"content-type: application/json\r\ncontent-length: {len(_BODY)}\r\n\r\n"
    writer.write(head.encode() + kind.encode() + _BODY)
    received = b""
    while b" token" not in received:
        data = await reader.read(65536)
        if not data:
            raise Failed(f"an idle stream was refused: {received[:300]!r}")
        received += data
    return writer


async def _close(writers: Sequence[asyncio.StreamWriter]) -> None:
    for writer in writers:
        writer.close()
    for writer in writers:
        await writer.wait_closed()
