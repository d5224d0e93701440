"""`explain`: why a call would go where it goes, without making it. The gateway that runs is asked;
without one the plan is made from the configuration and the store."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from llmgw_core import planning
from llmgw_core.domain.errors import GatewayError
from llmgw_core.pipeline.explanation import Explanation
from llmgw_server.admin.routing import ExplainRequest
from llmgw_server.cli.asking import add_gateway, ask_running
from llmgw_server.cli.errors import CommandError
from llmgw_server.cli.options import add_config, add_json, run_with
from llmgw_server.cli.output import say, say_json, table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from llmgw_core.pipeline.explanation import Candidate

_ID = "key_"


def configure(parser: argparse.ArgumentParser, _command: str) -> None:
    """Add the options."""
    who = parser.add_argument_group("who would call")
    who.add_argument(
        "--key", metavar="KEY", help="an API key, `-` to read it from standard input, or its id"
    )
    who.add_argument("--org", metavar="ORG", help="an organisation, by id or name")
    who.add_argument("--team", metavar="TEAM", default="", help="in it, by id or name")
    who.add_argument("--user", metavar="USER", default="", help="in it, by id or name")
    what = parser.add_argument_group("what it would ask for")
    what.add_argument("--model", metavar="MODEL", help="default: that of --body")
    what.add_argument("--body", metavar="FILE", type=Path, help="the request, as JSON")
    what.add_argument("--zone", default="", metavar="A,B", help="confined to these zones")
    add_config(parser)
    add_gateway(parser, "where the gateway is (default: where the configuration says)")
    parser.add_argument(
        "--offline", action="store_true", help="ask no gateway; plan from the configuration"
    )
    add_json(parser)
    run_with(parser, _explain)


def _explain(args: argparse.Namespace) -> None:
    request = _request(args)
    found, told = None, "As asked, no gateway was asked."
    if not args.offline:
        found, told = ask_running(args, "/explain", Explanation, body=request)
    asked = found is not None
    if found is None:
        found = _planned(args, request)
    if args.json:
        source = {"gateway": told} if asked else {"gateway": None, "why": told}
        say_json({**source, **msgspec.to_builtins(found)})
        return
    say("\n".join(lines(found)))
    say("")
    if asked:
        say(f"This is the plan of the gateway at {told}.")
    else:
        say(
            f"{told} This is planned from {args.config} and the store; what only a running gateway"
            " knows (health, load, meters) is missing."
        )


def _planned(args: argparse.Namespace, request: ExplainRequest) -> Explanation:
    try:
        return asyncio.run(planning.explain(args.config, request.question()))
    except GatewayError as error:
        raise CommandError(error.message) from None


def _request(args: argparse.Namespace) -> ExplainRequest:
    body = _body(args.body)
    model = args.model or body.get("model")
    if not isinstance(model, str) or not model:
        raise CommandError("Which model? Give --model, or a --body that names one.")
    key = (args.key or "").strip()
    if bool(key) == bool(args.org):
        raise CommandError("Who would call? Give either --key or --org (with --team, --user).")
    if key == "-":
        key = sys.stdin.readline().strip()
    named = key.startswith(_ID)
    return ExplainRequest(
        model=model,
        key="" if named else key,
        key_id=key if named else "",
        organization=args.org or "",
        team=args.team,
        user=args.user,
        body=body,
        zone=args.zone,
    )


def _body(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}.") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise CommandError(f"{path} is no JSON object: {error}.") from None


def lines(found: Explanation) -> Iterator[str]:
    """The explanation for people."""
    yield f"A call for {found.asked}{_by(found)}:"
    for rule in found.rules:
        yield f"  {rule.kind}: {rule.sentence}"
    refusal = found.refusal
    if refusal is not None:
        why = f" ({refusal.decided})" if refusal.decided else ""
        yield f"  refused: {refusal.status} {refusal.code}: {refusal.message}{why}"
    if found.candidates:
        but = " if it were not refused" if refusal is not None else ""
        yield ""
        yield f"It would be tried in this order{but}, the next one when one fails:"
        rows = [
            (number, each.deployment, each.zone, each.backend, each.note)
            for number, each in enumerate(found.candidates, start=1)
        ]
        yield from table(("#", "DEPLOYMENT", "ZONE", "BACKEND", "NOTE"), rows, right="#")
    elif refusal is None:
        yield ""
        yield "Nobody would be tried now: the call waits for a slot where calls may, or fails."
    if found.dropped:
        yield ""
        yield "Not tried:"
        dropped = [(each.deployment, each.reason) for each in found.dropped]
        yield from table(("DEPLOYMENT", "WHY"), dropped)
    yield from _instead("If it is too long for them", found.too_long)
    yield from _instead("If its content is refused", found.refused)
    for note in found.notes:
        yield f"Note: {note}."


def _by(found: Explanation) -> str:
    caller = found.caller
    if caller is None:
        return ""
    ids = (caller.key_id, caller.user_id, caller.team_id, caller.organization_id)
    return f" by {', '.join(id for id in ids if id)}"


def _instead(when: str, candidates: Sequence[Candidate]) -> Iterator[str]:
    if candidates:
        yield f"{when}: {', '.join(each.deployment for each in candidates)}"
