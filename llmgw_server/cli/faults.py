"""`faults`: an OpenAI-compatible upstream that fails as it is told to, to try out what a gateway
does then, before something real fails."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from llmgw_core.testing.faults.catalog import FAULTS, OK
from llmgw_core.testing.faults.control import Control
from llmgw_core.testing.faults.scenario import SCENARIOS, Scenario
from llmgw_core.testing.faults.server import FaultServer
from llmgw_server.cli.errors import CommandError
from llmgw_server.cli.options import run_with, seconds
from llmgw_server.cli.output import remark, say, say_now, say_table
from llmgw_server.cli.serving import port

if TYPE_CHECKING:
    import argparse

DEFAULT_PORT = 4100
LAST_PORT = 65535
WORDS = ("This ", "is ", "an ", "answer ", "that ", "nobody ", "has ", "thought ", "about", ".")
GREETING = """The upstream is at {url}/v1 and does: {scenario}.
Ask it for the model `fault-NAME` to meet that fault whatever else it does; --list has the names.
Change it while it runs: curl -X PUT -d flaky http://{host}:{control}/scenario
Everything else that it can be told: curl http://{host}:{control}/"""


def configure(parser: argparse.ArgumentParser, _command: str) -> None:
    """Add the options."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument(
        "--port", type=port, default=DEFAULT_PORT, help=f"port (default: {DEFAULT_PORT}); 0: any"
    )
    parser.add_argument(
        "--control-port",
        type=port,
        metavar="PORT",
        help="port to tell it something else (default: the next one after --port)",
    )
    parser.add_argument(
        "--scenario",
        default=OK,
        metavar="NAME|FILE",
        help=f"a fault (see --list), a scenario ({', '.join(SCENARIOS)}) or a YAML file with"
        f" requests, share, always and seed (default: {OK})",
    )
    parser.add_argument(
        "--pause",
        type=seconds,
        default=1.0,
        metavar="SECONDS",
        help="how slow the slow faults are (default: 1)",
    )
    parser.add_argument(
        "--tls",
        nargs=2,
        metavar=("CERTIFICATE", "KEY"),
        help="speak TLS with these PEM files, which clients may well refuse",
    )
    parser.add_argument("--list", action="store_true", help="print the faults and scenarios")
    run_with(parser, _faults)


def _faults(args: argparse.Namespace) -> None:
    if args.list:
        rows = [(each.name, each.complete, each.stream, each.summary) for each in FAULTS.values()]
        say_table(("FAULT", "WHOLE", "STREAM", "WHAT HAPPENS"), rows)
        say("")
        say_table(("SCENARIO", ""), [(name, each.summary) for name, each in SCENARIOS.items()])
        return
    server = FaultServer(
        scenario_of(args.scenario),
        words=WORDS,
        pause=args.pause,
        host=args.host,
        port=args.port,
        ssl_context=_tls(args.tls),
    )
    try:
        asyncio.run(_serve(server, args))
    except OSError as error:
        message = f"Cannot listen on {args.host}: {error.strerror or error}; see --port."
        raise CommandError(message) from None


def scenario_of(text: str) -> Scenario:
    """The scenario that is named, or that a file holds. Raises `CommandError`."""
    path = Path(text)
    if text in SCENARIOS:
        return SCENARIOS[text]
    try:
        return _read(path) if path.suffix or path.is_file() else Scenario(always=text)
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise CommandError(f"{text}: {str(error).rstrip('.')}.") from None


def _read(path: Path) -> Scenario:
    import msgspec  # noqa: PLC0415 - with a file only
    import yaml  # noqa: PLC0415

    try:
        # Texts only, since 503 is the name of a fault.
        loader = yaml.BaseLoader(path.read_text(encoding="utf-8"))
        document = loader.get_single_data()
    except yaml.YAMLError as error:
        raise ValueError(f"it is not YAML: {error}") from None
    return msgspec.convert(document or {}, Scenario, strict=False)


def _tls(files: list[str] | None) -> ssl.SSLContext | None:
    if files is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(*files)
    except OSError as error:
        message = f"--tls: {' and '.join(files)} are no certificate and its key: {error}."
        raise CommandError(message) from None
    return context


def control_port(port: int, given: int | None) -> int:
    """Where the server is told something else; 0: any port."""
    if given is not None:
        return given
    return port + 1 if 0 < port < LAST_PORT else 0


async def _serve(server: FaultServer, args: argparse.Namespace) -> None:
    number = control_port(args.port, args.control_port)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(server)
        control = await stack.enter_async_context(Control(server, host=args.host, port=number))
        url = f"{'https' if args.tls else 'http'}://{args.host}:{server.port}"
        say_now(
            GREETING.format(url=url, scenario=args.scenario, host=args.host, control=control.port)
        )
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            remark("The upstream has ended.")
            raise
