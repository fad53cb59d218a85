"""TLS to a PCCS as sites operate it: pins, private CAs, and what an operator reads if it fails."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.daemon.test_siteproxy import set_only
from tests.support.broker import running_broker
from tests.support.openssl import OPENSSL
from tests.support.pccs import Pccs, running_pccs
from verdictd_py import daemon as app
from verdictd_py.config import Settings
from verdictd_py.daemon.http import collateral_get, http_client
from verdictd_py.errors import CollateralUnavailable, ConfigError
from verdictd_py.ports.tees import HttpAnswer
from verdictd_py.simulator import SimulatedPlatform

PATH = "/sgx/certification/v4/rootcacrl"


@dataclass
class Certificate:
    """A server's certificate and key as files."""

    pem: Path
    key: Path

    @property
    def digest(self) -> str:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.pem.read_text())).hexdigest()

    @property
    def key_digest(self) -> str:
        key = x509.load_pem_x509_certificate(self.pem.read_bytes()).public_key()
        info = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return hashlib.sha256(info).hexdigest()

    def context(self) -> ssl.SSLContext:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(self.pem, self.key)
        return tls


def openssl(*words: str) -> None:
    assert OPENSSL is not None
    subprocess.run([OPENSSL, *words], check=True, capture_output=True)


def self_signed(directory: Path, name: str = "pccs") -> Certificate:
    """Return a certificate as the installer of Intel's PCCS creates it: no SAN, no key usage."""
    pem, key = directory / f"{name}.pem", directory / f"{name}.key"
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    files = ("-keyout", str(key), "-out", str(pem))
    openssl("req", "-x509", *curve, *files, "-days", "2", "-subj", "/CN=localhost")
    return Certificate(pem, key)


def issued(directory: Path, ca: Certificate) -> Certificate:
    """Return a certificate for 127.0.0.1 that this CA issued."""
    pem, key, request = (directory / f"issued.{end}" for end in ("pem", "key", "csr"))
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", *curve, "-keyout", str(key), "-out", str(request), "-subj", "/CN=pccs")
    extensions = directory / "extensions"
    extensions.write_text(
        "subjectAltName=IP:127.0.0.1\nauthorityKeyIdentifier=keyid\nbasicConstraints=CA:FALSE\n"
    )
    signer = ("-CA", str(ca.pem), "-CAkey", str(ca.key), "-CAcreateserial", "-days", "2")
    files = ("-in", str(request), "-out", str(pem), "-extfile", str(extensions))
    openssl("x509", "-req", *signer, *files)
    return Certificate(pem, key)


@asynccontextmanager
async def pccs_with(certificate: Certificate | None) -> AsyncIterator[Pccs]:
    platform = SimulatedPlatform.create(now=app.utc_now())
    tls = None if certificate is None else certificate.context()
    async with running_pccs(platform, tls) as pccs:
        yield pccs


async def requested(url: str, **settings: Any) -> HttpAnswer:
    """Request the root CRL of a service, as the daemon does."""
    chosen = Settings(**{"collateral_url": (url,), **settings})
    async with http_client(chosen) as client:
        return await collateral_get(client, chosen)(url + PATH)


async def problem_of(url: str, **settings: Any) -> str:
    with pytest.raises(CollateralUnavailable) as caught:
        await requested(url, **settings)
    return str(caught.value)


# Pins.


@pytest.mark.parametrize("kind", ["certificate", "key", "with colons"])
async def test_a_pinned_certificate_needs_neither_name_nor_ca(tmp_path: Path, kind: str) -> None:
    certificate = self_signed(tmp_path)
    digest = certificate.key_digest if kind == "key" else certificate.digest
    if kind == "with colons":
        digest = ":".join(digest[at : at + 2] for at in range(0, 64, 2)).upper()
    async with pccs_with(certificate) as pccs:
        assert "not trusted" in await problem_of(pccs.url)
        pins = Settings._check_pins((digest,))
        assert (await requested(pccs.url, collateral_pin=pins)).status == 200


