"""Adapter for dcap-qvl: its arguments, its results, and typed errors for its texts.

dcap-qvl reports every error as a `ValueError` with a text. The texts come from its
`src/verify.rs` and from the names of rustls-webpki's errors (dcap-qvl 0.7). An unknown text is
a refusal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, TypeVar

import dcap_qvl

from verdictd_py.errors import (
    AttestationError,
    CollateralExpired,
    QuoteInvalid,
    Reason,
    ReasonKind,
)
from verdictd_py.formats.collateral import Collateral
from verdictd_py.tees.intel.tcb import TcbRating

_T = TypeVar("_T")

CONTENT_REFUSALS: Final = {
    "Invalid MR service TD": ("mrServiceTd", ReasonKind.ATTRIBUTES),
    "Debug mode is enabled": ("debug", ReasonKind.ATTRIBUTES),
    "TD profiling is enabled": ("tdAttributes", ReasonKind.ATTRIBUTES),
    "Reserved bits in TD attributes are set": ("tdAttributes", ReasonKind.ATTRIBUTES),
    "TD migration is enabled": ("tdAttributes", ReasonKind.ATTRIBUTES),
    "SERVTD_EXT is enabled": ("tdAttributes", ReasonKind.ATTRIBUTES),
    "SEPT_VE_DISABLE is not enabled": ("tdAttributes", ReasonKind.ATTRIBUTES),
    "TCB status is invalid: Revoked": ("tcbStatus", ReasonKind.TCB),
}
"""Rule and kind by complete text of dcap-qvl, for quotes whose signatures it has verified.

dcap-qvl raises these at the end of `verify_impl`, after every signature, revocation and TCB
check. The caller nevertheless verifies the signatures again before it trusts a claim.
"""


@dataclass(frozen=True, slots=True)
class QuoteRating:
    """Intel's rating of the platform of a quote that verified.

    Attributes:
        fmspc: 12 lower-case hex digits, as dcap-qvl read them.
    """

    tcb: TcbRating
    fmspc: str


@dataclass(frozen=True, slots=True)
class ContentRefusal:
    """Refusal of a quote that verified, for its content: one of `CONTENT_REFUSALS`."""

    rule: str
    text: str
    kind: ReasonKind


class CollateralRejected(QuoteInvalid):
    """The collateral itself does not verify; the quote may verify with other collateral."""

    kind = ReasonKind.COLLATERAL


_EXPIRED: Final = "expired"
_COLLATERAL: Final = "collateral"
_EVIDENCE: Final = "evidence"

# (part of the text, rule, cause): the first part that occurs decides. Revocation comes first,
# because no other collateral may be tried then: older collateral may lack the revocation.
_TEXTS: Final = (
    ("CertRevoked", "revocation", _EVIDENCE),
    ("CertExpired", "collateral", _EXPIRED),
    ("CertNotValidYet", "collateral", _EXPIRED),
    ("CrlExpired", "revocation", _EXPIRED),
    ("TCBInfo expired", "tcb-info", _EXPIRED),
    ("TCBInfo issue date is in the future", "tcb-info", _EXPIRED),
    ("QE Identity expired", "qe-identity", _EXPIRED),
    ("QE Identity issue date is in the future", "qe-identity", _EXPIRED),
    ("UnknownRevocationStatus", "revocation", _COLLATERAL),
    ("InvalidCrlSignature", "revocation", _COLLATERAL),
    ("CRL", "revocation", _COLLATERAL),
    ("Crl", "revocation", _COLLATERAL),
    ("No matching TCB level", "tcb-info", _EVIDENCE),
    ("TDX module", "tdx-module", _EVIDENCE),
    ("current TDX TCB", "tcb-info", _EVIDENCE),
    ("QE MRSIGNER", "qe-identity", _EVIDENCE),
    ("QE ISVPRODID", "qe-identity", _EVIDENCE),
    ("QE MISCSELECT", "qe-identity", _EVIDENCE),
    ("QE ATTRIBUTES", "qe-identity", _EVIDENCE),
    ("QE ISVSVN", "qe-identity", _EVIDENCE),
    ("QE report validation failed", "qe-identity", _EVIDENCE),
    ("Signature is invalid for qe_report", "signature", _EVIDENCE),
    ("QE report hash mismatch", "signature", _EVIDENCE),
    ("QE auth data", "signature", _EVIDENCE),
    ("ISV enclave report signature", "signature", _EVIDENCE),
    ("tcb_info", "tcb-info", _COLLATERAL),
    ("TcbInfo", "tcb-info", _COLLATERAL),
    ("TCB Info", "tcb-info", _COLLATERAL),
    ("TCB info", "tcb-info", _COLLATERAL),
    ("TCB FMSPC", "tcb-info", _COLLATERAL),
    ("Fmspc mismatch", "tcb-info", _COLLATERAL),
    ("qe_identity", "qe-identity", _COLLATERAL),
    ("QeIdentity", "qe-identity", _COLLATERAL),
    ("QE Identity", "qe-identity", _COLLATERAL),
    ("Failed to decode quote", "quote", _EVIDENCE),
    ("Invalid key length", "collateral", _COLLATERAL),  # a signature that has not 64 bytes
    ("PCK", "pck-chain", _EVIDENCE),
    ("certificate", "pck-chain", _COLLATERAL),  # the quote's own chain was verified before
    ("certs", "pck-chain", _COLLATERAL),
)

_PLAIN: Final = {
    "CertRevoked": "Intel has revoked a certificate of this platform",
    "No matching TCB level": "the platform is older than every TCB level that Intel lists",
    "TDX module": "Intel does not list the platform's TDX module",
    "TCBInfo expired": "newer TCB info is needed",
    "QE Identity expired": "a newer QE identity is needed",
    "CrlExpired": "a newer revocation list is needed",
}
"""Explanation for operators by part of the library's text; it precedes that text."""


