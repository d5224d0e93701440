"""`config`: the schema for editors, what holds, what was loaded before, and the way back."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from llmgw_core.checking import check_file, check_text
from llmgw_core.config.document import read_document
from llmgw_core.config.errors import raise_all
from llmgw_core.config.history import History, put_back
from llmgw_core.config.json_schema import json_schema
from llmgw_core.config.load import load_file, read_text
from llmgw_core.config.masking import effective
from llmgw_core.config.schema import Config, PluginConfig
from llmgw_core.config.secrets import Resolver
from llmgw_core.domain.errors import ConfigError
from llmgw_core.gateway import load_plugins
from llmgw_core.hooks.discovery import installed
from llmgw_server.cli.errors import CommandError
from llmgw_server.cli.options import add_config, add_json, run_with
from llmgw_server.cli.output import moment, remark, say, say_json, say_table
from llmgw_server.reloading import ask_to_reload

if TYPE_CHECKING:
    import argparse

    from llmgw_core.config.history import Loaded


def configure(parser: argparse.ArgumentParser, _command: str) -> None:
    """Add the subcommands."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    schema = actions.add_parser("schema", help="print the JSON Schema of the file, for editors")
    add_config(schema)
    schema.add_argument("--output", metavar="FILE", type=Path, help="write it into a file")
    run_with(schema, _schema)
    show = actions.add_parser("show", help="print what holds, with defaults and without secrets")
    add_config(show)
    add_json(show)
    run_with(show, _show)
    history = actions.add_parser("history", help="list what was loaded")
    add_config(history)
    add_json(history)
    run_with(history, _history)
    diff = actions.add_parser("diff", help="what the file says now, compared with what was loaded")
    add_config(diff)
    diff.add_argument("number", type=int, help="number in the history")
    run_with(diff, _diff)
    rollback = actions.add_parser("rollback", help="put a configuration back that was loaded")
    add_config(rollback)
    rollback.add_argument("number", type=int, help="number in the history")
    run_with(rollback, _rollback)


def _schema(args: argparse.Namespace) -> None:
    plugins: dict[str, type[Any] | None] = {}
    backends: dict[str, type[Any]] = {}
    base = Path(args.config).absolute().parent
    alone = [Config(plugins=(PluginConfig(name),)) for name in installed()]
    hosts = []
    for config in alone:
        try:
            hosts.append(load_plugins(config, base))
        except ConfigError as error:  # it needs a configuration, or something is missing
            remark(f"left out: {error}")
    if Path(args.config).exists():
        checked = check_file(args.config)
        if checked.host is not None:
            hosts.append(checked.host)
    for host in hosts:
        for plugin in host.plugins:
            plugins[plugin.name] = getattr(plugin.enabled.plugin, "Config", None)
        backends |= {name: backend.Options for name, backend in host.backends.items()}
    schema = json_schema(plugins, backends)
    if args.output is None:
        say_json(schema)
        return
    try:
        args.output.write_bytes(msgspec.json.format(msgspec.json.encode(schema), indent=2))
    except OSError as error:
        raise CommandError(f"{args.output} cannot be written: {error.strerror}.") from None
    say(f"{args.output} has what {len(plugins)} plugins bring.")


def _show(args: argparse.Namespace) -> None:
    values = effective(load_file(args.config))
    if args.json:
        say_json(values)
    else:
        import yaml  # noqa: PLC0415 - other commands go without

        say(yaml.safe_dump(values, sort_keys=False, allow_unicode=True).rstrip())


def _history(args: argparse.Namespace) -> None:
    entries = _kept(args.config).entries()
    if args.json:
        say_json(entries)
        return
    if not entries:
        say("Nothing has been loaded yet.")
        return
    say_table(
        ("NUMBER", "LOADED", "SHA-256", "BY"),
        [(each.number, moment(each.at), each.sha256[:12], each.trigger) for each in entries],
        right="NUMBER",
    )


def _diff(args: argparse.Namespace) -> None:
    entry = _kept(args.config).entry(args.number)
    lines = difflib.unified_diff(
        entry.text.splitlines(),
        read_text(args.config).splitlines(),
        f"{args.config} (number {entry.number}, {moment(entry.at)})",
        f"{args.config} (now)",
        lineterm="",
    )
    say("\n".join(lines) or "There is no difference.")


def _rollback(args: argparse.Namespace) -> None:
    path = Path(args.config)
    history = _kept(args.config)
    entry = history.entry(args.number)
    _still_good(entry, path)
    try:
        put_back(path, entry.text)
    except OSError as error:
        message = f"{path} cannot be written: {error.strerror}. `config diff {args.number}` shows"
        raise CommandError(f"{message} what to change where the file comes from.") from None
    say(f"{path} is configuration {entry.number} of {moment(entry.at)} again.")
    say(ask_to_reload(history.root))


def _still_good(entry: Loaded, path: Path) -> None:
    """What was good once need not be now: variables, files and plugins may be gone."""
    name = f"configuration {entry.number}"
    raise_all(check_text(entry.text, name, path.absolute().parent).errors)


def _kept(config: str) -> History:
    """The history, also when the file is broken: that is when it is needed."""
    path = Path(config).absolute()
    try:
        raw = read_document(read_text(path))
    except ConfigError:
        raw = None
    section = raw.get("accounting") if isinstance(raw, dict) else None
    written = section.get("journal") if isinstance(section, dict) else None
    name = Config().accounting.journal
    if isinstance(written, str):
        resolver = Resolver(path.parent, os.environ)
        name = resolver.resolve(written, "accounting.journal")
        raise_all(resolver.errors)
    return History(path.parent / name)
