"""Pages of the reference that are read from the code, made whenever the site is built.

MkDocs calls `on_files`. Nothing that is made here is kept in the repository, so it cannot be
out of date.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import os
import re
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast, get_args, get_type_hints

import msgspec

from llmgw_core.config import (
    schema,
    schema_aliases,
    schema_brake,
    schema_health,
    schema_prices,
    schema_routing,
    schema_statements,
    schema_streams,
    schema_tokenizer,
)
from llmgw_core.domain import errors
from llmgw_core.domain.alias import CanaryRules, Variant
from llmgw_core.domain.life import Life
from llmgw_core.domain.limits import Limits
from llmgw_core.hooks import check, specs
from llmgw_core.hooks.foreign import FIXED_POLICY
from llmgw_core.hooks.host import PluginHost
from llmgw_core.hooks.registry import Parts
from llmgw_core.pipeline.stats import Stats
from llmgw_core.routing.health import Health
from llmgw_core.routing.state import RoutingMemory
from llmgw_server import cli
from llmgw_server.metrics import PluginCollector, StatsCollector
from llmgw_server.metrics_health import HealthCollector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

    from llmgw_core.gateway import Gateway

ROOT = Path(__file__).parent.parent
SECTIONS: dict[str, type[msgspec.Struct]] = {
    "The file": schema.Config,
    "models.NAME": schema.ModelConfig,
    "models.NAME.deployments[]": schema.DeploymentConfig,
    "models.NAME.timeouts": schema_routing.TimeoutsConfig,
    "models.NAME.timeouts.stream": schema_routing.StreamTimeoutsConfig,
    "models.NAME.routing": schema_routing.ModelRouting,
    "models.NAME.routing.failures": schema_routing.TreatmentConfig,
    "models.NAME.routing.breaker": schema_health.BreakerConfig,
    "models.NAME.routing.probes": schema_health.ProbesConfig,
    "models.NAME.deployments[].routing": schema_routing.DeploymentRouting,
    "models.NAME.limits": Limits,
    "models.NAME.life": Life,
    "aliases.NAME": schema_aliases.AliasConfig,
    "aliases.NAME.variants[]": Variant,
    "aliases.NAME.limits": Limits,
    "aliases.NAME.life": Life,
    "aliases.NAME.canary": CanaryRules,
    "outgoing": schema.OutgoingConfig,
    "models.NAME.tokenizer": schema_tokenizer.TokenizerConfig,
    "models.NAME.prices[]": schema_prices.PriceEntry,
    "models.NAME.prices[].cost": schema_prices.TokenPrices,
    "models.NAME.prices[].tiers[]": schema_prices.PriceTier,
    "models.NAME.prices[].tiers[].cost": schema_prices.TierPrices,
    "plugins[]": schema.PluginConfig,
    "server": schema.ServerConfig,
    "server.admin": schema.ListenerConfig,
    "server.metrics": schema.ListenerConfig,
    "server.tls": schema.TlsConfig,
    "server.tls.principals[]": schema.CertificateRule,
    "store": schema.StoreConfig,
    "accounting": schema.AccountingConfig,
    "requests": schema.RequestLimits,
    "routing": schema_routing.RoutingConfig,
    "routing.streams": schema_streams.StreamsConfig,
    "routing.overload": schema_streams.OverloadConfig,
    "routing.overload.rules[]": schema_streams.QueueRule,
    "limits": schema.LimitsConfig,
    "brake": schema_brake.BrakeConfig,
    "reload": schema.ReloadConfig,
    "statements": schema_statements.StatementsConfig,
    "statements.pools.NAME": schema_statements.PoolConfig,
}


def _doc(thing: object) -> str:
    return inspect.getdoc(thing) or ""


def _table(*columns: str) -> list[str]:
    return ["| " + " | ".join(columns) + " |", "| " + " | ".join("---" for _ in columns) + " |"]


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _kind(kind: Any) -> str:
    """A type as a reader of YAML thinks of it."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        places = [f"`{place}`" for place, struct in SECTIONS.items() if struct is kind]
        return "see " + " or ".join(places) if places else kind.__name__
    if type(None) in get_args(kind):  # a key that need not be there
        return _kind(next(part for part in get_args(kind) if part is not type(None)))
    arguments = [part for part in get_args(kind) if part is not Ellipsis]
    name = str(getattr(kind, "__origin__", kind))
    if "Literal" in name:
        return " or ".join(f"`{word}`" for word in arguments)
    if "dict" in name and arguments:
        return f"mapping, values: {_kind(arguments[1])}"
    if "tuple" in name and arguments:
        return f"list, items: {_kind(arguments[0])}"
    if arguments:
        return _kind(arguments[0])
    words = {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}
    short = getattr(kind, "__name__", "value")
    return {**words, "Decimal": "number", "Any": "value"}.get(short, short)


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    value = field.default
    if value is msgspec.NODEFAULT or isinstance(value, msgspec.Struct) or value in ((), {}, None):
        return ""
    return "empty" if value == "" else f"`{value}`"


