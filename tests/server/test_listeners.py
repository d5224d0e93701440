"""Listeners of their own for admin pages and metrics, unix sockets, and the admin pages."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.config.schema import ListenerConfig, ServerConfig, TlsConfig
from llmgw_core.gateway import Gateway
from llmgw_core.testing.installation import at
from llmgw_server.app import Application, create_app
from llmgw_server.listening import ServeError, bind_unix, open_listeners
from llmgw_server.pages import Page

from .conftest import Authority, Entrance, port_of, read_reply, reply, running

if TYPE_CHECKING:
    from pathlib import Path

    from llmgw_core.domain.call import Body, Head, Sink
    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer

KEY = "an admin key of some length"
PATHS = ("/v1/models", "/metrics", "/admin/v1/status", "/health/live")


def get(path: str, key: str = KEY, method: str = "GET") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\n"
    return f"{head}content-length: 0\r\n\r\n".encode()


async def ok(head: Head, body: Body, sink: Sink) -> None:
    await reply(sink, b"ok")


async def test_each_listener_serves_its_own_pages_and_no_others(
    kind: str, authority: Authority, installed: Install, server: ModelServer
) -> None:
    certificate, key = authority.issue("server")
    settings = ServerConfig(
        port=0,
        admin=ListenerConfig(tls=TlsConfig(certificate, key)),
        metrics=ListenerConfig(),
        admin_key=KEY,
    )
    installation = await installed({"m": [at(server)]}, server=settings)
    async with running(create_app(installation.gateway), kind, configured=True) as served:
        public, admin, metrics = served.urls
        assert admin.startswith("https:")
        found: dict[str, list[tuple[str, int]]] = {}
        for url in served.urls:
            options: Any = {"ssl": authority.trusting()} if url is admin else {}
            found[url] = []
            for path in PATHS:
                answer = await served.exchange(get(path), port_of(url), **options)
                if answer[0] == 404:
                    assert json.loads(answer[2])["error"]["code"] == "not_found"
                else:
                    found[url].append((path, answer[0]))
        assert found == {
            public: [("/v1/models", 401), ("/health/live", 200)],
            admin: [("/admin/v1/status", 200), ("/health/live", 200)],
            metrics: [("/metrics", 200), ("/health/live", 200)],
        }


async def test_a_path_that_is_nearly_one_of_ours_leads_nowhere(kind: str) -> None:
    entrance = Entrance(ok, port=0, admin_key=KEY)
    async with running(entrance.application(), kind, configured=True) as served:
        for path in ("/docs/", "/health/live/", "/admin/v1/status/", "//metrics", "/%2e/metrics"):
            status, headers, body = await served.exchange(get(path))
            assert (status, "location" in headers) == (404, False)
            assert json.loads(body)["error"]["code"] == "not_found"


async def test_without_listeners_of_their_own_all_pages_are_on_the_public_one(
    kind: str, installed: Install, server: ModelServer
) -> None:
    installation = await installed({"m": [at(server)]}, server=ServerConfig(port=0, admin_key=KEY))
    async with running(create_app(installation.gateway), kind, configured=True) as served:
        statuses = [(await served.exchange(get(path)))[0] for path in PATHS]
    assert statuses == [401, 200, 200, 200]


async def test_the_application_alone_serves_what_no_other_listener_has(
    installed: Install, server: ModelServer
) -> None:
    """Under somebody else's ASGI server there is only one listener."""
    settings = ServerConfig(admin_key=KEY, admin=ListenerConfig(port=1))
    installation = await installed({"m": [at(server)]}, server=settings)
    async with running(create_app(installation.gateway), "uvicorn, ASGI only") as served:
        statuses = [(await served.exchange(get(path)))[0] for path in PATHS]
    assert statuses == [401, 200, 404, 200]


