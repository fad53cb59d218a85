"""HTTPS: certificates, TLS versions, renewal at SIGHUP; and plain HTTP."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.broker import HANDSHAKE_SECONDS, RunningBroker
from tests.support.clock import elapse, elapse_until, until
from tests.support.kbs import PATH, SECRET, running_kbs, url_of
from tests.support.kbs_raw import all_closed, request
from tests.support.kubernetes import Volume
from tests.support.rcar_guests import attested, tdx_guest
from verdictd_py import daemon as app

AUTH = {"version": "0.4.0", "tee": "tdx", "extra-params": ""}


def port_of(broker: RunningBroker) -> int:
    return int(url_of(broker).rpartition(":")[2])


def self_signed(broker: RunningBroker) -> bytes:
    return broker.kbs.self_signed


def trusting(pem: bytes, *, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """Return a strict client that trusts only this certificate."""
    context = ssl.create_default_context(cadata=pem.decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


class Files:
    """Files of the operator's certificate and key."""

    def __init__(self, directory: Path) -> None:
        self.ca = trustme.CA()
        self.settings: dict[str, Any] = {
            "kbs_tls_cert": directory / "kbs.pem",
            "kbs_tls_key": directory / "kbs.key",
        }

    def write(self, kind: trustme.KeyType) -> int:
        """Write a new certificate and return its serial number."""
        made = self.ca.issue_cert("127.0.0.1", key_type=kind)
        chain = b"".join(pem.bytes() for pem in made.cert_chain_pems)
        self.settings["kbs_tls_cert"].write_bytes(chain)
        self.settings["kbs_tls_key"].write_bytes(made.private_key_pem.bytes())
        return x509.load_pem_x509_certificate(chain).serial_number

    @property
    def trusting(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        return context


@pytest.fixture
def files(tmp_path: Path) -> Files:
    made = Files(tmp_path)
    made.write(trustme.KeyType.ECDSA)
    return made


class Stream:
    """A connection that stays open, with the certificate of its handshake."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @property
    def serial(self) -> int:
        der = self._writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(der).serial_number

    async def healthy(self) -> bool:
        self._writer.write(request("GET", "/healthz"))
        head = await self._reader.readuntil(b"\r\n\r\n")
        return head.startswith(b"HTTP/1.1 200 ")


@asynccontextmanager
async def stream(broker: RunningBroker, context: ssl.SSLContext) -> AsyncIterator[Stream]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(broker), ssl=context)
    try:
        yield Stream(reader, writer)
    finally:
        writer.close()


async def cookie(url: str, verify: ssl.SSLContext | bool = True) -> set[str]:
    """Return the attributes of the cookie that a guest gets."""
    async with httpx.AsyncClient(verify=verify) as http:
        answer = await http.post(f"{url}/kbs/v0/auth", json=AUTH)
    assert answer.status_code == 200
    return {part.strip() for part in answer.headers["Set-Cookie"].split(";")[1:]}


async def test_off_loopback_https_with_a_self_signed_certificate_is_the_default(
    tmp_path: Path,
) -> None:
    async with running_kbs(tmp_path, kbs_http="0.0.0.0:0") as broker:
        assert url_of(broker).startswith("https://0.0.0.0:")
        pem = self_signed(broker)
        url = f"https://127.0.0.1:{port_of(broker)}"
        ca = tmp_path / "kbs.pem"
        ca.write_bytes(pem)
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            attributes = await cookie(url, trusting(pem, version=version))
            assert attributes == {"Path=/kbs", "HttpOnly", "Secure", "Max-Age=300"}
        async with attested(url, tdx_guest(broker.platform), ca=ca) as session:
            assert (await session.get(str(PATH))).reveal() == SECRET
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await cookie(url)


async def test_the_self_signed_certificate_is_valid_now_and_not_a_ca(tmp_path: Path) -> None:
    """Guests refuse a server certificate that is a CA's or has no names."""
    async with running_kbs(tmp_path, kbs_http="0.0.0.0:0") as broker:
        made = x509.load_pem_x509_certificate(self_signed(broker))
        constraints = made.extensions.get_extension_for_class(x509.BasicConstraints).value
        names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert not constraints.ca
        assert "127.0.0.1" in map(str, names.get_values_for_type(x509.IPAddress))
        assert "localhost" in names.get_values_for_type(x509.DNSName)
        now = app.utc_now()
        assert made.not_valid_before_utc < now
        assert made.not_valid_after_utc > now + timedelta(days=300)
        assert b"PRIVATE" not in self_signed(broker)


async def test_the_self_signed_certificate_has_every_address_of_the_host(tmp_path: Path) -> None:
    """Guests refuse a certificate that does not contain the address in their URL."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:  # no datagram is sent
        route.connect(("192.0.2.254", 9))
        own = route.getsockname()[0]
    async with running_kbs(tmp_path, kbs_http="0.0.0.0:0") as broker:
        made = x509.load_pem_x509_certificate(self_signed(broker))
        names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert own in map(str, names.get_values_for_type(x509.IPAddress))
        (logged,) = broker.events.named("kbs.self-signed")
        everything = {str(name.value) for name in names}
        assert set(as_texts(logged["names"])) == everything > {own, "localhost"}
        url = f"https://{own}:{port_of(broker)}"
        assert await cookie(url, trusting(self_signed(broker)))


def as_texts(value: object) -> tuple[str, ...]:
    assert isinstance(value, tuple)
    return value


async def test_a_ca_certificate_as_the_servers_is_warned_about(
    tmp_path: Path, files: Files
) -> None:
    """At start, and once more after each replacement; webpki accepts none."""
    ca = trustme.CA()
    for name, pem in (("kbs_tls_cert", ca.cert_pem), ("kbs_tls_key", ca.private_key_pem)):
        files.settings[name].write_bytes(pem.bytes())
    async with running_kbs(tmp_path, **files.settings) as broker:
        (warning,) = broker.events.named("warning.identity")
        assert "it is a CA's certificate (CA:TRUE), which guests refuse" in str(warning["reason"])
        files.write(trustme.KeyType.ECDSA)
        await broker.daemon.reload()
        url = f"https://127.0.0.1:{port_of(broker)}"
        assert await cookie(url, files.trusting)
        assert len(broker.events.named("warning.identity")) == 1


NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)

Validity = tuple[timedelta, timedelta]


def issue(files: Files, validity: Validity, *, names: bool = True) -> None:
    """Write a server certificate that is valid from and until so long after NOW."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kbs")])
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(NOW + validity[0])
        .not_valid_after(NOW + validity[1])
    )
    if names:
        host = x509.SubjectAlternativeName([x509.DNSName("kbs")])
        builder = builder.add_extension(host, critical=False)
    pem = builder.sign(key, SHA256()).public_bytes(Encoding.PEM)
    files.settings["kbs_tls_cert"].write_bytes(pem)
    files.settings["kbs_tls_key"].write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )


