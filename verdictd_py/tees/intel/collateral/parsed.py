"""Collateral parsed into objects, once for each set.

One appraisal reads the evaluation number, the form, the validity and the TCB levels of a set.
All readers use `parsed`, so that texts of some 10 KiB are not parsed several times for one
guest, nor again for the next one.

Nothing here is verified: `check` and dcap-qvl verify signatures, form and dates.
"""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass, field
from functools import cached_property, lru_cache
from hashlib import sha256
from typing import Any, Final

from cryptography import x509

from verdictd_py.formats.collateral import Collateral

_SETS: Final = 16
"""Maximum number of cached sets; limited, because guests can send their own."""


@dataclass(frozen=True)
class ParsedCollateral:
    """Lazy view of one set of collateral. Its objects are shared: do not change them.

    Each attribute raises the error of its parser: `ValueError` (not valid JSON or DER) or
    `RecursionError` (JSON nested too deeply).
    """

    collateral: Collateral = field(repr=False)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 that is different for two sets that differ in any byte of any member."""
        parts = (
            part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
            for part in astuple(self.collateral)
        )
        return sha256(b"".join(sha256(part).digest() for part in parts)).digest()

    @cached_property
    def tcb_info(self) -> dict[str, Any]:
        """TCB info (PCS v4, `tcbInfo`); any JSON if it is not verified."""
        members: dict[str, Any] = json.loads(self.collateral.tcb_info)
        return members

    @cached_property
    def qe_identity(self) -> dict[str, Any]:
        """Identity of the quoting enclave (PCS v4, `enclaveIdentity`); any JSON, as above."""
        members: dict[str, Any] = json.loads(self.collateral.qe_identity)
        return members

    @cached_property
    def pck_crl(self) -> x509.CertificateRevocationList:
        """Revocation list of the CA that issues PCK certificates."""
        return read_crl(self.collateral.pck_crl)

    @cached_property
    def root_ca_crl(self) -> x509.CertificateRevocationList:
        """Revocation list of the root CA."""
        return read_crl(self.collateral.root_ca_crl)


def read_crl(der: bytes) -> x509.CertificateRevocationList:
    """Read a revocation list; its extensions are read later.

    Raises:
        ValueError: it is not a revocation list, or of an unknown version.
    """
    try:
        return x509.load_der_x509_crl(der)
    except x509.InvalidVersion as error:
        raise ValueError(f"the revocation list has an unknown version: {error}") from error


@lru_cache(maxsize=_SETS)
def parsed(collateral: Collateral) -> ParsedCollateral:
    """Return the view of a set of collateral, the same one for equal sets."""
    return ParsedCollateral(collateral)
