"""Reasons of failed connections of guests, with the remedy if the failure is a known one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from verdictd_py.config import OPTION_FOR_OWN_EVIDENCE
from verdictd_py.errors import VerdictdError

CLOCK_HINTS: Final[Mapping[str, str]] = {
    "bad certificate": (
        "the guest does not accept the broker's certificate; OpenSSL reports one that is not valid "
        "yet by the guest's clock in this way, so compare the clocks of guest and broker"
    ),
    "certificate expired": (
        "the broker's certificate has expired by the guest's clock; compare the clocks of guest "
        "and broker, then renew the certificate"
    ),
}
"""Cause and remedy by the name of the alert (RFC 8446, 6.2). OpenSSL sends `bad_certificate` for
X509_V_ERR_CERT_NOT_YET_VALID, and rustls sends `certificate_expired` for it."""

HINTS: Final[Mapping[str, str]] = {
    **CLOCK_HINTS,
    "unknown ca": (
        "the guest accepts no broker without evidence, as rats-tls built between 2022-12-29 and "
        f"2023-12-08 does; start the broker with {OPTION_FOR_OWN_EVIDENCE}"
    ),
    "http request": "the peer sent plain HTTP; this port serves RATS-TLS only, see --kbs-http",
}
"""Cause and remedy by the reason of OpenSSL. The first guest reports only "failed to select the
enclave verifier ''" (wire-rats-tls.md, "The server's certificate")."""


def reason_of(error: VerdictdError | OSError) -> str:
    """Return the reason to log for a connection that failed with `error`."""
    if not isinstance(error, VerdictdError):
        return "network failure"
    return explained(str(error), HINTS)


def explained(reason: str, hints: Mapping[str, str]) -> str:
    """Return a reason of OpenSSL with the hints that apply to it."""
    return reason + "".join(f": {hint}" for known, hint in hints.items() if known in reason)
