"""The attestation token as a guest sees it: carried, looked into, never judged.

Guests do not verify its signature; whoever is shown it does. They do need its registered
claims to be of their types. Sources: wire-rcar.md, the end of "Handshake"; RFC 7519, 4.1;
guest-components, kbs_protocol/src/token_provider/mod.rs (jwt-simple, `JWTClaims`).
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

TEE_KEY_PATHS: Final = (
    (
        *("submods", "cpu0", "ear.veraison.annotated-evidence"),
        *("runtime_data_claims", "tee-pubkey"),
    ),
    ("customized_claims", "runtime_data", "tee-pubkey"),
)
"""Where a token holds the TEE's public key; readers of different ages look at either."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token. Whoever has its text and the TEE's key is this guest, so neither is shown.

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
        """Reads a JWT as guests do: its claims, and no signature.

        Raises:
            AnswerInvalid: it is none.
        """
        parts = text.split(".")
        if len(parts) != 3 or not text.isascii():
            raise AnswerInvalid("the token is no JWT: it has not three parts")
        header, claims = (
            read_object(from_base64url(part, f"a part of {_WHAT}"), f"a part of {_WHAT}")
            for part in parts[:2]
        )
        from_base64url(parts[2], "the token's signature")
        for name, value in claims.items():
            if not _fits(name, value):
                raise AnswerInvalid(f"the token's {name} is of another type than guests read")
        return cls(SecretBytes(text.encode()), header, claims)

    def check(self, now: datetime) -> None:
        """That `exp` is not past and `nbf` not to come, where the token has them.

        Args:
            now: aware.

        Raises:
            AnswerInvalid: this token is of no use now.
        """
        seconds = int(now.timestamp())  # as guests count
        expires, begins = self.claims.get("exp"), self.claims.get("nbf")
        if isinstance(expires, int | float) and expires < seconds:
            raise AnswerInvalid("the token has expired: attest again")
        if isinstance(begins, int | float) and begins > seconds:
            raise AnswerInvalid("the token is not valid yet: is the clock of this guest right?")

    def tee_keys(self) -> tuple[JsonValue, ...]:
        """The JWK at each of `TEE_KEY_PATHS`, None where there is none."""
        return tuple(_at(self.claims, path) for path in TEE_KEY_PATHS)


def _fits(name: str, value: JsonValue) -> bool:
    """Whether guests can read a claim; those that RFC 7519 does not register, they can."""
    if name in ("iat", "exp", "nbf"):
        return isinstance(value, int | float) and not isinstance(value, bool)
    if name in ("iss", "sub", "jti", "nonce"):
        return value is None or isinstance(value, str)
    if name == "aud" and isinstance(value, list):
        return all(isinstance(element, str) for element in value)
    return name != "aud" or isinstance(value, str)


def _at(value: JsonValue, path: tuple[str, ...]) -> JsonValue:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value
