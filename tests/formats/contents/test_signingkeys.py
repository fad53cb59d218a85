"""Public keys of cosign signatures: types and forms that no file of `tests/inputs` has."""

from __future__ import annotations

import base64
import json
import time

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa, x448
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    pkcs12,
)

from tests.support.vectors import input_file
from verdictd_py.domain.names import ResourcePath
from verdictd_py.formats import contents
from verdictd_py.formats.contents.findings import EVERY, Findings, Generation

PATH = ResourcePath.parse("team/cosign-public-key/a")
P256 = input_file("cosign/p256.pub").read_bytes()
FROM_0_19 = EVERY - {Generation.V0_8, Generation.V0_9}


def check(content: bytes) -> Findings:
    return contents.check(PATH, content)


def pem(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def rsa_key(bits: int) -> bytes:
    return pem(rsa.generate_private_key(65537, bits).public_key())


@pytest.mark.parametrize(
    ("bits", "usable", "part"),
    [
        (1024, frozenset(), "too weak"),
        (2047, frozenset(), "too weak"),
        (2048, FROM_0_19, "an RSA key of 2048 bits from guest-components v0.19"),
        (4096, FROM_0_19, "an RSA key of 4096 bits from guest-components v0.19"),
        (4104, frozenset(), "at most 4096"),
    ],
)
def test_rsa_keys(bits: int, usable: frozenset[Generation], part: str) -> None:
    found = check(rsa_key(bits))
    assert found.usable == usable
    assert part in (*found.problems, *found.warnings)[0]


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (ec.generate_private_key(ec.SECP256K1()).public_key(), "secp256k1"),
        (ec.generate_private_key(ec.SECP224R1()).public_key(), "secp224r1"),
        (ec.generate_private_key(ec.BrainpoolP256R1()).public_key(), "brainpoolP256r1"),
        (ed448.Ed448PrivateKey.generate().public_key(), "Ed448"),
        (x448.X448PrivateKey.generate().public_key(), "X448"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_types_that_guests_do_not_know_are_refused(key: PublicKeyTypes, name: str) -> None:
    (problem,) = check(pem(key)).problems
    assert name in problem
    assert problem.endswith("use P-256")


@pytest.mark.parametrize(
    "content",
    [
        P256.replace(b"PUBLIC KEY", b"EC PUBLIC KEY"),
        P256.replace(b"KEY-----\n", b"KEY-----\nComment: x\n\n", 1),
        b"K\xfcy of Ann\n" + P256,
    ],
    ids=["another label", "headers", "text before it"],
)
def test_forms_that_guests_read(content: bytes) -> None:
    assert check(content) == Findings()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        P256.partition(b"-----END")[0],
        P256.replace(b"END PUBLIC", b"END OTHER"),
        P256.replace(b"==", b""),
        P256.replace(b"MFkw", b"M!kw"),
        P256.replace(b"-----BEGIN", b"------BEGIN"),
        P256.replace(b"\n", b"\n\n"),
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n" + P256,
        b"-----BEGIN -----\n" + P256.partition(b"\n")[2],
    ],
)
def test_forms_that_no_guest_reads(content: bytes) -> None:
    """Each of them was given to sigstore-rs, which refuses it."""
    assert check(content).usable == frozenset()


@pytest.mark.parametrize("content", [P256.replace(b"\n", b"\r"), P256.replace(b"\n", b"\n\t")])
def test_white_space_within_lines_is_not_for_v0_8(content: bytes) -> None:
    assert check(content).usable == EVERY - {Generation.V0_8}


def test_a_private_key_is_found_behind_a_public_one() -> None:
    content = P256 + b"-----BEGIN ENCRYPTED COSIGN PRIVATE KEY-----\n"
    assert "private key" in check(content).problems[0]
    assert contents.withheld(PATH.segments, content)
    assert not contents.withheld(PATH.segments, P256)
    assert not contents.withheld(("team", "secret", "a"), content)


PRIVATE = ec.generate_private_key(ec.SECP256R1())
RSA_PRIVATE = rsa.generate_private_key(65537, 2048)
PASSWORD = BestAvailableEncryption(b"password")
PKCS8 = PRIVATE.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
PRIVATE_PEM = PRIVATE.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    "content",
    [
        PKCS8,
        PRIVATE.private_bytes(Encoding.DER, PrivateFormat.PKCS8, PASSWORD),
        PRIVATE.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, PASSWORD),
        PRIVATE.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption()),
        RSA_PRIVATE.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption()),
        ed25519.Ed25519PrivateKey.generate().private_bytes(
            Encoding.DER, PrivateFormat.PKCS8, NoEncryption()
        ),
        pkcs12.serialize_key_and_certificates(b"a", PRIVATE, None, None, PASSWORD),
        base64.b64encode(PKCS8),
        base64.encodebytes(PRIVATE_PEM),
        b"Bag Attributes\n" + PRIVATE_PEM,
        PRIVATE_PEM.replace(b"PRIVATE", b"PUBLIC"),
        PRIVATE_PEM.decode().encode("utf-16"),
        PRIVATE_PEM.decode().encode("utf-16-be"),
        b"\xef\xbb\xbf" + PRIVATE_PEM,
        json.dumps({"key": PRIVATE_PEM.decode()}).encode(),
        b'{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "d" : "AA"}',
        b'{"keys": [{"kty": "oct", "k": "AA"}]}',
        b"---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\n",
        b"PuTTY-User-Key-File-3: ssh-ed25519\n",
    ],
)
def test_each_form_of_a_private_key_is_withheld(content: bytes) -> None:
    assert contents.withheld(PATH.segments, content)


@pytest.mark.parametrize(
    "content",
    [
        pem(RSA_PRIVATE.public_key()),
        RSA_PRIVATE.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1),
        PRIVATE.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        P256.decode().encode("utf-16"),
        b'{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "d"}',
    ],
)
def test_no_form_of_a_public_key_is_withheld(content: bytes) -> None:
    assert not contents.withheld(PATH.segments, content)


@pytest.mark.timing
def test_a_key_of_spaces_takes_linear_time() -> None:
    """A quadratic pattern held the interpreter lock for a minute, and with it every guest."""
    begin, end = b"-----BEGIN PUBLIC KEY-----\nAAAA", b"\n-----END PUBLIC KEY-----\n"
    start = time.process_time()
    assert check(begin + b" " * (1 << 18) + end).problems
    assert time.process_time() - start < 20


def test_findings_about_different_guests_are_problems_if_no_guest_is_left() -> None:
    some = frozenset({Generation.V0_8, Generation.V0_9})
    two = Findings.of([contents.Finding("old", some), contents.Finding("new", EVERY - some)])
    assert two.problems == ("old", "new")
    one = Findings.of([contents.Finding("old", some), contents.Finding("remark", contents.NONE)])
    assert one.problems == ()
    assert one.warnings == (
        "old; guests with guest-components v0.8, v0.9 to v0.18 cannot use it",
        "remark",
    )