def configuration() -> str:
    """Every section of the configuration file."""
    lines = ["# Configuration", "", inspect.cleandoc(schema.__doc__ or ""), ""]
    for place, struct in SECTIONS.items():
        hints = get_type_hints(struct)
        lines += [f"## {place}", "", _doc(struct), "", *_table("key", "value", "default")]
        for field in msgspec.structs.fields(struct):
            kind = _kind(hints[field.name])
            lines.append(_row(f"`{field.encode_name}`", kind, _default(field)))
        lines.append("")
    return "\n".join(lines)


FAILURES = {
    "stop": "The start or the reload comes to nothing, and the error says which plugin it was.",
    "continue": "It is logged and counted, and nothing else happens.",
    "refuse": "The call is refused, whatever `on_error` says: who cannot be asked denies.",
    None: "The call ends with 500 `plugin_error`; with `on_error: open` it goes on as if the plugin"
    " had returned `None`.",
}


def hooks() -> str:
    """Every hook with its exact signature, and what happens when a plugin fails in it."""
    lines = ["# Hooks", "", inspect.cleandoc(specs.__doc__ or ""), ""]
    lines += [f"This is hook API {specs.HOOK_API}. {_doc_of_hook_api()}", ""]
    lines += [f"The class of a plugin may say more. `needs`: {_words(check.NEEDS)}: decoded before"]
    lines += ["it is asked, so that what cannot be decoded is not its failure. `threads`: a"]
    lines += ["frozenset of awaited hooks that are plain functions and may block. `once_per`:"]
    lines += [f"{_words(check.ONCE_PER)}.", ""]
    for name, kind in specs.HOOK_KINDS.items():
        function = getattr(specs.GatewayHooks, name)
        awaited = inspect.iscoroutinefunction(function)
        signature = str(inspect.signature(function)).replace("'", "")
        order = "from the last plugin to the first" if name in specs.REVERSED else "in order"
        lines += [f"## {name}", "", f"Kind: {kind}, {order}.", ""]
        lines += [f"    {'async def' if awaited else 'def'} {name}{signature}", ""]
        lines += [_doc(function), "", f"When it fails: {FAILURES[FIXED_POLICY.get(name)]}"]
        if name == "open_stream":
            lines += ["After content has reached the client, a stream ends with an error event."]
        lines.append("")
    return "\n".join(lines)


def _words(names: Iterable[str]) -> str:
    return " or ".join(f"`{name}`" for name in sorted(names))


def _doc_of_hook_api() -> str:
    """The text below the constant."""
    source = inspect.getsource(specs)
    return " ".join(source.partition("HOOK_API: Final = ")[2].split('"""')[1].split())


def _sample(function: Callable[..., errors.GatewayError]) -> errors.GatewayError:
    """An error as `function` makes it when only what is required is given."""
    required = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty
    ]
    return function(*(1.0 if "float" in parameter.annotation else "" for parameter in required))


