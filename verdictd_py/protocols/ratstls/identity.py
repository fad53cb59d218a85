"""Certificate of the broker, in a form that clients of every revision of rats-tls accept.

Source: wire-rats-tls.md, "The server's certificate".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from verdictd_py.formats import der
from verdictd_py.protocols.ratstls.issue import LIFETIME, Form, issue

_SPARE: Final = 1 / 3  # part of the lifetime left at renewal: clients' clocks may be wrong


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """Private key and self-signed certificate of the broker; a renewal has another key.

    Clients pin neither, so both are in memory only.

    Attributes:
        private_key: P-256, PKCS#8 DER: a secret.
        certificate: DER.
        not_before, not_after: its validity period.
        lifetime: lifetime of this identity and of its renewals.
        quote_for: returns a quote with the given REPORTDATA, for clients that verify the
            broker; None for an identity without evidence.
    """

    private_key: bytes = field(repr=False)
    certificate: bytes = field(repr=False)
    not_before: datetime
    not_after: datetime
    lifetime: timedelta
    quote_for: Callable[[bytes], bytes] | None = field(repr=False)

    @classmethod
    def create(
        cls,
        now: datetime,
        *,
        lifetime: timedelta = LIFETIME,
        quote_for: Callable[[bytes], bytes] | None = None,
    ) -> Self:
        """Create an identity that is valid from an hour before `now`, an aware time."""
        key = ec.generate_private_key(ec.SECP256R1())
        # Clients without a verifier accept exactly the certificates of the null attester.
        form = Form.NULL if quote_for is None else Form.CURRENT
        certificate = issue(form, key=key, quote_for=quote_for, now=now, lifetime=lifetime)
        written = der.read_certificate(certificate)
        return cls(
            key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
            certificate,
            written.not_before,
            written.not_after,
            lifetime,
            quote_for,
        )

    def is_due(self, now: datetime) -> bool:
        """Return whether to renew it: it expires soon, or the clock was set back."""
        renewal = self.not_after - _SPARE * self.lifetime
        return not self.not_before <= now < renewal

    def renewed(self, now: datetime) -> Self:
        """Create the next identity, with a new key, and new evidence if this one has evidence."""
        return self.create(now, lifetime=self.lifetime, quote_for=self.quote_for)
