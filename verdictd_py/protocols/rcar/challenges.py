"""Challenges as they are kept until they are answered: sealed, so that nobody else makes them.

Whoever can write where sessions are kept could otherwise have old evidence answer a new
challenge. What is left to them is to put back, before its end, a challenge that was
answered: the same guest is accepted again.
"""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from verdictd_py.errors import SessionInvalid
from verdictd_py.protocols.rcar.messages import Challenge
from verdictd_py.protocols.rcar.versions import Version

_KEY_BYTES: Final = 32
_PURPOSE: Final = b"verdictd-py challenges"


@dataclass(frozen=True, slots=True)
class Challenges:
    """Seals and opens challenges; brokers that share sessions do it with one key."""

    key: bytes = field(repr=False)

    @classmethod
    def of(cls, token_key: ec.EllipticCurvePrivateKey) -> Self:
        """Sealed with a key made of the tokens'."""
        private = token_key.private_numbers().private_value
        size = (token_key.key_size + 7) // 8
        derivation = HKDF(hashes.SHA256(), _KEY_BYTES, salt=None, info=_PURPOSE)
        return cls(derivation.derive(private.to_bytes(size)))

    def seal(self, challenge: Challenge, *, session: str, expires: datetime) -> str:
        """The challenge of this session alone, as text."""
        members = [challenge.version, challenge.tee, challenge.nonce, expires.timestamp()]
        text = json.dumps(members)
        return f"{self._mac(session, text)} {text}"

    def open(self, sealed: str, *, session: str, now: datetime) -> Challenge:
        """What was sealed.

        Raises:
            SessionInvalid: it was not sealed here, not for this session, or is over.
        """
        mac, _, text = sealed.partition(" ")
        expected = self._mac(session, text)
        if not hmac.compare_digest(mac.encode("utf-8", "replace"), expected.encode()):
            raise SessionInvalid("the session holds a challenge that this broker did not give")
        version, tee, nonce, expires = json.loads(text)  # ours, so it has this shape
        if expires <= now.timestamp():
            raise SessionInvalid("the session is over")
        return Challenge(Version(version), tee, nonce)

    def _mac(self, session: str, text: str) -> str:
        sealed = f"{session} {text}".encode("utf-8", "replace")
        return hmac.digest(self.key, sealed, "sha256").hex()
