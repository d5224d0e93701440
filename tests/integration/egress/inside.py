"""The program that runs in a network namespace of its own: nothing but a relay leads out.

    inside.py PROXY_SOCKET RELAY_PORT FORBIDDEN_PORT COMMAND...

It brings the loopback device up, makes sure that nothing else can be reached, passes connections
to RELAY_PORT on to the proxy's Unix socket (which is outside), and runs COMMAND.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import struct
import sys

SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1


def bring_loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def reached(port: int) -> list[str]:
    """What can be reached that must not be."""
    found = []
    for host, number in (("127.0.0.1", port), ("192.0.2.1", 443)):
        with contextlib.suppress(OSError), socket.create_connection((host, number), timeout=5):
            found.append(host)
    with contextlib.suppress(OSError):
        socket.getaddrinfo("provider.test", 443)
        found.append("a name server")
    return found


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def main() -> int:
    path, relay, forbidden, *command = sys.argv[1:]
    bring_loopback_up()
    if found := reached(int(forbidden)):
        sys.exit(f"egress is not blocked: {', '.join(found)}")
    sys.stdout.write("egress is blocked\n")
    sys.stdout.flush()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_unix_connection(path)
        await asyncio.gather(copy(reader, there[1]), copy(there[0], writer))

    server = await asyncio.start_server(accept, "127.0.0.1", int(relay))
    async with server:
        process = await asyncio.create_subprocess_exec(*command)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, process.terminate)
        return await process.wait()


if __name__ == "__main__":
    code = asyncio.run(main())
    sys.stdout.flush()
    os._exit(code)
