"""DICE evidence of rats-tls since 2023-01: CBOR in an extension, and what it binds.

Source: wire-rats-tls.md, "Client certificates"; rats-tls `src/core/dice.c`; hash
algorithms by IANA's "Named Information Hash Algorithm Registry".
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from verdictd_py.errors import BindingMismatch, EvidenceFormat, Reason, ReasonKind
from verdictd_py.formats import cbor

EVIDENCE_OID: Final = "2.23.133.5.4.9"  # wire-rats-tls.md; TCG's tcg-dice-TaggedEvidence
ENDORSEMENTS_OID: Final = "2.23.133.5.4.2"  # wire-rats-tls.md; rats-tls endorsements

INTERIM_TAG: Final = 0x1A7501  # rats-tls before defec92 (2023-02)
TCG_TAG: Final = 60_000  # rats-tls from defec92 on

MAX_CLAIMS: Final = 256
"""Pairs in a claims map: real guests send one to a handful; bounds the work on hostile ones."""

_PUBKEY_HASH: Final = "pubkey-hash"
_SHA256_ID: Final = 1  # IANA
_HASHES: Final = {_SHA256_ID: hashlib.sha256, 7: hashlib.sha384, 8: hashlib.sha512}  # IANA


@dataclass(frozen=True, slots=True)
class DiceEvidence:
    """Evidence as it stands in the extension.

    Attributes:
        tag: says what the quote is: `INTERIM_TAG`, `TCG_TAG`, or that of another TEE.
        quote: the quote.
        claims: the whole byte string with its padding, or None in the first form.
    """

    tag: int
    quote: bytes = field(repr=False)
    claims: bytes | None = field(repr=False)


def read_evidence(value: bytes, tags: Collection[int]) -> DiceEvidence:
    """Read `tag([quote])` or `tag([quote, claims])`; what follows it is padding.

    Args:
        tags: those of the TEEs that are known.

    Raises:
        EvidenceFormat: anything else, or `60000([quote])`, which was never written.
    """
    reader = cbor.Reader(value, "the contents of the evidence extension")
    tag = reader.tag()
    if tag not in tags:
        raise EvidenceFormat(f"the evidence has the unknown tag {tag:#x}")
    entries = reader.array()
    if entries != 2 and (tag, entries) != (INTERIM_TAG, 1):
        raise EvidenceFormat(f"the evidence has {entries} entries, not a quote and claims")
    quote = reader.byte_string()
    return DiceEvidence(tag, quote, reader.byte_string() if entries == 2 else None)


def write_evidence(evidence: DiceEvidence) -> bytes:
    """The inverse of `read_evidence`, without padding."""
    entries = [evidence.quote] if evidence.claims is None else [evidence.quote, evidence.claims]
    return cbor.tagged(evidence.tag, cbor.array(*map(cbor.byte_string, entries)))


def binding_of(claims: bytes | None, spki: bytes) -> bytes:
    """What REPORTDATA must begin with for the evidence to vouch for the key.

    1. Without claims REPORTDATA begins with the CBOR `[1, SHA-256(SPKI)]` itself.
    2. With claims, they must name the key,
    3. and REPORTDATA begins with SHA-256 over all of them, padding included.

    Args:
        spki: DER of the key's SubjectPublicKeyInfo.

    Raises:
        EvidenceFormat: the claims cannot be read.
        BindingMismatch: they do not name this key.
    """
    # 1.
    if claims is None:
        return write_pubkey_hash(spki)
    # 2.
    _check_pubkey_hash(read_claims(claims), spki)
    # 3.
    return hashlib.sha256(claims).digest()


def read_claims(claims: bytes) -> dict[str, bytes]:
    """Claims by name; what follows the map is padding.

    Raises:
        EvidenceFormat: no map from text to byte strings, a name twice, or too many.
    """
    reader = cbor.Reader(claims, "the claims")
    pairs = reader.mapping()
    if pairs > MAX_CLAIMS:
        raise EvidenceFormat(f"the claims are more than {MAX_CLAIMS}")
    found: dict[str, bytes] = {}
    for _ in range(pairs):
        name = reader.text()
        if name in found:
            raise EvidenceFormat("the claims have a name twice")
        found[name] = reader.byte_string()
    return found


def write_claims(pubkey_hash: bytes, claims: Mapping[str, bytes]) -> bytes:
    """Claims as rats-tls writes them.

    Args:
        pubkey_hash: from `write_pubkey_hash`, possibly padded.
        claims: nonce and custom claims.

    Raises:
        ValueError: one of `claims` is named as the key's own.
    """
    if _PUBKEY_HASH in claims:
        raise ValueError(f"{_PUBKEY_HASH} is no custom claim")
    return cbor.mapping({_PUBKEY_HASH: pubkey_hash, **claims})


def write_pubkey_hash(spki: bytes) -> bytes:
    """`[1, SHA-256(SPKI)]`: the bytes 82 01 58 20 and the hash."""
    digest = hashlib.sha256(spki).digest()
    return cbor.array(cbor.unsigned(_SHA256_ID), cbor.byte_string(digest))


def _check_pubkey_hash(claims: Mapping[str, bytes], spki: bytes) -> None:
    """Returns if the claims name the key by its whole hash; 28 bytes of it are refused."""
    try:
        reader = cbor.Reader(claims[_PUBKEY_HASH], "the contents of pubkey-hash")
    except KeyError:
        raise BindingMismatch("the claims name no key: pubkey-hash is missing") from None
    if (entries := reader.array()) != 2:
        raise EvidenceFormat(f"pubkey-hash has {entries} entries, not an algorithm and a hash")
    algorithm = reader.unsigned()
    named = reader.byte_string()
    if algorithm not in _HASHES:
        raise BindingMismatch(f"pubkey-hash has the unknown algorithm {algorithm}")
    expected = _HASHES[algorithm](spki).digest()
    if len(named) != len(expected):
        raise BindingMismatch(f"pubkey-hash has {len(named)} bytes instead of {len(expected)}")
    if named != expected:
        text = "the claims name another key than the certificate's"
        reason = Reason(_PUBKEY_HASH, named.hex(), expected.hex(), text, kind=ReasonKind.BINDING)
        raise BindingMismatch(text, reasons=(reason,))
