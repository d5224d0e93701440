"""All hooks there are, in the order in which one gateway and one call run them, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.config.schema import PluginConfig
from llmgw_core.domain.errors import GatewayError
from llmgw_core.domain.reply import Reply
from llmgw_core.hooks.specs import HOOK_KINDS, hookimpl
from llmgw_core.tenancy.records import ORGANIZATION
from llmgw_core.testing.canonical_plugin import CanonicalBackend
from llmgw_core.testing.installation import at, served_by
from llmgw_core.testing.model_server import completion
from llmgw_core.testing.plugins import Recorder
from llmgw_core.testing.reloads import settled, with_models
from llmgw_core.testing.upstream import http_reply, repeating

if TYPE_CHECKING:
    from llmgw_core.domain.usage import EndedAttempt
    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer
    from llmgw_core.testing.upstream import Scripted

Events = list[tuple[str, str]]


class _Tagged(list[tuple[str, Any]]):
    """Notes in one list for all plugins."""

    def __init__(self, name: str, events: Events) -> None:
        super().__init__()
        self._name = name
        self._events = events

    def append(self, item: tuple[str, Any]) -> None:
        self._events.append((self._name, item[0]))


def recorder(name: str, events: Events) -> type[Any]:
    class Named(Recorder):
        def __init__(self, config: None, context: Any) -> None:
            super().__init__(config, context)
            self.events = _Tagged(name, events)

        @hookimpl
        def register_backends(self) -> Any:
            self.events.append(("register_backends", None))
            return ()

        @hookimpl
        def register_balancers(self) -> Any:
            self.events.append(("register_balancers", None))
            return {}

        @hookimpl
        def register_limiters(self) -> Any:
            self.events.append(("register_limiters", None))
            return {}

        @hookimpl
        def register_queues(self) -> Any:
            self.events.append(("register_queues", None))
            return {}

        @hookimpl
        def register_prices(self) -> Any:
            self.events.append(("register_prices", None))
            return {}

        @hookimpl
        def register_tokenizers(self) -> Any:
            self.events.append(("register_tokenizers", None))
            return {}

    return Named


def both(hook: str) -> Events:
    return [("1", hook), ("2", hook)]


def back(hook: str) -> Events:
    return both(hook)[::-1]


@pytest.mark.parametrize("stream", [False, True])
async def test_every_hook_in_its_order_and_in_reverse_on_the_way_back(
    installed: Install, server: ModelServer, stream: bool
) -> None:
    events: Events = []
    here = await installed(
        {"m": [at(server)]},
        plugins=[("one", recorder("1", events)), ("two", recorder("2", events))],
    )
    reply = await here.client.chat("m", stream=stream)
    await here.gateway.tenancy.create_organization("other", actor="test")
    await here.gateway.host.shutdown(5.0)
    assert reply.status == 200
    kinds = ("backends", "balancers", "limiters", "queues", "prices", "tokenizers")
    registering = tuple(f"register_{kind}" for kind in kinds)
    assert events == [
        *(("1", hook) for hook in registering),
        *(("2", hook) for hook in registering),
        *both("startup"),
        *both("pre_auth"),
        *both("authenticate"),
        *both("authorize"),
        *both("pre_route"),
        *(back("open_stream") if stream else []),
        *back("post_process"),
        *both("on_attempt"),
        *both("on_usage"),
        *both("on_audit"),
        *back("shutdown"),
    ]
    never = {"deployments_added", "deployments_dropped", "on_health"} | (
        set() if stream else {"open_stream"}
    )
    assert {hook for _, hook in events} == set(HOOK_KINDS) - never


def following(name: str, events: Events) -> type[Any]:
    """A plugin with a backend of that name that notes what it hears of deployments."""

    class Following:
        def __init__(self, config: None, context: Any) -> None:
            self.backend = CanonicalBackend()
            self.backend.name = name

        @hookimpl
        def register_backends(self) -> Any:
            return [self.backend]

        @hookimpl
        def startup(self) -> None:
            events.append((name, "startup"))

        @hookimpl
        def deployments_added(self) -> None:
            events.append((name, "deployments_added"))

        @hookimpl
        def deployments_dropped(self) -> None:
            events.append((name, "deployments_dropped"))

    return Following


async def test_a_reload_adds_deployments_in_order_and_drops_them_in_reverse(
    installed: Install, server: ModelServer
) -> None:
    def models(upstream: str) -> dict[str, Any]:
        a = at(server, model=upstream)
        return {f"m{name}": [msgspec.structs.replace(a, backend=name)] for name in "12"}

    events: Events = []
    here = await installed(models("a"), plugins=[(f"p{n}", following(n, events)) for n in "12"])
    await here.gateway.reload(with_models(here, **models("b")))
    await settled(lambda: here.gateway.generations == 1)
    assert events == [*both("startup"), *both("deployments_added"), *back("deployments_dropped")]


def passing(name: str, events: Events, answer: Any = None, *, pre: bool = True) -> type[Any]:
    """A plugin that notes both ways and gives `answer` in `pre_route`, if it has one."""

    class Passing:
        def __init__(self, config: None, context: Any) -> None:
            pass

        @hookimpl
        def post_process(self) -> None:
            events.append((name, "post_process"))

    class Both(Passing):
        @hookimpl
        def pre_route(self) -> Any:
            events.append((name, "pre_route"))
            if isinstance(answer, Exception):
                raise answer
            return answer

    return Both if pre else Passing


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_goes_back_through_those_that_it_passed_and_those_that_only_judge(
    installed: Install, server: ModelServer, stream: bool
) -> None:
    events: Events = []
    answer = Reply(msgspec.json.encode(completion("Cached")), None)
    here = await installed(
        {"m": [at(server)]},
        plugins=[
            ("a", passing("a", events)),
            ("cache", passing("cache", events, answer)),
            ("skipped", passing("skipped", events)),
            ("judge", passing("judge", events, pre=False)),
        ],
    )
    assert (await here.client.chat("m", stream=stream)).status == 200
    assert events == [
        ("a", "pre_route"),
        ("cache", "pre_route"),
        ("judge", "post_process"),
        ("cache", "post_process"),
        ("a", "post_process"),
    ]
    assert server.requests == []


async def test_a_rejection_goes_back_to_nobody(installed: Install, server: ModelServer) -> None:
    events: Events = []
    here = await installed(
        {"m": [at(server)]},
        plugins=[
            ("a", passing("a", events)),
            ("guard", passing("guard", events, GatewayError(400, "x", "No."))),
            ("judge", passing("judge", events, pre=False)),
        ],
    )
    assert (await here.client.chat("m")).status == 400
    assert events == [("a", "pre_route"), ("guard", "pre_route")]


async def test_a_plugin_that_fails_and_may_judges_nevertheless(
    installed: Install, server: ModelServer
) -> None:

    events: Events = []
    here = await installed(
        {"m": [at(server)]},
        plugins=[("a", passing("a", events, ValueError()))],
        sections=[PluginConfig("a", on_error="open")],
    )
    assert (await here.client.chat("m")).status == 200
    assert events == [("a", "pre_route"), ("a", "post_process")]


async def test_observers_hear_of_every_attempt_when_it_ends(
    installed: Install, server: ModelServer, scripted: Scripted
) -> None:
    heard: list[EndedAttempt] = []

    class Observer:
        def __init__(self, config: None, context: Any) -> None:
            pass

        @hookimpl
        async def on_attempt(self, record: EndedAttempt) -> None:
            heard.append(record)

    broken = await scripted(repeating(http_reply(503, b"{}")))
    here = await installed(
        {"m": served_by(at(broken), fallbacks=("n",)), "n": [at(server)]},
        plugins=[("observer", Observer)],
    )
    assert (await here.client.chat("m")).status == 200
    await here.gateway.host.shutdown(5.0)
    [record] = await here.records()
    assert [(each.number, each.deployment, each.outcome, each.status) for each in heard] == [
        (1, "m/a", "overloaded", 503),
        (2, "n/a", "ok", 200),
    ]
    assert {each.call_id for each in heard} == {record.call_id}
    assert [
        (each.deployment, each.model, each.outcome, each.status, each.duration_us, each.cost)
        for each in heard
    ] == [
        (each.deployment, each.model, each.outcome, each.status, each.duration_us, each.cost)
        for each in record.attempts
    ]
    assert (heard[1].charge, heard[1].duration_us > 0) == (record.charge, True)


async def test_observers_hear_of_changes_that_are_in_the_database_and_of_no_others(
    installed: Install, server: ModelServer
) -> None:
    heard: list[Any] = []

    class Observer:
        def __init__(self, config: None, context: Any) -> None:
            pass

        @hookimpl
        def on_audit(self, entry: Any) -> None:
            heard.append(entry)

    here = await installed({"m": [at(server)]}, plugins=[("observer", Observer)])
    tenancy = here.gateway.tenancy
    made = await tenancy.create_organization("other", actor="ann")
    with pytest.raises(Exception, match="taken already"):
        await tenancy.create_organization("other", actor="ann")

    await tenancy.delete(ORGANIZATION, made.id, actor="ben")
    await here.gateway.host.shutdown(5.0)
    assert [(entry.actor, entry.action, entry.object_id) for entry in heard] == [
        ("ann", "create", made.id),
        ("ben", "delete", made.id),
    ]
    assert heard == (await tenancy.list_audit(limit=2))[::-1]