_SETS: Final = 16  # maximum number of cached sets; limited, because guests send their own


@lru_cache(maxsize=_SETS)
def to_library(collateral: Collateral) -> dcap_qvl.QuoteCollateralV3:
    """Return the collateral as dcap-qvl's type, the same object for equal sets.

    Raises:
        ValueError: a text in it is not valid Unicode (lone surrogates).
    """
    return dcap_qvl.QuoteCollateralV3(
        pck_crl_issuer_chain=collateral.pck_crl_issuer_chain,
        root_ca_crl=collateral.root_ca_crl,
        pck_crl=collateral.pck_crl,
        tcb_info_issuer_chain=collateral.tcb_info_issuer_chain,
        tcb_info=collateral.tcb_info,
        tcb_info_signature=collateral.tcb_info_signature,
        qe_identity_issuer_chain=collateral.qe_identity_issuer_chain,
        qe_identity=collateral.qe_identity,
        qe_identity_signature=collateral.qe_identity_signature,
    )


@lru_cache(maxsize=_SETS)
def _verifier(root_ca_der: bytes | None) -> dcap_qvl.QuoteVerifier:
    """Return the library's verifier up to a root; it has no other state."""
    return dcap_qvl.QuoteVerifier(root_ca_der)


def evaluate_quote(
    quote: bytes, collateral: Collateral, *, now: datetime, root_ca_der: bytes | None
) -> QuoteRating | ContentRefusal:
    """Have dcap-qvl evaluate one quote with one set of collateral.

    Args:
        quote: the quote without trailing padding.
        now: time at which everything must be valid.
        root_ca_der: trusted root, None for Intel's.

    Raises:
        CollateralExpired: collateral, a CRL or a certificate is outside its validity.
        CollateralRejected: the collateral is for another platform, or not signed.
        QuoteInvalid: any other error.
    """
    seconds = int(now.timestamp())
    try:
        library_collateral = to_library(collateral)
        claims = _guarded(
            lambda: _verifier(root_ca_der).verify_with_policy(
                quote, library_collateral, seconds, dcap_qvl.QuotePolicy.claims_only(seconds)
            )
        )
        return _read_claims(claims.to_json())
    except (ValueError, OverflowError) as error:
        text = str(error).removeprefix("Verification failed: ")
        # The whole text must match: the quoting enclave's own report can be refused for debug
        # mode too, before the signatures are verified, and that text has a prefix.
        if text in CONTENT_REFUSALS:
            rule, kind = CONTENT_REFUSALS[text]
            return ContentRefusal(rule, text, kind)
        raise translate(_full_text(quote, collateral, seconds, root_ca_der) or text) from error


