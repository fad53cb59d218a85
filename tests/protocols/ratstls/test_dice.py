"""Claims of DICE certificates: padding is covered by the hash, and never refused."""

from __future__ import annotations

import hashlib

import pytest

from verdictd_py.errors import BindingMismatch, EvidenceFormat, Reason, ReasonKind
from verdictd_py.protocols.ratstls import dice

SPKI = b"public key info"


@pytest.mark.parametrize("padding", [b"", b"\0", bytes(200), b"x\0", b"\0x"])
def test_claims_with_any_padding_are_read(padding: bytes) -> None:
    """rats-tls pads claims with the content of its buffer, usually NULs."""
    claims = dice.write_claims(dice.write_pubkey_hash(SPKI), {"nonce": b"\0\0"})
    found = dice.read_claims(claims + padding)
    assert found == dice.read_claims(claims)
    assert found["nonce"] == b"\0\0"
    covered = dice.binding_of(claims + padding, SPKI)
    assert covered == hashlib.sha256(claims + padding).digest()


def test_claims_of_another_key_are_refused_with_both_hashes() -> None:
    """A binding, not a measurement: pinning cannot fix it."""
    claims = dice.write_claims(dice.write_pubkey_hash(b"another key"), {})
    with pytest.raises(BindingMismatch) as refused:
        dice.binding_of(claims, SPKI)
    assert refused.value.reasons == (
        Reason(
            "pubkey-hash",
            hashlib.sha256(b"another key").hexdigest(),
            hashlib.sha256(SPKI).hexdigest(),
            "the claims name another key than the certificate's",
            kind=ReasonKind.BINDING,
        ),
    )


def test_what_cannot_be_read_is_named() -> None:
    with pytest.raises(EvidenceFormat, match=r"^the contents of the evidence extension "):
        dice.read_evidence(b"", frozenset({1}))
    with pytest.raises(EvidenceFormat, match=r"^the contents of pubkey-hash "):
        dice.binding_of(dice.write_claims(b"", {}), SPKI)
