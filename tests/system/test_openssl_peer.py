"""The `openssl` command line as a TLS peer that nobody here wrote."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.system.broker import RunningBroker, running_broker
from verdictd_py import daemon as app
from verdictd_py.protocols.ratstls.issue import Form, issue
from verdictd_py.simulator import SimulatedPlatform

OPENSSL = shutil.which("openssl")
SECONDS = 20

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed")


@pytest_asyncio.fixture
async def broker(tmp_path: Path) -> AsyncIterator[RunningBroker]:
    platform = SimulatedPlatform.create(now=app.utc_now())
    async with running_broker(tmp_path, platform, handshake_timeout=5) as running:
        yield running


def write_credentials(broker: RunningBroker, directory: Path, form: Form) -> list[str]:
    """Certificate and key as files; the options that name them."""
    key = ec.generate_private_key(ec.SECP256R1())
    quote_for = None if form is Form.NULL else broker.attester().quote
    der = issue(form, key=key, quote_for=quote_for, now=broker.now)
    certificate = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
    (directory / "cert.pem").write_bytes(certificate)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (directory / "key.pem").write_bytes(private)
    return ["-cert", f"{directory}/cert.pem", "-key", f"{directory}/key.pem"]


class Client:
    """One `openssl s_client`, typed to and read from."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.output = b""

    @classmethod
    async def connect(cls, broker: RunningBroker, *options: str) -> Client:
        host, port = broker.address
        command = [str(OPENSSL), "s_client", "-connect", f"{host}:{port}", *options]
        pipe, joined = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=joined
        )
        return cls(process)

    async def until(self, text: bytes) -> None:
        """Reads until `text` was printed."""
        assert self._process.stdout is not None
        async with asyncio.timeout(SECONDS):
            while text not in self.output:
                chunk = await self._process.stdout.read(4096)
                assert chunk, f"ended without {text!r}: {self.output!r}"
                self.output += chunk

    def send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)

    async def ended(self) -> bytes:
        """Everything it printed, once it has ended by itself.

        Not `communicate`: it ends standard input first, and s_client would end with it.
        """
        assert self._process.stdout is not None
        async with asyncio.timeout(SECONDS):
            self.output += await self._process.stdout.read()
            await self._process.wait()
        return self.output


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_an_attested_client_is_answered(
    broker: RunningBroker, tmp_path: Path, version: str
) -> None:
    credentials = write_credentials(broker, tmp_path, Form.CURRENT)
    client = await Client.connect(broker, version, "-quiet", *credentials)
    client.send(b'{"command":"version"}')
    await client.until(b'{"status":"OK","version":"v1"}')
    client.send(b'{"command":"echo","data":"so long"}')
    assert (await client.ended()).endswith(b"so long")


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_without_a_certificate_the_handshake_fails(
    broker: RunningBroker, version: str
) -> None:
    client = await Client.connect(broker, version, "-quiet")
    output = await client.ended()
    assert b"alert" in output
    assert b"Fail" not in output
    (failed,) = broker.events.named("connection.failed")
    assert "peer did not return a certificate" in str(failed["reason"])
    assert not broker.events.named("guest.accepted", "guest.refused")


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_a_certificate_without_evidence_is_told_a_code(
    broker: RunningBroker, tmp_path: Path, version: str
) -> None:
    credentials = write_credentials(broker, tmp_path, Form.NULL)
    client = await Client.connect(broker, version, "-quiet", *credentials)
    client.send(b'{"command":"Get KEK","kids":["x"]}')
    answer = (await client.ended())[-200:].decode()
    told = json.loads(answer[answer.index('{"status"') :])
    assert told["status"] == "Fail"
    assert told["error"].startswith("refused: evidence-missing")
    assert not broker.events.named("request.received")


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
async def test_old_versions_are_refused(broker: RunningBroker, version: str) -> None:
    client = await Client.connect(broker, version, "-cipher", "ALL:@SECLEVEL=0")
    assert b"alert protocol version" in await client.ended()


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_a_session_is_never_resumed(
    broker: RunningBroker, tmp_path: Path, version: str
) -> None:
    """defects.md 16: a resumed session would skip the certificate and with it the evidence."""
    credentials = write_credentials(broker, tmp_path, Form.CURRENT)
    session = tmp_path / "session.pem"
    for options in (["-sess_out", str(session)], ["-sess_in", str(session)]):
        client = await Client.connect(broker, version, *options, *credentials)
        client.send(b'{"command":"echo","data":"so long"}')
        output = await client.ended()
        assert b"so long" in output
        assert b"New, TLSv1" in output
        assert b"Reused" not in output
        if not session.exists():  # then OpenSSL was given nothing that it could resume
            return
    assert len(broker.events.named("guest.accepted")) == 2


async def test_renegotiation_is_refused(broker: RunningBroker, tmp_path: Path) -> None:
    credentials = write_credentials(broker, tmp_path, Form.CURRENT)
    client = await Client.connect(broker, "-tls1_2", *credentials)
    await client.until(b"Verify return code")
    client.send(b"R\n")
    output = await client.ended()
    assert b"RENEGOTIATING" in output
    assert b"no renegotiation" in output
