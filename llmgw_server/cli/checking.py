"""`check`: everything that is wrong with a configuration, without starting it; with `--connect`
also whether its deployments can be reached from here."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmgw_core.checking import Problem, check_file, check_targets
from llmgw_core.config.load import with_absolute_paths
from llmgw_core.connecting import reach
from llmgw_core.domain.errors import ConfigError
from llmgw_server.certificates import CertificateError
from llmgw_server.cli.errors import CommandError
from llmgw_server.cli.options import add_config, run_with, seconds
from llmgw_server.cli.output import say, say_json, say_table
from llmgw_server.listening import check_certificates

if TYPE_CHECKING:
    import argparse

    from llmgw_core.checking import Checked
    from llmgw_core.connecting import Reach


def configure(parser: argparse.ArgumentParser, _command: str) -> None:
    """Add the options."""
    add_config(parser)
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="text, or JSON for programs"
    )
    parser.add_argument(
        "--connect",
        action="store_true",
        help="try every deployment: name, connection, certificate, credential, model",
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=10.0,
        metavar="SECONDS",
        help="for each deployment with --connect (default: 10)",
    )
    run_with(parser, _check)


def _check(args: argparse.Namespace) -> None:
    checked = check_file(args.config)
    _look_at_certificates(checked, args.config)
    asyncio.run(check_targets(checked))
    reached: list[Reach] = []
    if args.connect and checked.host is not None and checked.leaving_is_known:
        deployments = [
            deployment
            for model in checked.models.values()
            for deployment in model.deployments
            if deployment.options is not None
        ]
        reached = asyncio.run(reach(deployments, checked.host, seconds=args.timeout))
    if args.format == "json":
        say_json(_document(args.config, checked, reached))
    else:
        _print(args.config, checked, reached)
    errors, failed = len(checked.errors), sum(not each.ok for each in reached)
    if errors:
        lines = checked.errors if args.format == "text" else ()
        raise CommandError(
            "\n".join((f"{args.config} has {_count(errors, 'error')}.", *map(str, lines)))
        )
    if failed:
        raise CommandError(f"{_count(failed, 'deployment')} cannot be used from here.")


def _look_at_certificates(checked: Checked, path: str) -> None:
    """Add what is wrong with the files that the listeners need."""
    if checked.config is None or any(error.path.startswith("server") for error in checked.errors):
        return
    try:
        check_certificates(with_absolute_paths(checked.config, Path(path).absolute().parent).server)
    except CertificateError as error:
        place, _, message = str(error).partition(": ")
        checked.errors.append(ConfigError(message, path=place))


def _document(path: str, checked: Checked, reached: list[Reach]) -> dict[str, Any]:
    return {
        "file": path,
        "valid": not checked.errors,
        "errors": [Problem.of(error) for error in checked.errors],
        "warnings": [Problem.of(warning) for warning in checked.warnings],
        "notes": checked.notes,
        "deployments": reached,
    }


def _print(path: str, checked: Checked, reached: list[Reach]) -> None:
    if not checked.errors and checked.config is not None:
        models = checked.models.values()
        aliases = sum(model.alias is not None for model in models)
        counts = (
            _count(sum(model.alias is None for model in models), "model"),
            *([_count(aliases, "alias", "aliases")] if aliases else []),
            _count(sum(len(model.deployments) for model in models), "deployment"),
            _count(len(checked.config.plugins), "plugin"),
        )
        say(f"{path} is valid: {', '.join(counts)}.")
    for note in checked.notes:
        say(f"note: {note}")
    for warning in checked.warnings:
        say(f"warning: {warning}")
    if reached:
        say_table(
            ("DEPLOYMENT", "", "CERTIFICATE", "WHAT"),
            [
                (
                    each.deployment,
                    "ok" if each.ok else "FAILED",
                    None if each.certificate_days is None else f"{each.certificate_days} days",
                    " ".join(filter(None, (each.message, each.remark))),
                )
                for each in reached
            ],
        )


def _count(number: int, word: str, plural: str = "") -> str:
    return f"{number} {word if number == 1 else plural or word + 's'}"
