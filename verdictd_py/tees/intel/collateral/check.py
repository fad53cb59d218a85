"""Verification of collateral without a quote: signatures, dates, and platform type."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Final

from cryptography import x509

from verdictd_py.errors import AttestationError, CollateralExpired, Reason, ReasonKind
from verdictd_py.formats.collateral import Collateral
from verdictd_py.tees.intel.chains import UNUSABLE, clock_behind
from verdictd_py.tees.intel.collateral.parsed import parsed
from verdictd_py.tees.intel.collateral.port import CollateralRequest
from verdictd_py.tees.intel.collateral.signers import rejected, verify_signers
from verdictd_py.tees.intel.quote import SGX, TDX

_IDS: Final = {TDX: ("TDX", "TD_QE"), SGX: ("SGX", "QE")}
"""`id` of TCB info and of the quoting enclave's identity (PCS v4)."""

_VERSIONS: Final = (3, 2)
"""`version` of the same two (PCS v4); members of another version could have another meaning."""

CLOCK_TOLERANCE: Final = timedelta(minutes=5)
"""How far this host's clock may be behind the clock of the service that issued collateral."""

_SETS: Final = 16
"""Maximum number of sets whose dates are cached; limited, because guests send their own."""

_UNREADABLE: Final = (*UNUSABLE, LookupError, AttributeError, RecursionError)
"""Errors that reading malformed collateral raises, including JSON of another shape."""


@dataclass(frozen=True, slots=True)
class Validity:
    """Validity period of collateral, and the version of its TCB levels.

    Attributes:
        start: the latest of its dates of issue.
        end: the earliest of its next updates.
        evaluation_number: the lower of the two `tcbEvaluationDataNumber`.
    """

    start: datetime
    end: datetime
    evaluation_number: int


def check_collateral(
    collateral: Collateral, request: CollateralRequest, *, root_key: bytes, now: datetime
) -> Validity:
    """Verify collateral for a platform type.

    1. Every part is signed by the signer that may sign it (`verify_signers`). 2. TCB info and
    QE identity have a known version, and are for this platform type. 3. No signer is revoked.
    4. Everything is valid at `now`, where issue dates may be `CLOCK_TOLERANCE` later.

    Args:
        root_key: SHA-256 of the trusted root's SubjectPublicKeyInfo.

    Raises:
        CollateralRejected: 1 or 2 failed; the text names the check.
        QuoteInvalid: 3 failed.
        CollateralExpired: 4 failed.
        ClockBehind: 4 cannot be decided, because this host's clock is wrong.
    """
    try:
        signers = verify_signers(collateral, request.ca, root_key)  # 1
        require_platform(collateral, request)  # 2
        info, identity = parsed(collateral).tcb_info, parsed(collateral).qe_identity
        signers.require_not_revoked()  # 3
        validity = _validity(info, identity, (signers.pck_crl, signers.root_crl))
    except AttestationError:
        raise
    except _UNREADABLE as error:
        raise rejected(f"it cannot be read: {type(error).__name__}") from error
    signers.require_valid(require_issued(validity.start, now))  # 4
    if now > validity.end:
        window = f"{validity.start.isoformat()} to {validity.end.isoformat()}"
        text = "the collateral is outside its validity"
        reason = Reason("collateral", now.isoformat(), window, text, kind=ReasonKind.COLLATERAL)
        raise CollateralExpired(text, reasons=(reason,))
    return validity


def require_issued(issued: datetime, now: datetime) -> datetime:
    """Return the time at which signed collateral is evaluated: `now`, or its issue if later.

    Collateral whose signatures verify proves that its time of issue has passed. If it is later
    than `now` by more than the usual deviation of clocks, this host's clock is wrong, and no
    decision about dates is possible.

    Args:
        issued: latest issue date of collateral whose signatures were verified.

    Raises:
        ClockBehind: it was issued more than `CLOCK_TOLERANCE` after `now`.
    """
    if issued > now + CLOCK_TOLERANCE:
        raise clock_behind("collateral", issued, now)
    return max(issued, now)


