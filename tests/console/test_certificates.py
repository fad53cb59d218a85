"""Elsewhere than on loopback, people sign in with the client certificates of the client API."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import httpx
import pytest
import trustme
from aiohttp import web

from tests.support.broker import RunningBroker, running_broker
from tests.support.certificates import Certificates
from tests.support.console import Person
from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py._generated import verdictd_v1_pb2_grpc as v1_grpc
from verdictd_py.console.language import ENGLISH
from verdictd_py.console.receiving import Received
from verdictd_py.console.server import ConsoleListener
from verdictd_py.errors import ConfigError
from verdictd_py.simulator import SimulatedPlatform

SETTINGS: dict[str, Any] = {"console": "0.0.0.0:0"}  # with TLS


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates.make(tmp_path)


@asynccontextmanager
async def someone(
    broker: RunningBroker, certificates: Certificates, certificate: trustme.LeafCert | None
) -> AsyncIterator[Person]:
    context = ssl.create_default_context(cadata=certificates.ca.cert_pem.bytes().decode())
    if certificate is not None:
        with certificate.private_key_and_cert_chain_pem.tempfile() as file:
            context.load_cert_chain(file)
    port = broker.daemon.listener("console").address.port
    url = f"https://127.0.0.1:{port}"
    async with httpx.AsyncClient(
        base_url=url, verify=context, trust_env=False, timeout=60
    ) as client:
        yield Person(client)


async def test_without_tls_the_broker_does_not_start(
    tmp_path: Path, platform: SimulatedPlatform
) -> None:
    with pytest.raises(ConfigError, match="--client-api-cert, -key, -ca and -roles"):
        async with running_broker(tmp_path, platform, **SETTINGS):
            pass


async def test_a_certificate_has_the_role_of_its_name(
    tmp_path: Path, platform: SimulatedPlatform, certificates: Certificates
) -> None:
    issue = certificates.ca.issue_cert
    settings = {**SETTINGS, **certificates.settings}
    async with running_broker(tmp_path, platform, **settings) as broker:
        async with someone(broker, certificates, issue(common_name="ops")) as operator:
            page = await operator.text("/")
            assert "certificate ops" in page
            assert "/logout" not in page
            created = await operator.send("/keys", "/keys/create", [("name", "a/b/c")])
            assert created.status_code == 303
            other = await operator.get("/", headers={"Host": "evil.example"})
            assert other.status_code == 403
        for name in ("farm", "stranger"):
            async with someone(broker, certificates, issue(common_name=name)) as refused:
                assert (await refused.get("/")).status_code == 403
        foreign = trustme.CA().issue_cert(common_name="ops")
        for certificate in (None, foreign):
            async with someone(broker, certificates, certificate) as stranger:
                with pytest.raises(httpx.TransportError):
                    await stranger.get("/")
        assert [e["caller"] for e in broker.events.named("key.created")] == ["certificate ops"]


async def test_a_role_that_ends_ends_the_rights_at_once(
    tmp_path: Path, platform: SimulatedPlatform, certificates: Certificates
) -> None:
    settings = {**SETTINGS, **certificates.settings}
    issued = certificates.ca.issue_cert(common_name="ops")
    async with (
        running_broker(tmp_path, platform, reread=lambda s: s, **settings) as broker,
        someone(broker, certificates, issued) as operator,
    ):
        assert (await operator.get("/")).status_code == 200
        roles: Path = certificates.settings["client_api_roles"]
        roles.write_text('[roles]\nops = "wrap"\n')
        await broker.daemon.reload()
        assert (await operator.get("/")).status_code == 403


async def test_a_certificate_gets_no_link(
    tmp_path: Path, platform: SimulatedPlatform, certificates: Certificates
) -> None:
    """A session would not notice that the role of the certificate has ended."""
    credentials = certificates.credentials(certificates.ca.issue_cert(common_name="ops"))
    for address in ("127.0.0.1:0", "0.0.0.0:0"):
        settings = {"console": address, **certificates.settings}
        async with running_broker(tmp_path, platform, **settings) as broker:
            async with grpc.aio.secure_channel(broker.client_api, credentials) as channel:
                stub = v1_grpc.ConsoleServiceStub(channel)
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await stub.CreateLink(v1.CreateLinkRequest())
            assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_client_that_has_gone_is_no_defect(
    tmp_path: Path, platform: SimulatedPlatform, certificates: Certificates
) -> None:
    """A request can wait for its turn, and the connection, with its certificate, can end before."""
    settings = {**SETTINGS, **certificates.settings}
    async with running_broker(tmp_path, platform, **settings) as broker:
        listener = broker.daemon.listener("console")
        assert isinstance(listener, ConsoleListener)
        request = cast("web.Request", SimpleNamespace(transport=None, method="POST"))
        gone = Received(request, ENGLISH)
        assert listener.people.session(gone) is None