def reasons(broker: RunningBroker) -> list[str]:
    return [str(warning["reason"]) for warning in broker.events.named("warning.identity")]


YEAR, DAY = timedelta(days=365), timedelta(days=1)


@pytest.mark.parametrize(
    ("validity", "names", "reason"),
    [
        ((-YEAR, -DAY), True, "it expired on 2026-05-31 12:00 UTC; replace its files and send"),
        ((DAY, YEAR), True, "it is not valid before 2026-06-02 12:00 UTC; compare the clock"),
        ((-YEAR, YEAR), False, "it has no name (subjectAltName); have it issued for the host"),
        ((-YEAR, 20 * DAY), True, "expires on 2026-06-21 12:00 UTC, in 20 days, and guests"),
    ],
)
async def test_a_certificate_that_guests_refuse_is_warned_about_at_start_and_sighup(
    tmp_path: Path, files: Files, validity: Validity, names: bool, reason: str
) -> None:
    issue(files, validity, names=names)
    async with running_kbs(tmp_path, clock=lambda: NOW, **files.settings) as broker:
        (warning,) = reasons(broker)
        assert reason in warning
        await broker.daemon.reload()
        await elapse(1)
        assert reasons(broker) == [warning, warning]
        issue(files, (-YEAR, YEAR))
        await broker.daemon.reload()
        await elapse(1)
        assert len(reasons(broker)) == 2


def handshake(port: int, context: ssl.SSLContext) -> None:
    """Connect with a blocking socket, which sends the alert that asyncio discards."""
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="kbs"),
    ):
        pass


