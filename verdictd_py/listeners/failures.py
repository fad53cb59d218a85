"""Reasons of failed connections of guests, with the remedy if the failure is a known one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from verdictd_py.config import OPTION_FOR_OWN_EVIDENCE
from verdictd_py.errors import VerdictdError

HINTS: Final[Mapping[str, str]] = {
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
    reason = str(error)
    return reason + "".join(f": {hint}" for known, hint in HINTS.items() if known in reason)