async def test_another_certificate_than_the_pinned_one_gets_no_request(tmp_path: Path) -> None:
    """Not even a subscription key, and not even if a trusted CA issued it."""
    pinned = self_signed(tmp_path)
    ca = self_signed(tmp_path, "ca")
    other = issued(tmp_path, ca)
    (tmp_path / "key").write_text("0123456789abcdef\n")
    async with pccs_with(other) as pccs:
        text = await problem_of(
            pccs.url,
            collateral_pin=(pinned.digest,),
            collateral_ca=ca.pem,
            collateral_api_key_file=tmp_path / "key",
        )
        assert pccs.headers == []
    assert text == (
        f"the certificate is not the pinned one, its SHA-256 is {other.digest}; "
        "check --collateral-pin"
    )


async def test_a_pin_weakens_no_other_host(tmp_path: Path) -> None:
    """The first pin is for the first URL only: neither for another URL nor another port."""
    certificate = self_signed(tmp_path)
    async with pccs_with(certificate) as first, pccs_with(certificate) as second:
        settings: dict[str, Any] = {
            "collateral_url": (first.url, second.url),
            "collateral_pin": (certificate.digest,),
        }
        assert (await requested(first.url, **settings)).status == 200
        assert "not trusted" in await problem_of(second.url, **settings)
        settings["collateral_pin"] = (certificate.digest, certificate.key_digest)
        assert (await requested(second.url, **settings)).status == 200


async def test_a_pin_is_checked_behind_a_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy tunnels to the service, and cannot read the request."""
    certificate = self_signed(tmp_path)
    async with pccs_with(certificate) as pccs, running_proxy(pccs) as proxy:
        set_only(monkeypatch, {"HTTPS_PROXY": proxy})
        url = "https://pccs.invalid:8081"
        answer = await requested(url, collateral_pin=(certificate.digest,))
        assert answer.status == 200
        wrong = "00" * 32
        text = await problem_of(url, collateral_pin=(wrong,))
    assert text.endswith("check --collateral-pin, through the proxy of HTTPS_PROXY")


async def test_a_proxy_with_tls_is_verified_with_the_sites_ca_and_never_with_a_pin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned, ca = self_signed(tmp_path), self_signed(tmp_path, "ca")
    url = "https://pccs.invalid:8081"
    settings: dict[str, Any] = {"collateral_pin": (pinned.digest,), "collateral_ca": ca.pem}
    for certificate, trusted in ((issued(tmp_path, ca), True), (pinned, False)):
        async with (
            pccs_with(pinned) as pccs,
            running_proxy(pccs, certificate.context()) as proxy,
        ):
            set_only(monkeypatch, {"HTTPS_PROXY": proxy})
            if trusted:
                assert (await requested(url, **settings)).status == 200
            else:
                assert "not trusted" in await problem_of(url, **settings)


@asynccontextmanager
async def running_proxy(pccs: Pccs, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Serve a proxy that connects every tunnel to this PCCS; yield its URL."""
    serving: set[asyncio.Task[Any] | None] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"CONNECT pccs.invalid:8081 ")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        port = int(pccs.url.rpartition(":")[2])
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(
            pump(reader, inner_writer), pump(inner_reader, writer), return_exceptions=True
        )

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield f"{'http' if tls is None else 'https'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await asyncio.gather(*(task for task in serving if task is not None))


