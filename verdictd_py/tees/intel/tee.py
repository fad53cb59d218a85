"""Members that the `Tee` objects of TDX and SGX share: claims, wire formats, TCB, collateral."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from verdictd_py.domain.claims import (
    FLAG,
    NUMBER,
    TCB_BEHIND,
    TEXT,
    TEXTS,
    Claim,
    MatchRule,
    hexadecimal,
)
from verdictd_py.domain.evidence import REPORT_DATA_BYTES, VerifiedEvidence
from verdictd_py.domain.trust import (
    CONFIGURATION_NOT_UNSAFE,
    EXECUTABLES_APPROVED,
    EXECUTABLES_UNRECOGNIZED,
    HARDWARE_GENUINE,
    HARDWARE_WARNING,
    TrustVector,
)
from verdictd_py.encoding import JsonValue, decode_base64
from verdictd_py.errors import ConfigError, EvidenceFormat, EvidenceMissing, RequestError
from verdictd_py.formats import collateral
from verdictd_py.ports.tees import CarriedEvidence, CertificateSummary, VerifierContext, Wire
from verdictd_py.protocols.ratstls.dice import INTERIM_TAG, TCG_TAG
from verdictd_py.tees.intel.collateral.newest import NewestCollateral
from verdictd_py.tees.intel.collateral.port import CollateralSource
from verdictd_py.tees.intel.quote import parse_quote, tee_of_quote
from verdictd_py.tees.intel.tcb import REVOKED, STATUSES
from verdictd_py.tees.intel.verification import IntelEngine

VENDOR: Final = "intel"
"""Name of Intel's service among the services of a `VerifierContext`."""

TCB_CLAIM: Final = "tcbStatus"
ACCEPTED_TCB: Final = ("UpToDate", "SWHardeningNeeded")
"""Statuses accepted if the reference data pins none; the packaged policies accept the same."""

REVOKED_TCB: Final = (REVOKED,)
KNOWN_TCB: Final = STATUSES


@dataclass(frozen=True, slots=True)
class IntelService:
    """Collateral and its limits, shared by the verifiers of all Intel TEEs.

    Attributes:
        collateral: source of collateral.
        grace: how long the operator's collateral is still used after it expired.
        minimum_evaluation: lowest `tcbEvaluationDataNumber` that is accepted.
        newest: newest known copies of all parts of collateral; None: each verifier has its own.
        refuse_endorsements: whether collateral that guests sent is never used.
    """

    collateral: CollateralSource = field(repr=False)
    grace: timedelta = timedelta(0)
    minimum_evaluation: int = 0
    newest: NewestCollateral | None = field(default=None, repr=False)
    refuse_endorsements: bool = False


def service_of(context: VerifierContext) -> IntelService:
    """Return Intel's service.

    Raises:
        ConfigError: the context has none.
    """
    service = context.services.get(VENDOR)
    if not isinstance(service, IntelService):
        raise ConfigError("Intel quotes cannot be verified: there is no source of collateral")
    return service


def shared_claims(*, optional: bool) -> dict[str, Claim]:
    """Return the claims that every Intel TEE has in addition to its measurements.

    Args:
        optional: whether the packaged policy accepts a guest without `debug` and `tcbStatus`.
    """
    return {
        "reportData": Claim(
            hexadecimal(REPORT_DATA_BYTES), "data that the guest had signed", of_connection=True
        ),
        "debug": Claim(
            FLAG,
            "whether the host can read the guest's memory",
            match=MatchRule.ALWAYS_FALSE,
            optional=optional,
        ),
        TCB_CLAIM: Claim(
            TEXT, "Intel's TCB status of the platform", optional=optional, sample=ACCEPTED_TCB[0]
        ),
        "advisoryIds": Claim(
            TEXTS,
            "Intel's security advisories that apply to the platform",
            match=MatchRule.EACH_ONE_OF,
            sample=["INTEL-SA-00000"],
        ),
        "fmspc": Claim(hexadecimal(6), "Intel's number for the type of platform"),
        "tcbDate": Claim(
            TEXT, "date of the platform's TCB level, RFC 3339", sample="2024-03-13T00:00:00Z"
        ),
        TCB_BEHIND: Claim(TEXTS, "components that are older than the newest TCB"),
        "tcbBehindDays": Claim(NUMBER, "days since a newer TCB was published", sample=0),
    }