@pytest.mark.parametrize(
    ("validity", "reason"),
    [
        ((DAY, YEAR), "bad certificate: the guest does not accept the broker's certificate"),
        ((-YEAR, -DAY), "certificate expired: the broker's certificate has expired by the guest's"),
    ],
    ids=["a guest whose clock is behind", "a guest whose clock is ahead"],
)
async def test_a_guest_with_another_clock_is_reported_with_a_hint_at_the_clocks(
    tmp_path: Path, files: Files, validity: Validity, reason: str
) -> None:
    """OpenSSL compares the validity with the guest's clock, which is that of this machine."""
    wrong = datetime.now(UTC) - NOW
    issue(files, (validity[0] + wrong, validity[1] + wrong))
    trust = ssl.create_default_context(cadata=files.settings["kbs_tls_cert"].read_text())
    trust.check_hostname = False
    trust.verify_flags &= ~ssl.VERIFY_X509_STRICT
    async with running_kbs(tmp_path, **files.settings) as broker:
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.to_thread(handshake, port_of(broker), trust)
        await elapse_until(lambda: bool(broker.events.named("connection.failed")))
        (failed,) = broker.events.named("connection.failed")
        assert reason in str(failed["reason"])
        assert "compare the clocks" in str(failed["reason"])


async def test_the_end_of_a_certificate_is_announced_30_days_ahead(
    tmp_path: Path, files: Files
) -> None:
    now = [NOW]
    issue(files, (-YEAR, 31 * DAY))
    async with running_kbs(tmp_path, clock=lambda: now[0], **files.settings) as broker:
        await elapse(3700)
        assert reasons(broker) == []
        now[0] += DAY
        await elapse(3700)
        await elapse(3700)
        (warning,) = reasons(broker)
        assert "expires on 2026-07-02 12:00 UTC, in 30 days" in warning
        now[0] += 31 * DAY
        await elapse(3700)
        assert "it expired on 2026-07-02" in reasons(broker)[-1]


async def test_a_new_certificate_in_a_volume_of_kubernetes_is_used_and_recorded(
    tmp_path: Path, files: Files
) -> None:
    volume = Volume(tmp_path / "tls")

    def write() -> None:
        issue(files, (-YEAR, YEAR))
        names = {"tls.crt": "kbs_tls_cert", "tls.key": "kbs_tls_key"}
        volume.write({name: files.settings[of].read_bytes() for name, of in names.items()})

    write()
    tls = tmp_path / "tls"
    settings: dict[str, Any] = {"kbs_tls_cert": tls / "tls.crt", "kbs_tls_key": tls / "tls.key"}
    async with running_kbs(tmp_path, clock=lambda: NOW, **settings) as broker:
        before = broker.events.named("file.changed")
        write()
        await broker.daemon.reload()
        (changed,) = broker.events.named("file.changed")[len(before) :]
        assert changed["file"] == str(settings["kbs_tls_cert"])
        (reloaded,) = broker.events.named("daemon.reloaded")
        assert "certificate of --kbs-http" in str(reloaded["changed"])


async def test_plain_http_off_loopback_needs_the_unsafe_option(tmp_path: Path) -> None:
    unsafe = {"insecure_kbs_http": True}
    async with running_kbs(tmp_path, kbs_http="0.0.0.0:0", unsafe=unsafe) as broker:
        assert url_of(broker).startswith("http://0.0.0.0:")
        url = f"http://127.0.0.1:{port_of(broker)}"
        assert await cookie(url) == {"Path=/kbs", "HttpOnly", "Max-Age=300"}
        assert {"flag": "--insecure-kbs-http"} in broker.events.named("unsafe.option")


async def test_a_configured_certificate_means_https_also_on_loopback(
    tmp_path: Path, files: Files
) -> None:
    async with running_kbs(tmp_path, **files.settings) as broker:
        assert url_of(broker).startswith("https://127.0.0.1:")
        assert "Secure" in await cookie(url_of(broker), files.trusting)
        assert self_signed(broker) == b""


@pytest.mark.parametrize("version", ["tls1", "tls1_1", "tls1_2", "tls1_3"])
async def test_old_versions_of_tls_are_refused(tmp_path: Path, version: str) -> None:
    async with running_kbs(tmp_path, kbs_http="0.0.0.0:0") as broker:
        process = await asyncio.create_subprocess_exec(
            *("openssl", "s_client", f"-{version}", "-cipher", "ALL:@SECLEVEL=0"),
            *("-connect", f"127.0.0.1:{port_of(broker)}"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        await all_closed(broker)
        failed = broker.events.named("connection.failed")
        if version in {"tls1", "tls1_1"}:
            assert process.returncode != 0
            assert b"BEGIN CERTIFICATE" not in output
            assert [fields["reason"] for fields in failed] == ["TLS: unsupported protocol"]
        else:
            assert process.returncode == 0
            assert b"BEGIN CERTIFICATE" in output
            assert not failed


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            "the client sent plain HTTP to the HTTPS port; have it use https://",
        ),
        (bytes(5000), "TLS: "),
        (bytes(range(256)) * 100, "TLS: "),
        (b"\x16\x03\x01\x40\x00" + b"\x01" * 16_384, "TLS: "),
        (b"", "TLS: not completed"),
    ],
)
async def test_bytes_that_are_not_tls_are_one_log_line(
    tmp_path: Path, data: bytes, reason: str
) -> None:
    async with running_kbs(tmp_path, kbs_http="0.0.0.0:0") as broker:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(broker))
        writer.write(data)
        reading = asyncio.create_task(reader.read())
        await elapse_until(reading.done)
        try:
            answer = await reading
        except ConnectionResetError:
            answer = b""
        writer.close()
        assert b"HTTP" not in answer
        await all_closed(broker)
        failed = broker.events.named("connection.failed")
        assert len(failed) == 1
        assert str(failed[0]["reason"]).startswith(reason)
        url = f"https://127.0.0.1:{port_of(broker)}"
        assert await cookie(url, trusting(self_signed(broker)))


