"""Sealed challenges, as they are stored until guests answer them.

Without the seal, an attacker with write access to the session store could store a challenge
that old evidence answers. The attacker can still restore an answered challenge before it
expires: the same guest is then accepted again.
"""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from verdictd_py.errors import SessionInvalid
from verdictd_py.protocols.rcar.messages import Challenge
from verdictd_py.protocols.rcar.versions import Version

LIFETIME: Final = timedelta(minutes=5)
"""Lifetime of every challenge."""

_LEEWAY: Final = timedelta(minutes=1)
"""Allowed difference between the clocks of brokers that share sessions."""

_KEY_BYTES: Final = 32
_PURPOSE: Final = b"verdictd-py challenges"


@dataclass(frozen=True, slots=True)
class Challenges:
    """Sealer of challenges with one key, which brokers that share sessions have in common."""

    key: bytes = field(repr=False)

    @classmethod
    def of(cls, token_key: ec.EllipticCurvePrivateKey) -> Self:
        """Create a sealer whose key is derived from the key that signs tokens."""
        private = token_key.private_numbers().private_value
        size = (token_key.key_size + 7) // 8
        derivation = HKDF(hashes.SHA256(), _KEY_BYTES, salt=None, info=_PURPOSE)
        return cls(derivation.derive(private.to_bytes(size)))

    def seal(self, challenge: Challenge, *, session: str, expires: datetime) -> str:
        """Return the challenge as sealed text, which is valid for this session only."""
        members = [challenge.version, challenge.tee, challenge.nonce, expires.timestamp()]
        text = json.dumps(members)
        return f"{self._mac(session, text)} {text}"

    def open(self, sealed: str, *, session: str, now: datetime) -> Challenge:
        """Return a challenge that `seal` sealed for this session.

        Raises:
            SessionInvalid: it was sealed with another key or for another session, or has expired;
                or a clock that was ahead sealed it, so that it would be valid for too long.
        """
        mac, _, text = sealed.partition(" ")
        expected = self._mac(session, text)
        if not hmac.compare_digest(mac.encode("utf-8", "replace"), expected.encode()):
            raise SessionInvalid("the challenge of the session was not issued by this broker")
        version, tee, nonce, expires = json.loads(text)  # sealed, so it has this shape
        if not now.timestamp() < expires <= (now + LIFETIME + _LEEWAY).timestamp():
            raise SessionInvalid("the session has expired")
        return Challenge(Version(version), tee, nonce)

    def _mac(self, session: str, text: str) -> str:
        sealed = f"{session} {text}".encode("utf-8", "replace")
        return hmac.digest(self.key, sealed, "sha256").hex()