async def test_a_broker_with_a_pin_serves_guests(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)
    async with pccs_with(certificate) as pccs:
        settings: dict[str, Any] = {
            "collateral": None,
            "collateral_url": (f"{pccs.url}/sgx/certification/v4/",),
            "collateral_pin": (certificate.digest,),
        }
        async with (
            running_broker(tmp_path, pccs.platform, **settings) as broker,
            broker.guest() as guest,
        ):
            assert await guest.version() == "v1"


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"collateral_url": ("http://127.0.0.1:1",)}, "needs an https:// URL"),
        ({"collateral_url": ()}, "more pins than --collateral-url has URLs"),
    ],
)
def test_a_pin_without_its_url_is_reported_at_start(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        http_client(Settings(**settings, collateral_pin=("00" * 32,)))


@pytest.mark.parametrize("pin", ["", "00", "g" * 64, "sha256//abc"])
def test_a_malformed_pin_is_reported_with_the_remedy(pin: str) -> None:
    with pytest.raises(ValueError, match="openssl x509 -noout -fingerprint -sha256"):
        Settings._check_pins((pin,))


# A private CA.


@pytest.mark.parametrize("strict", [False, True], ids=["Python 3.11", "Python 3.13"])
async def test_a_ca_without_key_usage_is_accepted(
    tmp_path: Path, strict: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.13 sets VERIFY_X509_STRICT in its default context."""
    ca = self_signed(tmp_path, "ca")
    certificate = issued(tmp_path, ca)
    make: Callable[..., ssl.SSLContext] = ssl.create_default_context

    def default(*arguments: Any, **options: Any) -> ssl.SSLContext:
        context = make(*arguments, **options)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    server = certificate.context()
    if strict:
        monkeypatch.setattr(ssl, "create_default_context", default)
    platform = SimulatedPlatform.create(now=app.utc_now())
    async with running_pccs(platform, server) as pccs:
        assert (await requested(pccs.url, collateral_ca=ca.pem)).status == 200
        if strict:
            assert default(cafile=ca.pem).verify_flags & ssl.VERIFY_X509_STRICT


@pytest.mark.skipif(sys.version_info < (3, 13), reason="the default context is not strict")
async def test_the_default_context_of_this_python_refuses_a_ca_without_key_usage(
    tmp_path: Path,
) -> None:
    """The reason for the exception; `./dev pythons` runs this and the test above on 3.13."""
    ca = self_signed(tmp_path, "ca")
    context = ssl.create_default_context(cafile=ca.pem)
    platform = SimulatedPlatform.create(now=app.utc_now())
    async with (
        running_pccs(platform, issued(tmp_path, ca).context()) as pccs,
        httpx.AsyncClient(verify=context) as client,
    ):
        with pytest.raises(httpx.ConnectError, match="key usage"):
            await client.get(pccs.url + PATH)


# Causes.


async def test_the_cause_of_a_failure_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert await problem_of(f"https://127.0.0.1:{port}") == "connection refused"
    assert await problem_of("https://pccs.invalid") == "unknown host name"
    async with pccs_with(None) as plain:
        text = await problem_of(plain.url.replace("http://", "https://"))
    assert text.startswith("TLS failed (")


async def test_a_certificate_with_another_name_is_named(tmp_path: Path) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("pccs.example").configure_cert(tls)
    platform = SimulatedPlatform.create(now=app.utc_now())
    async with running_pccs(platform, tls) as pccs:
        for host in ("127.0.0.1", "localhost"):
            url = pccs.url.replace("127.0.0.1", host)
            text = await problem_of(url, collateral_ca=tmp_path / "ca.pem")
            assert text.startswith("the certificate has another name than the URL's host; ")
        text = await problem_of(pccs.url)
    assert text.startswith("the certificate is not trusted (")
    assert text.endswith("give --collateral-ca or --collateral-pin")


async def test_an_error_through_a_proxy_names_its_variable_and_no_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    set_only(monkeypatch, {"https_proxy": f"http://name:secret@127.0.0.1:{port}"})
    text = await problem_of("https://pccs.invalid")
    assert text == "connection refused, through the proxy of https_proxy"


async def test_a_socks_proxy_fails_only_the_requests_that_need_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_only(monkeypatch, {"ALL_PROXY": "socks5://127.0.0.1:1080"})
    text = await problem_of("https://pccs.invalid")
    assert text.startswith("SOCKS proxies are not supported; ")
    assert text.endswith(", through the proxy of ALL_PROXY")
    async with pccs_with(None) as pccs:
        assert (await requested(pccs.url)).status == 200  # loopback


@pytest.mark.parametrize(
    ("scheme", "answer", "said"),
    [
        ("http", b"SSH-2.0-OpenSSH_9.2\r\n", "the answer is not HTTP; check http:// or https://"),
        ("http", b"", "the answer is not HTTP; check http:// or https://"),
        ("https", b"SSH-2.0-OpenSSH_9.2\r\n", "TLS failed ("),
        ("https", b"HTTP/1.1 400 Bad Request\r\n\r\n", "TLS failed ("),
    ],
)
async def test_another_server_at_the_url_is_named(scheme: str, answer: bytes, said: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        text = await problem_of(f"{scheme}://127.0.0.1:{port}")
    assert text.startswith(said)
    assert "--collateral-url" in text
    assert "OpenSSH" not in text