@lru_cache(maxsize=_SETS)
def issued_at(collateral: Collateral) -> datetime:
    """Return the latest issue date of collateral. Nothing is verified.

    Raises:
        CollateralRejected: the collateral has no such dates.
    """
    try:
        view = parsed(collateral)
        crls = (view.pck_crl, view.root_ca_crl)
        return max(
            *(datetime.fromisoformat(it["issueDate"]) for it in (view.tcb_info, view.qe_identity)),
            *(crl.last_update_utc for crl in crls),
        )
    except _UNREADABLE as error:
        raise rejected("it has no issue date") from error


def require_platform(collateral: Collateral, request: CollateralRequest) -> None:
    """Require that TCB info and QE identity have a known version, and are for a platform type.

    Raises:
        CollateralRejected: they do not, or are not.
    """
    try:
        info, identity = parsed(collateral).tcb_info, parsed(collateral).qe_identity
        _require_known_form(info, identity)
        expected = _IDS.get(request.tee)
        if expected is None or info["id"] != expected[0]:
            raise rejected(f"its TCB info is not for {request.tee}", rule="tcb-info")
        if identity["id"] != expected[1]:
            raise rejected(f"its QE identity is not for {request.tee}", rule="qe-identity")
        if bytes.fromhex(info["fmspc"]).hex() != request.fmspc:
            raise rejected("its TCB info is for another FMSPC", rule="tcb-info")
    except _UNREADABLE as error:
        raise rejected(f"it cannot be read: {type(error).__name__}") from error


def check_fit(collateral: Collateral, pce_id: str) -> None:
    """Check what dcap-qvl does not check in collateral that it has verified for a quote.

    1. TCB info and QE identity have a known version. 2. TCB info is for the platform's PCE.

    Args:
        pce_id: 4 lower-case hex digits, from the PCK certificate.

    Raises:
        CollateralRejected: one of the checks failed.
    """
    try:
        info, identity = parsed(collateral).tcb_info, parsed(collateral).qe_identity
        _require_known_form(info, identity)  # 1
        own_pce_id = bytes.fromhex(info["pceId"]).hex()  # 2
    except _UNREADABLE as error:
        raise rejected(f"it cannot be read: {type(error).__name__}") from error
    if own_pce_id != pce_id:
        raise rejected(f"it is for PCE {own_pce_id}, the platform has {pce_id}")


@lru_cache(maxsize=_SETS)
def ends_at(collateral: Collateral) -> datetime:
    """Return when collateral expires: the earliest of its next updates. Nothing is verified.

    Raises:
        ValueError: the collateral has no such dates.
    """
    try:
        view = parsed(collateral)
        ends = [
            datetime.fromisoformat(members["nextUpdate"])
            for members in (view.tcb_info, view.qe_identity)
        ]
        crls = (view.pck_crl, view.root_ca_crl)
        ends += [crl.next_update_utc for crl in crls if crl.next_update_utc is not None]
        return min(ends)
    except _UNREADABLE as error:
        raise ValueError("the collateral has no expiry date") from error


def _require_known_form(info: dict[str, Any], identity: dict[str, Any]) -> None:
    versions = (info.get("version"), identity.get("version"))
    if versions != _VERSIONS:
        names = "TCB info and QE identity have the versions"
        raise rejected(f"{names} {versions[0]} and {versions[1]}, supported are 3 and 2")


def _validity(
    info: dict[str, Any],
    identity: dict[str, Any],
    crls: tuple[x509.CertificateRevocationList, ...],
) -> Validity:
    documents = (info, identity)
    starts = [datetime.fromisoformat(document["issueDate"]) for document in documents]
    ends = [datetime.fromisoformat(document["nextUpdate"]) for document in documents]
    for crl in crls:
        if crl.next_update_utc is None:
            raise rejected("a revocation list has no next update")
        starts.append(crl.last_update_utc)
        ends.append(crl.next_update_utc)
    numbers = [int(document["tcbEvaluationDataNumber"]) for document in documents]
    return Validity(max(starts), min(ends), min(numbers))
