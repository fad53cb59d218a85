"""Attack: an unattested peer makes the broker verify many, or expensive, certificates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from tests.support.ratstls import NOW, key_der, rsa_key
from verdictd_py.protocols.ratstls.identity import ServerIdentity
from verdictd_py.protocols.ratstls.session import (
    TlsFailed,
    TlsSession,
    client_context,
    server_context,
)

Private = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

CERTIFICATES: Final = 78
"""As many RSA-3072 certificates as fit into OpenSSL's limit of 100 KiB."""


def issued(key: Private, subject: str, issuer: str) -> x509.Certificate:
    """A CA certificate for `key`, signed by the same key."""
    names = [
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        for name in (subject, issuer)
    ]
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return (
        x509.CertificateBuilder()
        .subject_name(names[0])
        .issuer_name(names[1])
        .serial_number(1)
        .public_key(key.public_key())
        .not_valid_before(NOW)
        .not_valid_after(NOW.replace(year=NOW.year + 50))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, digest)
    )


def broken(certificate: x509.Certificate) -> x509.Certificate:
    """The same certificate with another signature, which fails if it is verified."""
    der = bytearray(certificate.public_bytes(Encoding.DER))
    der[-1] ^= 1
    return x509.load_der_x509_certificate(bytes(der))


def chain(length: int) -> list[x509.Certificate]:
    """A chain in which each certificate is issued by the next, and the last by itself."""
    key = rsa_key()
    names = [f"certificate {number}" for number in (*range(length), length - 1)]
    return [issued(key, names[number], names[number + 1]) for number in range(length)]


def handshake(key: Private, certificates: Sequence[x509.Certificate]) -> None:
    """Run a handshake in which the client sends `certificates`, until it has failed or not."""
    context = client_context(key_der(rsa_key()))
    context.use_certificate(certificates[0])
    context.use_privatekey(key)
    for certificate in certificates[1:]:
        context.add_extra_chain_cert(certificate)
    identity = ServerIdentity.create()
    client = TlsSession(context, server=False)
    server = TlsSession(server_context(identity.certificate, identity.private_key), server=True)
    completed = False
    while not completed:
        client.handshake()
        if data := client.outgoing():
            server.receive(data)
        completed = server.handshake()
        if data := server.outgoing():
            client.receive(data)


def test_a_single_certificate_is_accepted() -> None:
    handshake(rsa_key(), chain(1))


@pytest.mark.parametrize("length", [2, CERTIFICATES])
def test_a_chain_of_certificates_is_refused(length: int) -> None:
    with pytest.raises(TlsFailed, match="more than one certificate"):
        handshake(rsa_key(), chain(length))


def test_a_chain_is_refused_before_a_signature_is_verified(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    errors: list[int] = []
    set_verify = SSL.Context.set_verify

    def watched(context: SSL.Context, mode: int, callback: Any) -> None:
        def watch(connection: Any, certificate: Any, error: int, depth: int, ok: int) -> Any:
            errors.append(error)
            return callback(connection, certificate, error, depth, ok)

        set_verify(context, mode, watch)

    monkeypatch.setattr(SSL.Context, "set_verify", watched)
    first, *others = chain(3)
    with pytest.raises(TlsFailed):
        handshake(rsa_key(), [broken(first), *(broken(other) for other in others)])
    too_long, bad_signature = 22, 7  # X509_V_ERR_..., x509_vfy.h
    assert too_long in errors
    assert bad_signature not in errors


def test_certificates_that_did_not_issue_the_first_are_refused_too() -> None:
    key = rsa_key()
    with pytest.raises(TlsFailed, match="more than one certificate"):
        handshake(key, [issued(key, "guest", "guest"), issued(key, "other", "other")])


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(lambda: ec.generate_private_key(ec.SECP256R1()), id="P-256"),
        pytest.param(lambda: ec.generate_private_key(ec.SECP384R1()), id="P-384"),
        pytest.param(lambda: rsa.generate_private_key(65537, 2048), id="RSA-2048"),
    ],
)
def test_keys_of_the_accepted_types(key: Callable[[], Private]) -> None:
    private = key()
    handshake(private, [issued(private, "guest", "guest")])


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(lambda: ec.generate_private_key(ec.SECP521R1()), id="P-521"),
        pytest.param(ed25519.Ed25519PrivateKey.generate, id="Ed25519"),
        pytest.param(lambda: rsa.generate_private_key(65537, 4104), id="RSA-4104"),
        pytest.param(lambda: rsa.generate_private_key(3, 2048), id="RSA with exponent 3"),
    ],
)
def test_other_keys_are_refused(key: Callable[[], Private]) -> None:
    private = key()
    with pytest.raises(TlsFailed, match="key of the peer's certificate is not accepted"):
        handshake(private, [issued(private, "guest", "guest")])