def _given(argument: str) -> dict[str, set[str]]:
    """What `argument` is other than its default, by the function that makes the error."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "llmgw_core").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                for keyword in node.keywords:
                    if keyword.arg == argument and isinstance(keyword.value, ast.Constant):
                        found.setdefault(node.func.id, set()).add(str(keyword.value.value))
    return found


def _message(node: ast.expr) -> str:
    """A sentence of the code; … stands for what is put in when it is said."""
    if isinstance(node, ast.JoinedStr):
        return "".join(_message(part) for part in node.values)
    return str(node.value) if isinstance(node, ast.Constant) else "…"


def _retry(values: set[str]) -> str:
    """What `x-should-retry` says; where it is absent, the client decides."""
    words = {"True": "`true`", "False": "`false`", "None": "absent"}
    return " or ".join(sorted(words[value] for value in values))


def _made_in_place() -> Iterator[tuple[int, str, str, str, str]]:
    """Status, type, code, `x-should-retry` and sentence of the errors that only one place of the
    code raises."""
    for path in sorted(ROOT.glob("llmgw_*/**/*.py")):
        if "testing" in path.parts or path.name == "errors.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "GatewayError":
                status, code, message = node.args
                if not isinstance(status, ast.Constant):
                    continue  # passes on what the web framework says
                kinds = [_message(word.value) for word in node.keywords if word.arg == "type"]
                kind = [*kinds, "invalid_request_error"][0]
                retry = [
                    _message(word.value) for word in node.keywords if word.arg == "should_retry"
                ]
                again = _retry(set(retry or ["None"]))
                yield int(_message(status)), kind, _message(code), again, _message(message)


def error_table() -> str:
    """Every error that a caller can get."""
    lines = ["# Errors", "", inspect.cleandoc(errors.__doc__ or ""), ""]
    lines += _table("status", "type", "code", "`x-should-retry`", "when")
    codes, statuses, retries = _given("code"), _given("status"), _given("should_retry")
    for name, function in inspect.getmembers(errors, inspect.isfunction):
        if function.__annotations__.get("return") == "GatewayError":
            error = _sample(function)
            status = ", ".join(sorted({str(error.status), *statuses.get(name, set())}))
            all_codes = sorted({error.code, *codes.get(name, set())})
            text = " ".join(_doc(function).split())
            text = re.sub(r"^[\d or]+(?=[: ]|for)[: ]*", "", text)
            shown = ", ".join(f"`{code}`" for code in all_codes)
            retry = _retry({str(error.should_retry), *retries.get(name, set())})
            lines.append(_row(status, f"`{error.type}`", shown, retry, text))
    for number, kind, code, retry, sentence in sorted(set(_made_in_place())):
        lines.append(_row(str(number), f"`{kind}`", f"`{code}`", retry, sentence))
    return "\n".join(lines) + "\n"


def metrics() -> str:
    """Every metric of the gateway itself."""
    stats = Stats()
    lines = ["# Metrics", "", "`/metrics` serves them in Prometheus' text format, together with"]
    lines += ["those of the process.", "", *_table("metric", "type", "what")]
    health = Health(RoutingMemory(lambda: 0.0), lambda: 0)
    nobody = cast(
        "Gateway", SimpleNamespace(host=PluginHost([], Parts()), health=health, catalog={})
    )
    collectors = (StatsCollector(stats), PluginCollector(nobody), HealthCollector(nobody))
    for family in chain.from_iterable(collector.collect() for collector in collectors):
        name = family.name + ("_total" if family.type == "counter" else "")
        lines.append(_row(f"`{name}`", family.type, family.documentation))
    return "\n".join(lines) + "\n"


def _parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """`parser` and everything below it, in the order of its help."""
    yield parser
    for action in parser._actions:  # argparse has no public way to ask
        if isinstance(action, argparse._SubParsersAction):
            for command in dict.fromkeys(action.choices.values()):
                yield from _parsers(command)


def command_line() -> str:
    """The help of every command."""
    os.environ["COLUMNS"] = "96"
    lines = ["# Command line", "", inspect.cleandoc(cli.__doc__ or ""), ""]
    for name, (module, summary) in cli.COMMANDS.items():
        top = argparse.ArgumentParser(prog=f"llmgw-server {name}", description=f"{summary}.")
        importlib.import_module(f"{cli.__name__}.{module}").configure(top, name)
        for parser in _parsers(top):
            level = "##" if parser is top else "###"
            help_text = parser.format_help().rstrip().replace("\n", "\n    ")
            lines += [f"{level} {parser.prog}", "", f"    {help_text}", ""]
    return "\n".join(lines)


PAGES: dict[str, Callable[[], str]] = {
    "reference/configuration.md": configuration,
    "reference/hooks.md": hooks,
    "reference/errors.md": error_table,
    "reference/metrics.md": metrics,
    "reference/command-line.md": command_line,
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """MkDocs' event: the pages are known, none is read yet."""
    from mkdocs.structure.files import File  # noqa: PLC0415 -- the pages can be made without it

    for path, make in PAGES.items():
        files.append(File.generated(config, path, content=make()))
    return files
