"""`models canary` and `models retarget`: where aliases lead, changed in the store, so that it
reaches a running gateway and survives a restart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from llmgw_core.config.load import load
from llmgw_core.tenancy.embedding_targets import EmbeddingTargets
from llmgw_core.tenancy.rollouts import Rollouts
from llmgw_server.cli.database import actor, on_store
from llmgw_server.cli.options import add_config, add_json, run_with
from llmgw_server.cli.output import moment, say, say_json, say_table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable

    from llmgw_core.config.schema import Config
    from llmgw_core.routing.rollouts import Rollout

    Actions = argparse._SubParsersAction[argparse.ArgumentParser]  # it has no public name


def configure(actions: Actions) -> None:
    """Add the subcommands."""
    parser = actions.add_parser(
        "canary",
        help="give a share of an alias another model, and all of it in the end",
        description="Give a share of the callers of an alias another model, more of them step by"
        " step, and all in the end. A canary that fails more often than the models of the alias, or"
        " is slower to its first token, is taken out by the gateway itself.",
    )
    verbs = parser.add_subparsers(metavar="ACTION", required=True)
    start = _verb(verbs, "start", "send the first callers to a new model", _start)
    start.add_argument("model", metavar="NEW", help="the model that they get")
    _add_share(start, "the first step of the rules of the alias")
    step = _verb(verbs, "step", "change the share", _step)
    _add_share(step, "the next step of the rules of the alias")
    _verb(verbs, "promote", "send everybody to the new model", _promote)
    abort = _verb(verbs, "abort", "send nobody to the new model, or no longer", _abort)
    abort.add_argument("--reason", default="", metavar="TEXT", help="for the audit log")
    status = _verb(verbs, "status", "what is under way, and how what was ended", _status, "?")
    add_json(status)
    retarget = _verb(
        actions, "retarget", "let an alias of embeddings lead to another model", _retarget
    )
    retarget.add_argument(
        "--force", action="store_true", help="although vectors that were stored are of no use then"
    )


def _verb(
    actions: Actions,
    name: str,
    summary: str,
    run: Callable[[argparse.Namespace], None],
    count: str | None = None,
) -> argparse.ArgumentParser:
    parser = actions.add_parser(
        name, help=summary, description=summary[0].upper() + summary[1:] + "."
    )
    add_config(parser, inherited=True)
    parser.add_argument("alias", metavar="ALIAS", nargs=count, help="name of the alias")
    run_with(parser, run)
    return parser


def _add_share(parser: argparse.ArgumentParser, otherwise: str) -> None:
    parser.add_argument(
        "--share",
        type=float,
        metavar="PERCENT",
        help=f"of the callers (default: {otherwise})",
    )


def _on_rollouts(
    args: argparse.Namespace, work: Callable[[Rollouts], Awaitable[Rollout]]
) -> tuple[Rollout, Config]:
    config = load(args.config)
    done = on_store(args, lambda store: work(Rollouts(store, lambda: config)))
    return done, config


def _start(args: argparse.Namespace) -> None:
    done, config = _on_rollouts(
        args,
        lambda rollouts: rollouts.start(args.alias, args.model, share=args.share, actor=actor()),
    )
    rules = config.aliases[args.alias].canary
    watched = [
        *(["fails more often"] if rules.errors is not None else []),
        *(["is slower to its first token"] if rules.slower is not None else []),
    ]
    say(f"{done.share:g} % of the callers of {done.alias} get {done.model}{_soon(config)}")
    if watched:
        say(
            f"The gateway takes it out if it {' or '.join(watched)} than the others, after"
            f" {rules.minimum_calls} calls at the earliest."
        )


def _step(args: argparse.Namespace) -> None:
    done, config = _on_rollouts(
        args, lambda rollouts: rollouts.step(args.alias, share=args.share, actor=actor())
    )
    say(f"{done.share:g} % of the callers of {done.alias} get {done.model}{_soon(config)}")


def _promote(args: argparse.Namespace) -> None:
    done, config = _on_rollouts(args, lambda rollouts: rollouts.promote(args.alias, actor=actor()))
    say(f"All callers of {done.alias} get {done.model}{_soon(config)}")
    say(
        f"That holds until the variants of {done.alias} in {args.config} change: make"
        f" {done.model} its variant there."
    )


def _abort(args: argparse.Namespace) -> None:
    done, config = _on_rollouts(
        args, lambda rollouts: rollouts.abort(args.alias, reason=args.reason, actor=actor())
    )
    say(f"No caller of {done.alias} gets {done.model} as a canary any more{_soon(config)}")


def _soon(config: Config) -> str:
    seconds = config.store.staleness
    unit = "second" if seconds == 1 else "seconds"
    return f", within {seconds:g} {unit} in a running gateway."


def _status(args: argparse.Namespace) -> None:
    config = load(args.config)
    found = on_store(args, lambda store: Rollouts(store, lambda: config).find_all())
    chosen = [each for each in found if args.alias in {None, each.alias}]
    if args.json:
        say_json([_document(each, config) for each in chosen])
        return
    if not chosen:
        say("There has been no canary.")
        return
    say_table(
        ("ALIAS", "CANARY", "SHARE", "STATE", "STARTED", "CHANGED", "BY", "REASON"),
        [
            (
                each.alias,
                each.model,
                f"{each.share:g} %",
                _state(each, config),
                moment(each.started),
                moment(each.changed),
                each.actor,
                each.reason or None,
            )
            for each in chosen
        ],
        right="SHARE",
    )


def _in_force(rollout: Rollout, config: Config) -> bool:
    alias = config.aliases.get(rollout.alias)
    return alias is not None and rollout.model in config.models and rollout.holds(alias.variants)


def _state(rollout: Rollout, config: Config) -> str:
    if rollout.state == "aborted" or _in_force(rollout, config):
        return rollout.state
    return f"{rollout.state}, and no longer in force: the configuration has changed"


def _document(rollout: Rollout, config: Config) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.to_builtins(rollout)
    return {**values, "in_force": _in_force(rollout, config)}


def _retarget(args: argparse.Namespace) -> None:
    config = load(args.config)
    say(
        on_store(
            args,
            lambda store: EmbeddingTargets(store).retarget(
                config, args.alias, force=args.force, actor=actor()
            ),
        )
    )
