"""Public keys with which guests verify cosign signatures.

image-rs gives the file to sigstore-rs, which reads the first block of PEM, whatever its label, as
SubjectPublicKeyInfo (its `crypto/verification_key.rs`). Until v0.18 image-rs accepts P-256 only;
from v0.19 it accepts each type that sigstore-rs knows (its `signature/policy/cosign/mod.rs`).
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.dsa import DSAPublicKey
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.x448 import X448PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from verdictd_py.formats.contents.findings import BEFORE_0_19, NONE, Finding, Generation
from verdictd_py.formats.contents.privatekeys import has_private_key

MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 4096
"""Largest modulus that the crate `rsa` of image-rs reads (`RsaPublicKey::MAX_SIZE`)."""

_CURVES: Final = {
    "secp256r1": ("P-256", NONE),
    "secp384r1": ("P-384", BEFORE_0_19),
}
"""Curves that guests accept, by the name of the library."""

_OTHERS: Final = {
    DSAPublicKey: "DSA",
    Ed448PublicKey: "Ed448",
    X25519PublicKey: "X25519, a type for key agreement",
    X448PublicKey: "X448, a type for key agreement",
}

_BEGIN: Final = re.compile(rb"(?<!-)-----BEGIN ([^-\r\n]{1,100})-----[ \t\n\r]*")
_SPACE_IN_LINE: Final = re.compile(rb"[ \t][^ \t\r\n]|\r(?!\n)")

_OTHER_BLOCKS: Final = {
    b"CERTIFICATE": (
        "its first block of PEM is a certificate, and guests read only the first block; store "
        "what 'openssl x509 -pubkey -noout' writes"
    ),
}
"""Blocks of PEM that people store in place of a public key, by their label."""

REMEDY: Final = "store cosign.pub, as 'cosign generate-key-pair' writes it"
PRIVATE: Final = "it contains a private key; store the public one (cosign.pub) under this name"


def check(content: bytes) -> Iterator[Finding]:
    """Yield the findings about a public key for cosign signatures."""
    if has_private_key(content):
        yield Finding(PRIVATE)
        return
    begin = _BEGIN.search(content)
    if begin is None:
        yield Finding(_without_pem(content))
        return
    body = _body(content, begin)
    try:
        der = binascii.a2b_base64(b"".join(body.split()), strict_mode=True)
    except ValueError:
        der = b""
    if not der:
        yield Finding(f"its PEM is damaged or cut off; {REMEDY}")
        return
    if _SPACE_IN_LINE.search(body):
        text = f"the lines of its PEM have white space within them; {REMEDY}"
        yield Finding(text, frozenset({Generation.V0_8}))  # its crate `pem` has version 1
    try:
        key = load_der_public_key(der)
    except ValueError:
        yield Finding(_OTHER_BLOCKS.get(begin[1], f"its PEM contains no public key; {REMEDY}"))
    except UnsupportedAlgorithm:
        yield _unsupported("a key of an unknown type")
    else:
        yield from _key(key, der)


def _without_pem(content: bytes) -> str:
    """Return why content without PEM cannot be used."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "it is UTF-16 text, and guests read UTF-8 only; convert it with 'iconv -t UTF-8'"
    try:
        load_der_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        pass
    else:
        return "it is DER, not PEM; convert it with 'openssl pkey -pubin -inform DER'"
    try:
        decoded = binascii.a2b_base64(content)
    except ValueError:
        decoded = b""
    if _BEGIN.search(decoded):
        return "it is PEM encoded as base64 once more; decode it with 'base64 -d'"
    return f"it is not a PEM public key; {REMEDY}"


def _body(content: bytes, begin: re.Match[bytes]) -> bytes:
    """Return the base64 of a block of PEM; empty if the block is damaged.

    A blank line ends the headers of the block (RFC 1421, 4.4), as in the crate `pem` of image-rs.
    """
    end = content.find(b"-----END ", begin.end())
    if end < 0 or not content.startswith(begin[1] + b"-----", end + len(b"-----END ")):
        return b""
    body = content[begin.end() : end]
    for blank_line in (b"\n\n", b"\r\n\r\n"):
        headers, found, rest = body.partition(blank_line)
        if found:
            return rest if all(b":" in header for header in headers.splitlines()) else b""
    return body


def _key(key: PublicKeyTypes, der: bytes) -> Iterator[Finding]:
    if isinstance(key, EllipticCurvePublicKey):
        name, unusable = _CURVES.get(key.curve.name, ("", NONE))
        if not name:
            yield _unsupported(f"a key on the curve {key.curve.name}")
        elif unusable:
            yield _from_0_19(f"a key on {name}")
    elif isinstance(key, RSAPublicKey):
        if der == key.public_bytes(Encoding.DER, PublicFormat.PKCS1):
            yield Finding(
                "it is an RSA key in the form of PKCS#1, which guests cannot read; convert it with "
                "'openssl rsa -RSAPublicKey_in -pubout'"
            )
        else:
            yield from _rsa(key.key_size)
    elif isinstance(key, Ed25519PublicKey):
        yield _from_0_19("an Ed25519 key")
    else:
        names = (name for kind, name in _OTHERS.items() if isinstance(key, kind))
        yield _unsupported(f"a key of the type {next(names, 'unknown')}")


def _rsa(bits: int) -> Iterator[Finding]:
    if bits < MIN_RSA_BITS:
        yield Finding(f"an RSA key of {bits} bits is too weak; use P-256, or RSA of 2048 bits")
    elif bits > MAX_RSA_BITS:
        yield Finding(
            f"guests cannot read an RSA key of {bits} bits, at most {MAX_RSA_BITS}; use P-256"
        )
    else:
        yield _from_0_19(f"an RSA key of {bits} bits")


def _unsupported(what: str) -> Finding:
    return Finding(f"guests cannot verify signatures with {what}; use P-256")


def _from_0_19(what: str) -> Finding:
    text = f"guests verify signatures with {what} from guest-components {Generation.V0_19} on"
    return Finding(text, BEFORE_0_19)