async def test_https_on_the_plain_http_port_is_reported_as_that(tmp_path: Path) -> None:
    async with running_kbs(tmp_path) as broker:
        process = await asyncio.create_subprocess_exec(
            *("openssl", "s_client", "-connect", f"127.0.0.1:{port_of(broker)}"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        await process.communicate()
        await all_closed(broker)
        (failed,) = broker.events.named("request.failed", "connection.failed")
        assert str(failed["reason"]).startswith("the client sent HTTPS to the plain-HTTP port")


async def test_incomplete_handshakes_count_and_expire(tmp_path: Path) -> None:
    async with running_kbs(tmp_path, kbs_http="0.0.0.0:0", max_connections=5) as broker:
        held = [await asyncio.open_connection("127.0.0.1", port_of(broker)) for _ in range(12)]
        await until(lambda: len(broker.events.named("connection.refused")) == 7)
        await elapse(HANDSHAKE_SECONDS)
        for reader, _ in held:
            assert await reader.read() == b""
        await all_closed(broker)
        assert len(broker.events.named("connection.refused")) == 7
        assert len(broker.events.named("connection.failed")) == 5
        for _, writer in held:
            writer.close()
        url = f"https://127.0.0.1:{port_of(broker)}"
        assert await cookie(url, trusting(self_signed(broker)))


@pytest.mark.parametrize("kind", list(trustme.KeyType))
async def test_a_renewed_certificate_is_used_for_new_connections(
    tmp_path: Path, files: Files, kind: trustme.KeyType
) -> None:
    """With every type of key; none of the previous certificate may remain in use."""
    first = files.write(*(other for other in trustme.KeyType if other is not kind))
    async with (
        running_kbs(tmp_path, **files.settings) as broker,
        stream(broker, files.trusting) as old,
    ):
        assert old.serial == first
        second = files.write(kind)
        await broker.daemon.reload()
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = files.trusting
            context.minimum_version = context.maximum_version = version
            async with stream(broker, context) as new:
                assert new.serial == second
                assert await new.healthy()
        assert await old.healthy()


@pytest.mark.parametrize("broken", ["kbs_tls_cert", "kbs_tls_key"])
async def test_unusable_files_leave_the_previous_certificate_in_use(
    tmp_path: Path, files: Files, broken: str
) -> None:
    first = files.write(trustme.KeyType.ECDSA)
    async with running_kbs(tmp_path, **files.settings) as broker:
        good = {name: path.read_bytes() for name, path in files.settings.items()}
        for damage in ("other", "garbage", "gone"):
            path = files.settings[broken]
            if damage == "other":
                files.write(trustme.KeyType.ECDSA)
                for name, content in good.items():
                    if name != broken:
                        files.settings[name].write_bytes(content)
            elif damage == "garbage":
                path.write_text("garbage")
            else:
                path.unlink()
            await broker.daemon.reload()
            warned = broker.events.named("warning.reload")[-1]["problems"]
            assert str(path) in str(warned), damage
            assert f"--{broken.replace('_', '-')}" in str(warned)
            async with stream(broker, files.trusting) as link:
                assert link.serial == first
        assert len(broker.events.named("warning.reload")) == 3


async def test_the_keys_of_certificates_are_never_written(tmp_path: Path, files: Files) -> None:
    async with running_kbs(tmp_path, **files.settings) as broker:
        await broker.daemon.reload()
        key = files.settings["kbs_tls_key"].read_text().split("\n")[1]
        assert key not in broker.events.text
        assert "PRIVATE" not in broker.events.text
