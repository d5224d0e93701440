"""What a well-typed configuration may still get wrong."""

from __future__ import annotations

import datetime as dt

import pytest

from llmgw_core.config.errors import ConfigErrors
from llmgw_core.config.load import parse

TODAY = dt.date(2026, 1, 1)

PAID = (
    "a price that tenants pay cannot be negative; what a provider pays back stands in `cost`, with"
    " a `charge` of its own beside it."
)


def errors(text: str, *, unpriced: str = "zero") -> list[str]:
    sections = "" if "accounting:" in text else f"\naccounting: {{unpriced: {unpriced}}}"
    try:
        parse(text + sections, base_dir="/base", env={}, today=TODAY)
    except ConfigErrors as error:
        return str(error).split("\n")
    return []


def model(extra: str = "", deployment: str = "") -> str:
    return f"{{deployments: [{{name: a, backend: b, zone: z, {deployment}}}], {extra}}}"


def models(**texts: str) -> str:
    return "models:\n" + "".join(f"  {name}: {text}\n" for name, text in texts.items())


def test_a_sound_configuration_has_no_errors() -> None:
    text = models(
        a=model("fallbacks: [b, c], limits: {rpm: 1, tpm: 2, parallel: 3}"),
        b=model("fallbacks: [c]"),
        c=model(),
        e=model("kind: embedding, fallbacks: [f]"),
        f=model("kind: embedding"),
    )
    assert errors(text + "server: {port: 0, drain_seconds: 0}") == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            models(a=model("fallbacks: [b]"), xyz=model()),
            "models.a.fallbacks[0]: unknown model `b`; there are `a`, `xyz`.",
        ),
        (
            models(a=model("fallbacks: [modle]"), model=model()),
            "models.a.fallbacks[0]: unknown model `modle`; did you mean `model`?",
        ),
        (
            models(a=model("fallbacks: [a]")),
            "models.a.fallbacks[0]: a model cannot fall back to itself.",
        ),
        (
            models(a=model("fallbacks: [b, b]"), b=model()),
            "models.a.fallbacks: `b` is named 2 times; names must differ.",
        ),
        (
            models(a=model("fallbacks: [b]"), b=model("fallbacks: [c]"), c=model("fallbacks: [b]")),
            "models.b.fallbacks: fallbacks run in a circle (b → c → b); remove one of them.",
        ),
        (
            models(a=model("fallbacks: [e]"), e=model("kind: embedding")),
            (
                "models.a.fallbacks[0]: a model of kind `chat` cannot fall back to `e`, which is "
                "of kind `embedding`."
            ),
        ),
        ("models: {m: {deployments: []}}", "models.m: a model needs at least one deployment."),
        (
            "models: {'': {deployments: [{name: a, backend: b, zone: z}]}}",
            'models."": a model needs a name.',
        ),
        (
            (
                "models: {m: {deployments: [{name: a, backend: b, zone: z}, {name: a, backend: "
                "c, zone: z}]}}"
            ),
            "models.m.deployments: `a` is named 2 times; names must differ.",
        ),
        (
            models(m=model("", "weight: 0")),
            (
                "models.m.deployments[0].weight: must be at least 1; to take a deployment out of "
                "use, remove it."
            ),
        ),
        (
            "models: {m: {deployments: [{name: a/b, backend: b, zone: z}]}}",
            (
                "models.m.deployments[0].name: a deployment needs a name, and `/` cannot be part "
                "of it."
            ),
        ),
        (
            "models: {m: {deployments: [{name: a, backend: b, zone: ' '}]}}",
            (
                "models.m.deployments[0].zone: a deployment must say in which zone it is, e.g. "
                "`onprem`, `eu` or `world`."
            ),
        ),
        (
            models(m=model("limits: {rpm: 0}")),
            (
                "models.m.limits.rpm: must be at least 1; leave it out for no limit (0 would "
                "refuse every call: to switch a model off, remove it)."
            ),
        ),
        (
            models(m=model("limits: {parallel: -1}")),
            (
                "models.m.limits.parallel: must be at least 1; leave it out for no limit (0 "
                "would refuse every call: to switch a model off, remove it)."
            ),
        ),
        (
            models(m=model("", "timeouts: {idle: 0}")),
            "models.m.deployments[0].timeouts.idle: must be a number of seconds greater than 0.",
        ),
        (
            models(m=model("", "timeouts: {connect: 1e999}")),
            "models.m.deployments[0].timeouts.connect: must be a number of seconds greater than 0.",
        ),
        ("server: {port: 65536}", "server.port: must be from 1 to 65535, or 0 for any free port."),
        (
            "server: {workers: 2}",
            (
                "server.workers: must be 1: several workers need a limiter that they share, or "
                "each would grant the whole limit."
            ),
        ),
        ("server: {workers: 0}", "server.workers: must be 1."),
        (
            "server: {drain_seconds: -1}",
            "server.drain_seconds: must be a number of seconds, 0 or more.",
        ),
        ("server: {host: ''}", "server.host: must not be empty; leave it out for the default."),
        (
            "store: {staleness: 0}",
            "store.staleness: must be a number of seconds greater than 0.",
        ),
        ("store: {serve_stale: -1}", "store.serve_stale: must be a number of seconds, 0 or more."),
        ("requests: {attempts: 0}", "requests.attempts: must be greater than 0."),
        (
            "accounting: {segment_bytes: 0}",
            "accounting.segment_bytes: must be a number of bytes greater than 0.",
        ),
        ("plugins: [{name: a}, {name: a}]", "plugins: `a` is named 2 times; names must differ."),
        ("plugins: [{name: ''}]", "plugins[0].name: a plugin needs a name."),
        (
            "plugins: [{name: a, timeout: 0}]",
            "plugins[0].timeout: must be a number of seconds greater than 0.",
        ),
        (
            models(m=model("prices: [{from: 2025-01-02, cost: {}}, {from: 2025-01-02, cost: {}}]")),
            "models.m.prices[1].from: there are two entries from 2025-01-02; only one can hold.",
        ),
        (
            models(
                m=model("", "prices: [{from: 2025-01-02, cost: {}}, {from: 2025-01-01, cost: {}}]")
            ),
            (
                "models.m.deployments[0].prices[1].from: entries must be in the order of their "
                "dates, the earliest first."
            ),
        ),
        (
            models(m=model("prices: [{cost: {input: 1}, charge: {output: -1}}]")),
            f"models.m.prices[0].charge.output: {PAID}",
        ),
    ],
)
def test_each_mistake_is_one_sentence_with_its_place(text: str, sentence: str) -> None:
    assert errors(text) == [sentence]


