"""Interoperability of the broker with the `openssl` command line.

The basic cases are in `test_openssl_peer.py`, whose client is used here.
"""

from __future__ import annotations

import base64
import json
import os
import re
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.broker import KEY, KID, RunningBroker
from tests.support.channel import assert_no_secret, nothing_stays, store
from tests.support.openssl import OPENSSL, Client
from verdictd_py.protocols.ratstls.issue import Form, PrivateKey, issue

FORMS = [form for form in Form if form is not Form.NULL]
VERSIONS = ["-tls1_2", "-tls1_3"]
GOODBYE = b'{"command":"echo","data":"so long"}'


async def ends_clean(broker: RunningBroker) -> None:
    """Wait until every connection is closed; check that no resource leaked."""
    await nothing_stays(broker)
    assert_no_secret(broker)


pytestmark = [
    pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed"),
    pytest.mark.broker(check=ends_clean),
]


def credentials(
    broker: RunningBroker, directory: Path, form: Form, key: PrivateKey | None = None
) -> list[str]:
    """Return the options for an attested certificate of `form` and its key, both in PEM."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    der = issue(form, key=key, quote_for=broker.attester().quote, now=broker.now)
    # The version of old certificates is one that `cryptography` does not take.
    (directory / "cert.pem").write_text(ssl.DER_cert_to_PEM_cert(der))
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (directory / "key.pem").write_bytes(private)
    return ["-cert", f"{directory}/cert.pem", "-key", f"{directory}/key.pem"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("form", FORMS)
async def test_openssl_presents_every_form_of_certificate(
    broker: RunningBroker, tmp_path: Path, form: Form, version: str
) -> None:
    given = credentials(broker, tmp_path, form)
    client = await Client.connect(broker, version, "-quiet", *given)
    client.send(b'{"command":"Get KEK","kids":["' + KID.encode() + b'"]}')
    await client.until(base64.b64encode(KEY))
    client.send(GOODBYE)
    assert (await client.ended()).endswith(b"so long")


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_guest_may_have_an_rsa_key(
    broker: RunningBroker, tmp_path: Path, version: str
) -> None:
    """wire-rats-tls.md: "RSA-3072 possible"."""
    key = rsa.generate_private_key(65537, 3072)
    given = credentials(broker, tmp_path, Form.CURRENT, key)
    client = await Client.connect(broker, version, "-quiet", *given)
    client.send(GOODBYE)
    assert (await client.ended()).endswith(b"so long")


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_resource_of_many_records_arrives_completely(
    broker: RunningBroker, tmp_path: Path, version: str
) -> None:
    content = os.urandom(200_000)
    store(broker, "resources/default/blob/1", content)
    given = credentials(broker, tmp_path, Form.CURRENT)
    client = await Client.connect(broker, version, "-quiet", *given)
    get = {"command": "Get Resource", "optional": {"resource_path": "default/blob/1"}}
    client.send(json.dumps(get).encode() + GOODBYE)
    assert (await client.ended()).endswith(base64.b64encode(content) + b"so long")


async def test_openssl_reports_only_one_error_of_the_brokers_certificate(
    broker: RunningBroker, tmp_path: Path
) -> None:
    """wire-rats-tls.md: real clients tolerate the error "self-signed certificate" only."""
    given = credentials(broker, tmp_path, Form.CURRENT)
    client = await Client.connect(broker, "-x509_strict", "-purpose", "sslserver", *given)
    client.send(GOODBYE)
    output = await client.ended()
    assert set(re.findall(rb"verify error:num=(\d+)", output)) == {b"18"}
    pem = re.search(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", output, re.DOTALL)
    assert pem is not None
    shown = x509.load_pem_x509_certificate(pem[0])
    assert shown.issuer == shown.subject
    assert len(shown.extensions) >= 1
    assert b"Acceptable client certificate CA names" not in output


async def test_reconnecting_never_reuses_a_session(broker: RunningBroker, tmp_path: Path) -> None:
    """defects.md 16: six connections of one client, each attested anew."""
    given = credentials(broker, tmp_path, Form.CURRENT)
    client = await Client.connect(broker, "-tls1_2", "-reconnect", *given)
    client.send(GOODBYE)
    output = await client.ended()
    assert output.count(b"New, TLSv1.2") == 6
    assert b"Reused" not in output
    await nothing_stays(broker)
    assert len(broker.events.named("guest.accepted")) == 6


@pytest.mark.parametrize("cipher", ["ECDHE-ECDSA-NULL-SHA", "AECDH-AES128-SHA", "AES128-SHA"])
async def test_weak_ciphers_are_refused(broker: RunningBroker, tmp_path: Path, cipher: str) -> None:
    """Ciphers without encryption, authentication or forward secrecy are refused by the broker."""
    given = credentials(broker, tmp_path, Form.CURRENT)
    client = await Client.connect(broker, "-tls1_2", "-cipher", f"{cipher}:@SECLEVEL=0", *given)
    assert b"alert handshake failure" in await client.ended()
    assert not broker.events.named("guest.accepted")