async def test_a_unix_socket_is_as_good_as_a_port(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "public.sock"
    entrance = Entrance(ok, unix=str(path))
    for _ in range(2):  # the second one finds what the first has left
        async with running(entrance.application(), kind, configured=True) as served:
            assert served.urls == [f"unix:{path}"]
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(get("/v1/x"))
            assert (await read_reply(reader))[2] == b"ok"
            writer.close()
            await writer.wait_closed()
        assert not path.exists()
        left = socket.socket(socket.AF_UNIX)
        left.bind(str(path))
        left.close()


def test_a_unix_socket_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(ServeError, match=r"Somebody listens on .* already"):
            bind_unix(str(path))
    file = tmp_path / "file"
    file.write_text("not a socket")
    with pytest.raises(ServeError, match=r"Cannot listen on .*file: Address already in use"):
        bind_unix(str(file))
    with pytest.raises(ServeError, match=r"Cannot listen on .*: "):
        bind_unix(str(tmp_path / ("x" * 200)))
    assert file.read_text() == "not a socket"


async def test_a_port_that_is_taken_closes_the_others() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = Entrance(ok, port=0, metrics=ListenerConfig(port=port)).config.server
        with pytest.raises(ServeError, match=f"Port {port} on 127.0.0.1 is already in use"):
            open_listeners(settings, server="uvicorn")


# ------------------------------------------------------------------------ admin pages


async def test_admin_pages_say_what_runs_and_how_it_is(
    kind: str, installed: Install, server: ModelServer
) -> None:
    installation = await installed({"m": [at(server)]}, server=ServerConfig(port=0, admin_key=KEY))
    application = create_app(installation.gateway)
    async with running(application, kind, configured=True) as served:
        status, headers, body = await served.exchange(get("/admin/v1/plugins"))
        assert status == 200
        assert "x-request-id" in headers
        assert [row["name"] for row in json.loads(body)["data"]] == ["canonical"]
        state = json.loads((await served.exchange(get("/admin/v1/status")))[2])
        assert state["ready"]
        assert state["reasons"] == []
        assert (state["calls_in_flight"], state["requests_in_flight"]) == (0, 0)
        assert isinstance(state["version"], str)
        application.draining = True
        state = json.loads((await served.exchange(get("/admin/v1/status")))[2])
        assert state["reasons"] == ["The server is about to end."]
        assert (await served.exchange(get("/health/ready")))[0] == 503
        status, headers, _ = await served.exchange(get("/admin/v1/status", method="POST"))
        assert (status, "get" in headers["allow"]) == (405, True)
        assert (await served.exchange(get("/admin/v1/none")))[0] == 404


async def test_a_reload_is_asked_for_and_a_configuration_that_is_wrong_is_said(
    kind: str, tmp_path: Path
) -> None:
    file = tmp_path / "llmgw.yaml"
    text = f"server: {{port: 0, admin_key: {KEY}}}\n"
    file.write_text(text)
    async with (
        Gateway.open(file) as gateway,
        running(create_app(gateway), kind, configured=True) as served,
    ):
        reload = get("/admin/v1/reload", method="POST")
        assert (await served.exchange(get("/admin/v1/reload")))[0] == 405
        assert (await served.exchange(get("/admin/v1/reload", "wrong", "POST")))[0] == 401
        file.write_text(text + "requests: {body_bytes: 5}\n")
        status, _, body = await served.exchange(reload)
        assert (status, json.loads(body)["generation"]) == (200, 2)
        assert gateway.config.requests.body_bytes == 5
        file.write_text(text + "requests: {body_bytes: many}\n")
        status, _, body = await served.exchange(reload)
        error = json.loads(body)["error"]
        assert (status, error["code"]) == (409, "configuration_refused")
        assert "requests.body_bytes: expected `int`, got `str`" in error["message"]
        state = json.loads((await served.exchange(get("/admin/v1/status")))[2])
        assert state["generation"] == 2
        _, _, body = await served.exchange(get("/admin/v1/config/history"))
        kept = json.loads(body)["data"]
        assert [(entry["number"], entry["trigger"]) for entry in kept][1:] == [(2, "admin API")]
        assert "text" not in kept[0]


async def test_every_listener_describes_what_it_serves_and_needs_nothing_from_elsewhere(
    kind: str,
) -> None:
    entrance = Entrance(ok, port=0, admin_key=KEY, admin=ListenerConfig())
    async with running(entrance.application(), kind, configured=True) as served:
        found = []
        for url in served.urls:
            _, _, body = await served.exchange(get("/openapi.json"), port_of(url))
            described = json.loads(body)
            assert described["openapi"] == "3.1.0"
            found.append(described["paths"])
            for path, operations in described["paths"].items():
                if path == "/metrics":
                    continue  # needs more of a gateway than this test has
                for method, operation in operations.items():
                    raw = get(path.replace("{model}", "m"), "wrong", method.upper())
                    status = (await served.exchange(raw, port_of(url)))[0]
                    # The entrance of this test lets everybody in; admin pages do not.
                    admin = {"admin_key": []} in operation.get("security", [])
                    assert status == (401 if admin else 200), path
            status, headers, page = await served.exchange(get("/docs"), port_of(url))
            assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
            text = page.decode()
            assert all(path in text for path in described["paths"])
            assert "//" not in text
            assert "<script" not in text
    public, admin_paths = found
    assert {"/v1/chat/completions", "/v1/models/{model}", "/metrics"} <= set(public)
    for path in ("/v1/chat/completions", "/v1/models"):
        for operation in public[path].values():
            assert "x-llmgw-zone" in [each["name"] for each in operation["parameters"]]
    assert not [path for path in public if path.startswith("/admin")]
    assert {"/admin/v1/status", "/admin/v1/reload", "/health/ready"} <= set(admin_paths)
    calls = [path for path in admin_paths if path.startswith("/v1")]
    assert all(path.startswith("/v1/organization/") for path in calls)


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "authorization: Bearer wrong\r\n",
        f"authorization: Basic {KEY}\r\n",
        f"x-api-key: {KEY}\r\n",
    ],
)
async def test_without_the_admin_key_there_is_nothing_to_see(authorization: str) -> None:
    entrance = Entrance(ok, admin_key=KEY)
    async with running(entrance.application(), "uvicorn") as served:
        for path in ("plugins", "status"):
            raw = f"GET /admin/v1/{path} HTTP/1.1\r\nhost: a\r\n{authorization}\r\n"
            status, headers, body = await served.exchange(raw.encode())
            error = json.loads(body)["error"]
            assert (status, error["code"]) == (401, "invalid_admin_key")
            assert error["request_id"] == headers["x-request-id"]
            assert headers["www-authenticate"] == "bearer"


async def test_without_a_configured_key_admin_pages_do_not_exist_and_the_log_says_how(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(Entrance(ok).application(), kind) as served:
        for _ in range(2):
            status, _, body = await served.exchange(get("/admin/v1/status", ""))
            assert (status, json.loads(body)["error"]["code"]) == (404, "not_found")
    assert caplog.text.count("give server.admin_key to have them") == 1


def test_every_page_declares_who_may_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Page] = []
    original = Page.__init__

    def recorded(self: Page, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        made.append(self)

    monkeypatch.setattr(Page, "__init__", recorded)
    application: Application = Entrance(ok, admin_key=KEY).application()
    surface = application._surface
    assert surface is not None
    assert all(isinstance(route, Page) for route in surface._pages.routes)
    admin = {page.path for page in made if page.access == "admin"}
    below = ("/admin/", "/v1/organization/")
    assert admin == {page.path for page in made if page.path.startswith(below)}
    assert admin


def test_an_admin_page_without_a_key_lets_nobody_in() -> None:
    page = Page("/x", ok, access="admin")  # type: ignore[arg-type]
    assert not page._is_admin({"type": "http", "headers": [(b"authorization", b"Bearer ")]})
