"""Collateral parsed into objects, once for each set however often it is used.

One appraisal asks one set of collateral for its evaluation number, its form, its validity and
its TCB levels. Everything that reads those goes through `parsed`, so that texts of some
10 KiB are not parsed again for each question, nor again for the next guest.

Nothing here is verified: signatures, form and dates are checked in `check` and by dcap-qvl.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Final

from cryptography import x509

from verdictd_py.domain.evidence import Collateral

_SETS: Final = 16
"""Sets that stay parsed; a guest can bring its own, so the number is bounded."""


@dataclass(frozen=True)
class ParsedCollateral:
    """A lazy view of one set of collateral. Its objects are shared: do not change them.

    Each attribute raises what its parser raises for a text of another form: `ValueError`
    (no JSON, no DER) or `RecursionError` (JSON nested too deeply).
    """

    collateral: Collateral = field(repr=False)

    @cached_property
    def tcb_info(self) -> dict[str, Any]:
        """TCB info (PCS v4, `tcbInfo`); any JSON where it was not verified."""
        found: dict[str, Any] = json.loads(self.collateral.tcb_info)
        return found

    @cached_property
    def qe_identity(self) -> dict[str, Any]:
        """Identity of the quoting enclave (PCS v4, `enclaveIdentity`); any JSON likewise."""
        found: dict[str, Any] = json.loads(self.collateral.qe_identity)
        return found

    @cached_property
    def pck_crl(self) -> x509.CertificateRevocationList:
        """Revocation list of the CA that issues PCK certificates."""
        return x509.load_der_x509_crl(self.collateral.pck_crl)

    @cached_property
    def root_ca_crl(self) -> x509.CertificateRevocationList:
        """Revocation list of the root CA."""
        return x509.load_der_x509_crl(self.collateral.root_ca_crl)


@lru_cache(maxsize=_SETS)
def parsed(collateral: Collateral) -> ParsedCollateral:
    """Return the view of a set of collateral, the same one for equal sets."""
    return ParsedCollateral(collateral)
