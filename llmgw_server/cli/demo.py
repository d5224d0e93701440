"""`demo`: a gateway with a small language model of its own, to try everything out.

What it writes stays: a second run finds the tenants and the books of the first, and makes a new
key, since keys are shown once.
"""

from __future__ import annotations

import asyncio
import logging
import shlex
import shutil
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from llmgw_core.config.load import load
from llmgw_core.domain.limits import Limits
from llmgw_core.gateway import Gateway
from llmgw_core.tenancy.errors import NotFound
from llmgw_core.tenancy.records import ORGANIZATION, TEAM, USER, Kind, LevelInfo
from llmgw_server.cli.demo_text import CHAT_MODEL, CONFIGURATION, GREETING, QUESTION
from llmgw_server.cli.errors import CommandError
from llmgw_server.cli.options import run_with
from llmgw_server.cli.output import remark, say_now
from llmgw_server.cli.serving import port, start_logging
from llmgw_server.listening import Listener, bind
from llmgw_server.serve import run

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator

    from llmgw_core.config.schema import Config
    from llmgw_core.tenancy.service import Tenancy

T = TypeVar("T", bound=LevelInfo)
HOST = "127.0.0.1"
ACTOR = "demo"
ORGANIZATION_NAME, TEAM_NAME, USER_NAME = "demo", "demo-team", "demo-user"
LIMITS = Limits(rpm=600, tpm=1_000_000)
"""More than the model can do; so that replies show what is left of them."""
TICK_SECONDS = 1.0


def configure(parser: argparse.ArgumentParser, _command: str) -> None:
    """Add the options."""
    parser.add_argument(
        "--dir", default="llmgw-demo", help="where it keeps its files (default: llmgw-demo)"
    )
    parser.add_argument("--port", type=port, default=4000, help="port (default: 4000); 0: any")
    run_with(parser, _demo)


def _demo(args: argparse.Namespace) -> None:
    start_logging(logging.WARNING)
    listener = Listener(bind(HOST, args.port))
    directory = Path(args.dir).absolute()
    path = directory / "llmgw.yaml"
    _write(path)
    config = load(path)

    async def ready(gateway: Gateway, url: str) -> None:
        key = await _tenants(gateway.tenancy)
        say_now(
            GREETING.format(
                url=url,
                key=key,
                model=CHAT_MODEL,
                question=QUESTION,
                config=shlex.quote(str(path)),
                program=_program(),
                log=directory / "calls.jsonl",
            )
        )

    run(_opening(config, directory), [listener], server=config.server.server, ready=ready)
    remark("The demo has ended; its files are in " + str(directory) + ".")


def _write(path: Path) -> None:
    """The configuration, unless there is one."""
    if path.exists():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = CONFIGURATION.replace("LOG_FILE", _quoted(path.parent / "calls.jsonl"))
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"Cannot write {path}: {error.strerror}; see --dir.") from error


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


@asynccontextmanager
async def _opening(config: Config, directory: Path) -> AsyncIterator[Gateway]:
    """Open the gateway and say what takes so long."""
    ticker = asyncio.create_task(_tick("Loading the language model (in a process of its own)"))
    try:
        async with Gateway.open(config, base_dir=directory) as gateway:
            ticker.cancel()
            yield gateway
            say_now("Stopping: settling calls and ending the language model.")
    finally:
        ticker.cancel()
        await asyncio.wait({ticker})


async def _tick(what: str) -> None:
    """Progress: a line that grows on a terminal, plain lines in a pipe."""
    begun = time.monotonic()
    terminal = sys.stdout.isatty()
    sys.stdout.write(f"{what} ..." if terminal else f"{what} ...\n")
    try:
        while True:
            sys.stdout.flush()
            await asyncio.sleep(TICK_SECONDS)
            if terminal:
                sys.stdout.write(".")
            else:
                sys.stdout.write(f"... {time.monotonic() - begun:.0f} s\n")
    finally:
        say_now(f"{' ' if terminal else '... '}{time.monotonic() - begun:.1f} s")


async def _tenants(tenancy: Tenancy) -> str:
    """An organisation, a team, a user in it, and a new key of the two."""
    inside = await _id(tenancy, ORGANIZATION, ORGANIZATION_NAME)
    if not inside:
        made = await tenancy.create_organization(ORGANIZATION_NAME, models=["*"], actor=ACTOR)
        inside = made.id
    team = await _id(tenancy, TEAM, TEAM_NAME, inside)
    if not team:
        team = (await tenancy.create_team(inside, TEAM_NAME, actor=ACTOR)).id
    user = await _id(tenancy, USER, USER_NAME, inside)
    if not user:
        user = (await tenancy.create_user(inside, USER_NAME, actor=ACTOR)).id
    if not await tenancy.list_memberships(team=team, user=user):
        await tenancy.add_membership(team, user, actor=ACTOR)
    _, key = await tenancy.create_key(team=team, user=user, limits=LIMITS, actor=ACTOR)
    return key


async def _id(tenancy: Tenancy, kind: Kind[T], name: str, organization: str | None = None) -> str:
    """The id of what has this name; "" if nothing has."""
    try:
        return (await tenancy.get(kind, name, organization=organization)).id
    except NotFound:
        return ""


def _program() -> str:
    """How to call this command line from the user's shell."""
    if shutil.which("llmgw-server"):
        return "llmgw-server"
    return f"{shlex.quote(sys.executable)} -m llmgw_server"