_UNIX_TIME: Final = re.compile(r"UnixTime\((\d{1,15})\)")  # Rust's debug form in the texts


def translate(text: str) -> AttestationError:
    """Return the typed error for one of dcap-qvl's texts: `QuoteInvalid` for an unknown text."""
    known = next(((rule, cause) for part, rule, cause in _TEXTS if part in text), None)
    rule, cause = known or ("quote", _EVIDENCE)
    text = next((f"{plain} ({text})" for part, plain in _PLAIN.items() if part in text), text)
    if cause == _EXPIRED:
        message = "the collateral is outside its validity"
        return CollateralExpired(
            message, reasons=(_reason(CollateralExpired, rule, message, text),)
        )
    if cause == _COLLATERAL:
        message = "the collateral does not verify for this quote"
        return CollateralRejected(
            message, reasons=(_reason(CollateralRejected, rule, message, text),)
        )
    message = "the quote does not verify"
    return QuoteInvalid(message, reasons=(_reason(QuoteInvalid, rule, message, text),))


def _reason(error: type[AttestationError], rule: str, message: str, text: str) -> Reason:
    return Reason(rule, "", "", f"{message}: {text}", kind=error.kind)


def _full_text(
    quote: bytes, collateral: Collateral, seconds: int, root_ca_der: bytes | None
) -> str | None:
    """Return dcap-qvl's text about a refusal with all its causes, in one line.

    `verify_with_policy` reports only the outermost context ("Failed to verify certificate
    chain"). The older functions run the same checks and report the whole chain of causes.
    """
    try:
        library_collateral = to_library(collateral)
        if root_ca_der is None:
            _guarded(lambda: dcap_qvl.verify(quote, library_collateral, seconds))
        else:
            _guarded(
                lambda: dcap_qvl.verify_with_root_ca(
                    quote, library_collateral, root_ca_der, seconds
                )
            )
    except (ValueError, OverflowError) as error:
        text = str(error).partition("Stack backtrace:")[0].removeprefix("Verification failed: ")
        return _UNIX_TIME.sub(_as_date, " ".join(text.split()))
    return None


def _as_date(match: re.Match[str]) -> str:
    try:
        return datetime.fromtimestamp(int(match[1]), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError):
        return match[0]  # the year is out of range


def _guarded(call: Callable[[], _T]) -> _T:
    """Call into Rust, and raise a panic as `ValueError`.

    PyO3's PanicException derives from BaseException and cannot be imported. No handler would
    catch it, so that it would end the task of a listener instead of one request.
    """
    try:
        return call()
    except BaseException as error:
        if type(error).__name__ == "PanicException":
            raise ValueError(f"dcap-qvl panicked: {error}") from error
        raise


def _read_claims(text: str) -> QuoteRating:
    """Return the rating in dcap-qvl's claims.

    Raises:
        ValueError: the claims have an unknown form.
    """
    claims = json.loads(text)
    try:
        tcb, platform = claims["tcb"], claims["platform"]
        return QuoteRating(
            tcb=TcbRating(
                status=tcb["status"],
                advisory_ids=tuple(dict.fromkeys(tcb["advisory_ids"])),
                date=platform["tcb_level"]["tcbDate"],
            ),
            fmspc=bytes(platform["pck"]["fmspc"]).hex(),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"dcap-qvl's claims have an unknown form: {error}") from error