def wire(tee: str, oid: str) -> Wire:
    """Return how protocols name and carry the quotes of an Intel TEE.

    Args:
        oid: OID of the certificate extension in the first generation of rats-tls.
    """

    def recognizes(quote: bytes) -> bool:
        try:
            return tee_of_quote(quote) == tee
        except EvidenceFormat:
            return False

    def read_rcar(value: Mapping[str, JsonValue]) -> CarriedEvidence:
        quote = _bytes(value, "quote")
        if quote is None:
            raise EvidenceMissing("the evidence has no quote")
        if not quote:
            raise EvidenceMissing.empty()
        if tee_of_quote(quote) != tee:
            raise EvidenceFormat(f"the guest claims the TEE {tee}, but its quote is of another TEE")
        return CarriedEvidence(quote, _bytes(value, "cc_eventlog"))

    return Wire(
        recognizes=recognizes,
        rcar=(tee,),
        oids=(oid,),
        tags=(INTERIM_TAG, TCG_TAG),
        read_rcar=read_rcar,
        read_certificate=_read_certificate,
    )


def trust(verified: VerifiedEvidence, unrecognized: tuple[str, ...]) -> TrustVector:
    """Return the trust vector of a guest that was accepted."""
    current = verified.tcb_status == ACCEPTED_TCB[0]
    return {
        "hardware": HARDWARE_GENUINE if current else HARDWARE_WARNING,
        "executables": EXECUTABLES_UNRECOGNIZED if unrecognized else EXECUTABLES_APPROVED,
        "configuration": CONFIGURATION_NOT_UNSAFE,
    }


def certificates(quote: bytes) -> tuple[CertificateSummary, ...]:
    """Return the certificates of the PCK chain in a quote, the leaf first; nothing is verified.

    Raises:
        EvidenceFormat: the quote or its chain cannot be read.
    """
    try:
        chain = x509.load_pem_x509_certificates(parse_quote(quote).pck_chain.rstrip(b"\0"))
    except ValueError as error:
        raise EvidenceFormat(f"the PCK chain cannot be read: {error}") from None
    return tuple(
        CertificateSummary(
            _common_name(each.subject),
            _common_name(each.issuer),
            each.not_valid_before_utc,
            each.not_valid_after_utc,
            each.fingerprint(SHA256()).hex(),
        )
        for each in chain
    )


def _common_name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else name.rfc4514_string()


def _read_certificate(quote: bytes, endorsements: bytes | None, tag: int) -> CarriedEvidence:
    sent = None if endorsements is None else collateral.read(endorsements, tag=tag)
    return CarriedEvidence(quote, endorsements=sent)


def _bytes(members: Mapping[str, JsonValue], name: str) -> bytes | None:
    text = members.get(name)
    if text is None:
        return None
    if not isinstance(text, str):
        raise EvidenceFormat(f"the evidence's {name} is not a text")
    try:
        return decode_base64(text, f"the evidence's {name}")
    except RequestError as error:
        raise EvidenceFormat(str(error)) from None


class IntelVerifier:
    """Base of the verifiers of Intel's TEEs; subclasses add `verify`.

    Args:
        collateral: source of collateral.
        root_ca_der: trusted root certificate, None for Intel's.
        grace: how long expired collateral is still used.
        minimum_evaluation: lowest `tcbEvaluationDataNumber` that is accepted.
        newest: see `IntelService`.
        refuse_endorsements: see `IntelService`.

    Raises:
        ConfigError: the root is not a certificate.
    """

    def __init__(
        self,
        collateral: CollateralSource,
        *,
        root_ca_der: bytes | None,
        grace: timedelta = timedelta(0),
        minimum_evaluation: int = 0,
        newest: NewestCollateral | None = None,
        refuse_endorsements: bool = False,
    ) -> None:
        self._engine = IntelEngine(
            collateral,
            root_ca_der=root_ca_der,
            grace=grace,
            minimum_evaluation=minimum_evaluation,
            newest=newest,
            refuse_endorsements=refuse_endorsements,
        )

    @classmethod
    def of(cls, context: VerifierContext) -> Self:
        """Build the verifier from Intel's service in the context."""
        service = service_of(context)
        return cls(
            service.collateral,
            root_ca_der=context.root_ca_der,
            grace=service.grace,
            minimum_evaluation=service.minimum_evaluation,
            newest=service.newest,
            refuse_endorsements=service.refuse_endorsements,
        )
