"""Certificates for tests, made anew in every session."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import pytest
import trustme

from llmgw_core.testing.transport_suite import TlsFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """A test class may name the event loop that its tests run on."""
    assert config is item.config
    cls = item.cls if isinstance(item, pytest.Function) else None
    return {"loop": getattr(cls, "loop_factory", asyncio.new_event_loop)}


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    directory: Path = tmp_path_factory.mktemp("tls")
    ca, other = trustme.CA(), trustme.CA()
    ca.cert_pem.write_to_path(directory / "ca.pem")
    other.cert_pem.write_to_path(directory / "other.pem")
    client = ca.issue_cert("client.example")
    client.cert_chain_pems[0].write_to_path(directory / "client.pem")
    client.private_key_pem.write_to_path(directory / "client.key")

    def server(name: str) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        ca.issue_cert(name).configure_cert(context)
        return context

    mutual = server("127.0.0.1")
    ca.configure_trust(mutual)
    mutual.verify_mode = ssl.CERT_REQUIRED
    return TlsFiles(
        ca=str(directory / "ca.pem"),
        other_ca=str(directory / "other.pem"),
        client_cert=str(directory / "client.pem"),
        client_key=str(directory / "client.key"),
        server=server("127.0.0.1"),
        other_host=server("other.example"),
        mutual=mutual,
    )
