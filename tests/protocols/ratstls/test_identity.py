"""The broker's own certificate, as real clients verify it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_private_key
from OpenSSL import SSL, crypto

from tests.support.ratstls import (
    DICE,
    FORMS,
    NOW,
    ec_key,
    extensions_of,
    key_der,
    make,
    quote_for,
    report_data,
)
from tests.support.tees import TEES
from verdictd_py.errors import EvidenceMissing
from verdictd_py.guest.attesters import use_certificate
from verdictd_py.protocols.ratstls import certificate
from verdictd_py.protocols.ratstls.identity import ServerIdentity
from verdictd_py.protocols.ratstls.issue import Form
from verdictd_py.protocols.ratstls.session import TlsSession, client_context, server_context


def test_every_client_accepts_the_certificate() -> None:
    identity = ServerIdentity.create()
    written = x509.load_der_x509_certificate(identity.certificate)
    written.verify_directly_issued_by(written)
    assert written.version is x509.Version.v3
    assert written.issuer == written.subject
    assert written.signature_hash_algorithm is not None
    assert written.signature_hash_algorithm.name == "sha256"
    key = written.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    assert written.not_valid_before_utc == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
    assert written.not_valid_after_utc == datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)
    written.extensions.get_extension_for_class(x509.BasicConstraints)
    with pytest.raises(x509.ExtensionNotFound):
        written.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert not any(extension.critical for extension in written.extensions)
    assert extensions_of(identity.certificate) == {}
    private = load_der_private_key(identity.private_key, None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert private.public_key() == key


def test_without_an_attester_there_is_no_evidence() -> None:
    with pytest.raises(EvidenceMissing):
        certificate.read(ServerIdentity.create().certificate, TEES, now=NOW)


def test_with_an_attester_it_carries_evidence_of_the_current_form() -> None:
    identity = ServerIdentity.create(quote_for=quote_for)
    evidence = certificate.read(identity.certificate, TEES, now=NOW)
    assert evidence.tee == "tdx"
    assert evidence.form == "rats-tls tag 60000 with claims"
    assert evidence.binding is not None
    assert report_data(evidence.quote).startswith(evidence.binding)
    assert set(extensions_of(identity.certificate)) == {DICE}


def test_each_identity_has_a_key_of_its_own() -> None:
    assert ServerIdentity.create().private_key != ServerIdentity.create().private_key


def test_the_private_key_is_redacted() -> None:
    identity = ServerIdentity.create()
    assert "private_key" not in repr(identity)
    assert repr(identity.private_key) not in repr(identity)


# Only pyOpenSSL's own objects can hold the version INTEGER 3.
@pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")
@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
@pytest.mark.parametrize("form", FORMS)
def test_a_handshake_gives_the_client_one_error_and_the_server_the_evidence(
    form: Form, version: int
) -> None:
    """Real clients tolerate "self-signed certificate" (18) and nothing else."""
    identity = ServerIdentity.create()
    guest = make(form)
    seen: list[int] = []

    def look(_c: SSL.Connection, _x: crypto.X509, error: int, _d: int, ok: int) -> bool:
        if not ok:
            seen.append(error)
        return True

    context = client_context(key_der(ec_key()))
    use_certificate(context, guest)
    context.set_min_proto_version(version)
    context.set_max_proto_version(version)
    context.set_verify(SSL.VERIFY_PEER, look)
    client = TlsSession(context, server=False)
    server = TlsSession(server_context(identity.certificate, identity.private_key), server=True)
    done = False
    while not done:
        done = client.handshake()
        server.receive(client.outgoing())
        done = server.handshake() and done
        client.receive(server.outgoing())
    assert seen == [18]
    shown = server.peer_certificate()
    assert shown == guest
    assert certificate.read(shown, TEES, now=NOW).tee == "tdx"