def test_all_mistakes_are_reported_together() -> None:
    text = models(a=model("fallbacks: [x]", "weight: 0")) + "server: {workers: 2, port: -1}"
    assert len(errors(text)) == 4


def test_circles_of_fallbacks_are_each_found_once() -> None:
    text = models(
        a=model("fallbacks: [b]"),
        b=model("fallbacks: [a]"),
        c=model("fallbacks: [d, a]"),
        d=model("fallbacks: [e]"),
        e=model("fallbacks: [c]"),
    )
    assert errors(text) == [
        "models.a.fallbacks: fallbacks run in a circle (a → b → a); remove one of them.",
        "models.c.fallbacks: fallbacks run in a circle (c → d → e → c); remove one of them.",
    ]


REMEDY = (
    "add `prices` to the model or the deployment,"
    " or set `accounting.unpriced: zero` to book such calls at zero."
)


def test_a_model_without_a_price_is_refused_with_both_remedies() -> None:
    assert errors(models(m=model()), unpriced="refuse") == [
        f"models.m.deployments[0]: has no price: {REMEDY}"
    ]
    assert errors(models(m=model()), unpriced="zero") == []


def test_a_price_that_begins_tomorrow_is_none_today() -> None:
    future = models(m=model("prices: [{from: 2026-01-02, cost: {}}]"))
    assert errors(future, unpriced="refuse") == [
        f"models.m.deployments[0]: has no price that is valid today (2026-01-01): {REMEDY}"
    ]
    own = models(
        m=model("prices: [{from: 2026-01-02, cost: {}}]", "prices: [{from: 2026-01-01, cost: {}}]")
    )
    assert errors(own, unpriced="refuse") == []


@pytest.mark.parametrize(
    ("section", "path"),
    [
        ("{minimum_group: 0}", "reports.minimum_group: must be at least 1"),
        ("{users: true, minimum_group: 5}", "reports.minimum_group: protects nobody while"),
        ("{users: 1}", "reports.users"),
        ("{minimum_group: 2.5}", "reports.minimum_group"),
        ("{minimum: 5}", "reports"),
    ],
)
def test_reports_that_promise_what_they_do_not_keep_are_refused(section: str, path: str) -> None:
    assert any(path in error for error in errors(f"reports: {section}"))
    assert errors("reports: {minimum_group: 5, cost_header: true}") == []
    assert errors("reports: {users: true}") == []
