"""The configuration that `serve --discover` writes. Pure: findings in, text out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from llmgw_server.cli.sources import LOCAL

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    from llmgw_server.cli.discovery import Finding, Offer
    from llmgw_server.cli.sources import Source

HEAD = """\
# Written once by `llmgw-server serve --discover` on {day}; it is yours now, and never overwritten.
# `llmgw-server check --config FILE` says what is wrong with it, by path.

server:
  host: {host}      # 127.0.0.1 is reachable from this machine only
  port: {port}
  admin_key: file:{admin_key}   # for the admin pages; readable by you alone

store:
  url: sqlite:///llmgw.db    # organisations, teams, users, keys and the ledger
"""

PROXY = """
outgoing:
  proxy: environment    # https_proxy, http_proxy and no_proxy were set when this was written
"""

UNPRICED = """
accounting:
  # NOT FIT FOR INVOICES YET. Providers send you a bill for the public models below, but nobody has
  # said here what they cost, so their calls are booked at 0; their tokens are counted right. Write
  # `prices` for each (per million tokens, with the day from which they hold):
  #     prices:
  #       - from: {day}
  #         cost: {{input: 2.50, output: 10}}     # what the provider bills
  #         charge: {{input: 3, output: 12}}      # what your tenants pay; default: the cost
  # and then change this to `refuse`, so that a model without a price is an error.
  unpriced: zero
"""

PLUGINS = """
plugins:
  - name: openai         # everything that speaks OpenAI's API

models:
"""

LOCAL_PRICE = """\
    prices: [{{from: {day}, cost: {{input: 0, output: 0}}}}]
"""
LOCAL_NOTE = """\
  # Priced at 0: nobody bills you for calls, and what the machine costs is not known here. Give
  # them a `charge` if tenants shall pay.
"""


def configuration(
    findings: Sequence[Finding],
    *,
    host: str,
    port: int,
    admin_key: str,
    day: dt.date,
    proxied: bool,
) -> str:
    """The text of the file. Engines come first; a public model of the same name gets the name of
    its provider in front, so that no call leaves the house for it by accident."""
    ordered = _distinct(sorted(findings, key=lambda finding: finding.source.zone != LOCAL))
    public = any(finding.offers and finding.source.zone != LOCAL for finding in findings)
    parts = [HEAD.format(day=day, host=_quoted(host), port=port, admin_key=admin_key)]
    if proxied:
        parts.append(PROXY)
    if public:
        parts.append(UNPRICED.format(day=day))
    parts.append(PLUGINS)
    named = _named(ordered)
    for finding in ordered:
        if finding.offers:
            parts += _section(finding, named, day)
    return "".join(parts)


_Names = dict[str, list[tuple["Source", "Offer"]]]


def _distinct(findings: Sequence[Finding]) -> list[Finding]:
    """Those of the same name, engines on the same port of two machines, with a number behind."""
    names: set[str] = set()
    made = []
    for finding in findings:
        source, number = finding.source, 1
        while source.name in names:
            number += 1
            source = source.named(f"{finding.source.name}-{number}")
        names.add(source.name)
        made.append(msgspec.structs.replace(finding, source=source))
    return made


def _named(findings: Sequence[Finding]) -> _Names:
    """Public name -> who serves it: several engines, or one provider. What no name is left for,
    because others are called as it would have been, is left out."""
    named: _Names = {}
    for finding in findings:
        source = finding.source
        for offer in finding.offers:
            own = f"{source.name}/{offer.name}", offer.id, f"{source.name}/{offer.id}"
            for name in (offer.name, *own):
                taken = named.setdefault(name, [])
                if all(_alike(other, (source, offer)) for other in taken):
                    taken.append((source, offer))
                    break
    return named


def _alike(one: tuple[Source, Offer], other: tuple[Source, Offer]) -> bool:
    """Two engines of this house with the same model share its calls."""
    return (
        one[0].zone == other[0].zone == LOCAL
        and one[0] != other[0]
        and one[1].kind == other[1].kind
    )


def _section(finding: Finding, named: _Names, day: dt.date) -> list[str]:
    source = finding.source
    local = source.zone == LOCAL
    parts = [f"  # {source.name}: {source.base_url}\n"]
    if local:
        parts.append(LOCAL_NOTE)
    for name, servers in named.items():
        if servers[0][0] == source:
            parts.append(f"  {_literal(name)}:\n")
            if servers[0][1].kind == "embedding":
                parts.append("    kind: embedding\n")
            if local:
                parts.append(LOCAL_PRICE.format(day=day))
            parts.append("    deployments:\n")
            parts += [_deployment(*server, name) for server in servers]
    return [*parts, "\n"]


def _deployment(source: Source, offer: Offer, name: str) -> str:
    fields = [f"name: {source.name}", "backend: openai", f"zone: {source.zone}"]
    if offer.id != name:
        fields.append(f"model: {_quoted(offer.id)}")
    if source.variable:
        fields.append(f'credential: "${{{source.variable}}}"')
    fields.append(f"options: {{base_url: {_quoted(source.base_url)}}}")
    return f"      - {{{', '.join(fields)}}}\n"


def _quoted(text: str) -> str:
    """A value in double quotes that refers to no variable."""
    return _literal(text).replace("${", "$${")


def _literal(text: str) -> str:
    """A text in YAML's double quotes. JSON's would do but for characters beyond 16 bits."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped.encode("ascii", "backslashreplace").decode("ascii")}"'
