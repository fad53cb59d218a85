"""Claims of DICE certificates: padding is covered by the hash, and never refused."""

from __future__ import annotations

import hashlib

import pytest

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
