"""DICE evidence of rats-tls since 2023-01: CBOR in an extension, and its binding to the key.

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
"""Maximum number of pairs in a claims map. Real guests send at most a handful."""

_PUBKEY_HASH: Final = "pubkey-hash"
_SHA256_ID: Final = 1  # IANA
_HASHES: Final = {_SHA256_ID: hashlib.sha256, 7: hashlib.sha384, 8: hashlib.sha512}  # IANA


@dataclass(frozen=True, slots=True)
class DiceEvidence:
    """Evidence as the extension contains it.

    Attributes:
        tag: type of the quote: `INTERIM_TAG`, `TCG_TAG`, or the tag of another TEE.
        quote: the quote.
        claims: the whole byte string with its padding; None in the first form.
    """

    tag: int
    quote: bytes = field(repr=False)
    claims: bytes | None = field(repr=False)


def read_evidence(value: bytes, tags: Collection[int]) -> DiceEvidence:
    """Read `tag([quote])` or `tag([quote, claims])`; bytes after it are padding.

    Args:
        tags: the tags of the known TEEs.

    Raises:
        EvidenceFormat: anything else, or `60000([quote])`, which no release has written.
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
    """Write evidence in the form that `read_evidence` reads, without padding."""
    entries = [evidence.quote] if evidence.claims is None else [evidence.quote, evidence.claims]
    return cbor.tagged(evidence.tag, cbor.array(*map(cbor.byte_string, entries)))


def binding_of(claims: bytes | None, spki: bytes) -> bytes:
    """Return the value that REPORTDATA must begin with to bind the evidence to the key.

    1. Without claims, it is the CBOR `[1, SHA-256(SPKI)]`.
    2. With claims, they must name the key,
    3. and the value is the SHA-256 of all claims, including their padding.

    Args:
        spki: DER of the key's SubjectPublicKeyInfo.

    Raises:
        EvidenceFormat: the claims cannot be read.
        BindingMismatch: the claims do not name this key.
    """
    # 1.
    if claims is None:
        return write_pubkey_hash(spki)
    # 2.
    _check_pubkey_hash(read_claims(claims), spki)
    # 3.
    return hashlib.sha256(claims).digest()


def read_claims(claims: bytes) -> dict[str, bytes]:
    """Read claims by name; bytes after the map are padding.

    Raises:
        EvidenceFormat: not a map from text to byte strings, a duplicate name, or too many claims.
    """
    reader = cbor.Reader(claims, "the claims")
    pairs = reader.mapping()
    if pairs > MAX_CLAIMS:
        raise EvidenceFormat(f"there are more than {MAX_CLAIMS} claims")
    by_name: dict[str, bytes] = {}
    for _ in range(pairs):
        name = reader.text()
        if name in by_name:
            raise EvidenceFormat("two claims have the same name")
        by_name[name] = reader.byte_string()
    return by_name


def write_claims(pubkey_hash: bytes, claims: Mapping[str, bytes]) -> bytes:
    """Write claims as rats-tls does.

    Args:
        pubkey_hash: result of `write_pubkey_hash`, possibly padded.
        claims: nonce and custom claims.

    Raises:
        ValueError: one of `claims` has the name that is reserved for the key.
    """
    if _PUBKEY_HASH in claims:
        raise ValueError(f"{_PUBKEY_HASH} is reserved, and cannot be a custom claim")
    return cbor.mapping({_PUBKEY_HASH: pubkey_hash, **claims})


def write_pubkey_hash(spki: bytes) -> bytes:
    """Write `[1, SHA-256(SPKI)]`: the bytes 82 01 58 20 and the hash."""
    digest = hashlib.sha256(spki).digest()
    return cbor.array(cbor.unsigned(_SHA256_ID), cbor.byte_string(digest))


def _check_pubkey_hash(claims: Mapping[str, bytes], spki: bytes) -> None:
    """Return if the claims contain the whole hash of the key; a truncated one is refused.

    Raises:
        EvidenceFormat: the claim cannot be read.
        BindingMismatch: the claim is missing, or names another key.
    """
    try:
        reader = cbor.Reader(claims[_PUBKEY_HASH], "the contents of pubkey-hash")
    except KeyError:
        raise BindingMismatch("the claims name no key: pubkey-hash is missing") from None
    if (entries := reader.array()) != 2:
        raise EvidenceFormat(f"pubkey-hash has {entries} entries, not an algorithm and a hash")
    algorithm = reader.unsigned()
    claimed = reader.byte_string()
    if algorithm not in _HASHES:
        raise BindingMismatch(f"pubkey-hash has the unknown algorithm {algorithm}")
    expected = _HASHES[algorithm](spki).digest()
    if len(claimed) != len(expected):
        raise BindingMismatch(f"pubkey-hash has {len(claimed)} bytes instead of {len(expected)}")
    if claimed != expected:
        text = "the claims name another key than the certificate's"
        reason = Reason(_PUBKEY_HASH, claimed.hex(), expected.hex(), text, kind=ReasonKind.BINDING)
        raise BindingMismatch(text, reasons=(reason,))
