"""Verification of collateral without a quote: signatures, dates, and platform type."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from verdictd_py.errors import AttestationError, CollateralExpired, Reason, ReasonKind
from verdictd_py.formats.collateral import Collateral
from verdictd_py.tees.intel.collateral.parsed import parsed
from verdictd_py.tees.intel.collateral.port import CollateralRequest
from verdictd_py.tees.intel.dcap import CollateralRejected
from verdictd_py.tees.intel.pck import UNUSABLE, load_chain, verify_chain, verify_signed_text
from verdictd_py.tees.intel.quote import SGX, TDX

_IDS: Final = {TDX: ("TDX", "TD_QE"), SGX: ("SGX", "QE")}
"""`id` of TCB info and of the quoting enclave's identity (PCS v4)."""

_VERSIONS: Final = (3, 2)
"""`version` of the same two (PCS v4); members of another version could have another meaning."""


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

    1. TCB info and QE identity are signed under the root. 2. They have a known version, and
    are for this platform type. 3. Both CRLs are signed by their issuers under the root.
    4. No certificate of a signer is revoked. 5. Everything is valid at `now`.

    Args:
        root_key: SHA-256 of the trusted root's SubjectPublicKeyInfo.

    Raises:
        CollateralRejected: one of 1 to 4 failed; the text names the check.
        CollateralExpired: 5 failed.
    """
    try:
        chains = [
            load_chain(text.encode())
            for text in (
                collateral.tcb_info_issuer_chain,
                collateral.qe_identity_issuer_chain,
                collateral.pck_crl_issuer_chain,
            )
        ]
        info, identity = parsed(collateral).tcb_info, parsed(collateral).qe_identity
        verify_texts(collateral, root_key=root_key, now=now)  # 1
        verify_chain(collateral.pck_crl_issuer_chain.encode(), root_key=root_key, now=now)
        _require_known_form(info, identity)  # 2
        _require_platform(info, identity, request)
        crls = _crls(collateral, chains[2], request)  # 3
        _require_not_revoked(chains, crls[1])  # 4
        validity = _validity(info, identity, crls)
    except AttestationError:
        raise
    except _UNREADABLE as error:
        raise _rejected(f"it cannot be read: {type(error).__name__}") from error
    if not validity.start <= now <= validity.end:  # 5
        window = f"{validity.start.isoformat()} to {validity.end.isoformat()}"
        text = "the collateral is outside its validity"
        reason = Reason("collateral", now.isoformat(), window, text, kind=ReasonKind.COLLATERAL)
        raise CollateralExpired(text, reasons=(reason,))
    return validity


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
        raise _rejected(f"it cannot be read: {type(error).__name__}") from error
    if own_pce_id != pce_id:
        raise _rejected(f"it is for PCE {own_pce_id}, the platform has {pce_id}")


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


def verify_texts(collateral: Collateral, *, root_key: bytes, now: datetime) -> None:
    """Verify that TCB info and QE identity are signed under the root.

    Raises:
        QuoteInvalid: a signature or a chain is invalid.
        CollateralExpired: a certificate is outside its validity.
    """
    for chain, text, signature, rule in (
        (
            collateral.tcb_info_issuer_chain,
            collateral.tcb_info,
            collateral.tcb_info_signature,
            "tcb-info",
        ),
        (
            collateral.qe_identity_issuer_chain,
            collateral.qe_identity,
            collateral.qe_identity_signature,
            "qe-identity",
        ),
    ):
        pem = chain.encode("utf-8", "surrogatepass")
        signer = verify_chain(pem, root_key=root_key, now=now)
        verify_signed_text(text, signature, signer, rule=rule)


def _require_known_form(info: dict[str, Any], identity: dict[str, Any]) -> None:
    versions = (info.get("version"), identity.get("version"))
    if versions != _VERSIONS:
        names = "TCB info and QE identity have the versions"
        raise _rejected(f"{names} {versions[0]} and {versions[1]}, supported are 3 and 2")


def _require_platform(
    info: dict[str, Any], identity: dict[str, Any], request: CollateralRequest
) -> None:
    expected = _IDS.get(request.tee)
    if expected is None or (info["id"], identity["id"]) != expected:
        raise _rejected(f"it is not for {request.tee}")
    if bytes.fromhex(info["fmspc"]).hex() != request.fmspc:
        raise _rejected("it is for another FMSPC")


def _crls(
    collateral: Collateral, chain: list[x509.Certificate], request: CollateralRequest
) -> tuple[x509.CertificateRevocationList, x509.CertificateRevocationList]:
    """Return the CRL of the PCK certificates and that of the root, both verified."""
    pck, root = parsed(collateral).pck_crl, parsed(collateral).root_ca_crl
    for crl, issuer in ((pck, chain[0]), (root, chain[-1])):
        key = issuer.public_key()
        if (
            crl.issuer != issuer.subject
            or not isinstance(key, ec.EllipticCurvePublicKey)
            or not crl.is_signature_valid(key)
        ):
            raise _rejected("a revocation list is not signed by its issuer")
        extensions = issuer.extensions
        if (
            not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
            or not extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign
        ):
            raise _rejected("the issuer of a revocation list is not a CA that may sign one")
    names = [str(attribute.value).lower() for attribute in chain[0].subject]
    if not any(request.ca in name for name in names):
        raise _rejected(f"its revocation list is not that of the {request.ca} CA")
    return pck, root


def _require_not_revoked(
    chains: list[list[x509.Certificate]], root_crl: x509.CertificateRevocationList
) -> None:
    for chain in chains:
        for certificate in chain[:-1]:
            entry = root_crl.get_revoked_certificate_by_serial_number(certificate.serial_number)
            if entry is not None:
                raise _rejected("a certificate that signed it is revoked")


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
            raise _rejected("a revocation list has no next update")
        starts.append(crl.last_update_utc)
        ends.append(crl.next_update_utc)
    numbers = [int(document["tcbEvaluationDataNumber"]) for document in documents]
    return Validity(max(starts), min(ends), min(numbers))


def _rejected(reason: str) -> CollateralRejected:
    text = f"the collateral does not verify: {reason}"
    return CollateralRejected(
        text, reasons=(Reason("collateral", "", "", text, kind=ReasonKind.COLLATERAL),)
    )
