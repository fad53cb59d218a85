"""Certificate of the broker, in a form that clients of every revision of rats-tls accept.

Source: wire-rats-tls.md, "The server's certificate".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from verdictd_py.protocols.ratstls.issue import BACKDATED, Form, issue

NOT_BEFORE: Final = datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
NOT_AFTER: Final = datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)
"""Validity of every certificate of the broker, so that no clock matters, neither its own nor that
of a client. Source: rats-tls 62816c1, `openssl_gen_cert`, which writes these for certificates with
a nonce. The signature is the certificate's own, so that a shorter validity would prove nothing."""


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """Private key and self-signed certificate of the broker; each has another key.

    Clients pin neither, so both are in memory only.

    Attributes:
        private_key: P-256, PKCS#8 DER: a secret.
        certificate: DER, valid from `NOT_BEFORE` to `NOT_AFTER`.
    """

    private_key: bytes = field(repr=False)
    certificate: bytes = field(repr=False)

    @classmethod
    def create(cls, *, quote_for: Callable[[bytes], bytes] | None = None) -> Self:
        """Create an identity.

        Args:
            quote_for: returns a quote with the given REPORTDATA, for clients that verify the
                broker; None for an identity without evidence.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        # Clients without a verifier accept exactly the certificates of the null attester.
        form = Form.NULL if quote_for is None else Form.CURRENT
        start = NOT_BEFORE + BACKDATED
        certificate = issue(
            form, key=key, quote_for=quote_for, now=start, lifetime=NOT_AFTER - start
        )
        return cls(
            key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), certificate
        )
