"""The `openssl` command line as an independent TLS peer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.broker import RunningBroker
from tests.support.openssl import OPENSSL, Client, write_credentials
from verdictd_py.protocols.ratstls.issue import Form

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed")


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
async def test_a_handshake_without_a_certificate_fails(broker: RunningBroker, version: str) -> None:
    client = await Client.connect(broker, version, "-quiet")
    output = await client.ended()
    assert b"alert" in output
    assert b"Fail" not in output
    (failed,) = broker.events.named("connection.failed")
    assert "peer did not return a certificate" in str(failed["reason"])
    assert not broker.events.named("guest.accepted", "guest.refused")


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_a_client_without_evidence_receives_a_code(
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
async def test_old_versions_of_tls_are_refused(broker: RunningBroker, version: str) -> None:
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
