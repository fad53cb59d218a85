"""The attestation token as a guest uses it: read and sent, but not verified.

The recipients of a token verify its signature; guests do not. They require only that the
registered claims have the right types. Sources: wire-rcar.md, the end of "Handshake"; RFC 7519,
4.1; guest-components, kbs_protocol/src/token_provider/mod.rs (jwt-simple, `JWTClaims`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Self

from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.encoding import JsonValue
from verdictd_py.guest.rcar.errors import AnswerInvalid, from_base64url, read_object
from verdictd_py.guest.rcar.messages import JsonObject

_WHAT: Final = "the token"


@dataclass(frozen=True, slots=True)
class Token:
    """One token. Its text with the TEE's key authenticates the guest, so both are redacted.

    Attributes:
        content: the JWT.
        header: unverified.
        claims: unverified.
    """

    content: SecretBytes
    header: JsonObject = field(repr=False)
    claims: JsonObject = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a JWT as guests do: the claims, without verifying the signature.

        Raises:
            AnswerInvalid: not a JWT that guests can read.
        """
        parts = text.split(".")
        if len(parts) != 3 or not text.isascii():
            raise AnswerInvalid("the token is not a JWT: it does not have three parts")
        header, claims = (
            read_object(from_base64url(part, f"a part of {_WHAT}"), f"a part of {_WHAT}")
            for part in parts[:2]
        )
        from_base64url(parts[2], "the token's signature")
        for name, value in claims.items():
            if not _fits(name, value):
                raise AnswerInvalid(f"the token's {name} does not have the type that guests read")
        return cls(SecretBytes(text.encode()), header, claims)

    def check(self, now: datetime) -> None:
        """Check that the token has not expired and is valid already, by `exp` and `nbf` if any.

        Args:
            now: aware time.

        Raises:
            AnswerInvalid: the token is not valid now.
        """
        seconds = int(now.timestamp())  # as guests count
        expires, begins = self.claims.get("exp"), self.claims.get("nbf")
        if isinstance(expires, int | float) and expires < seconds:
            raise AnswerInvalid("the token has expired: attest again")
        if isinstance(begins, int | float) and begins > seconds:
            raise AnswerInvalid("the token is not valid yet: is the clock of this guest right?")


def _fits(name: str, value: JsonValue) -> bool:
    """Return whether a claim has a type that guests read; unregistered claims may have any."""
    if name in ("iat", "exp", "nbf"):
        return isinstance(value, int | float) and not isinstance(value, bool)
    if name in ("iss", "sub", "jti", "nonce"):
        return value is None or isinstance(value, str)
    if name == "aud" and isinstance(value, list):
        return all(isinstance(element, str) for element in value)
    return name != "aud" or isinstance(value, str)
