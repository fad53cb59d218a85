"""Signers of collateral: which certificates may sign which part, and their revocation.

A chain that leads to Intel's root is not enough: the PCK of every machine is certified under
the same root. The rules are those of Intel's quote verification library, and names are matched
by the same phrases (`TcbInfo`, `EnclaveIdentity` and `PckCrl` verification in SGX-TDX-DCAP-QVL).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, lru_cache
from itertools import chain as joined
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from verdictd_py.errors import QuoteInvalid, Reason, ReasonKind
from verdictd_py.formats.collateral import Collateral
from verdictd_py.tees.intel.chains import UNUSABLE, Periods, verify_chain_signatures
from verdictd_py.tees.intel.collateral.parsed import parsed
from verdictd_py.tees.intel.dcap import CollateralRejected
from verdictd_py.tees.intel.pck import verify_signed_text

TCB_SIGNER: Final = "SGX TCB Signing"
PCK_CAS: Final = {"platform": "SGX PCK Platform CA", "processor": "SGX PCK Processor CA"}
"""Phrases in the common names of Intel's signers, by the parameter `ca` of Intel's PCS."""

_CRLS: Final = "revocation"
_CHAIN_LENGTH: Final = 2  # signer and root
_SETS: Final = 16  # maximum number of cached results; limited, because guests send their own


@dataclass(frozen=True)
class Signers:
    """Verified signers of one set of collateral, and its verified revocation lists.

    One object serves all guests with the same set, so that periods and revocations are read once.

    Attributes:
        chains: signer and root of the TCB info, the QE identity and the PCK CRL.
        pck_crl: revocation list of the PCK CA.
        root_crl: revocation list of the root.
    """

    chains: tuple[tuple[x509.Certificate, ...], ...]
    pck_crl: x509.CertificateRevocationList = field(repr=False)
    root_crl: x509.CertificateRevocationList = field(repr=False)

    def require_valid(self, now: datetime) -> None:
        """Require that every certificate is valid at `now`.

        Raises:
            CollateralExpired: one of them is not.
        """
        self._periods.require(now)

    def require_not_revoked(self) -> None:
        """Require that the set's own root CRL revokes none of the signers.

        Raises:
            QuoteInvalid: it revokes one. This is final: no other collateral may be tried, as
                older collateral may lack the revocation.
        """
        if self._revoked is not None:
            text = "Intel has revoked a certificate that signed the collateral"
            explained = f"{text}: {self._revoked}"
            kind = ReasonKind.COLLATERAL
            raise QuoteInvalid(text, reasons=(Reason(_CRLS, "", "", explained, kind=kind),))

    @cached_property
    def _periods(self) -> Periods:
        return Periods(joined.from_iterable(self.chains))

    @cached_property
    def _revoked(self) -> str | None:
        """Name of the first signer that the set's own root CRL revokes; None if there is none."""
        for signer, _ in self.chains:
            if self.root_crl.get_revoked_certificate_by_serial_number(signer.serial_number):
                return signer.subject.rfc4514_string()
        return None


@lru_cache(maxsize=_SETS)
def verify_signers(collateral: Collateral, ca: str, root_key: bytes) -> Signers:
    """Verify every signature of collateral, and that its signer may sign this part.

    1. TCB info and QE identity are signed by a TCB signing certificate: the chain is this
       certificate and the root, its common name contains `TCB_SIGNER`, and it is not a CA.
    2. The PCK CRL is signed by the PCK CA of the platform: the chain is this CA and the root,
       and its common name contains the phrase of `PCK_CAS`.
    3. The root CRL is signed by the root. Both issuers of CRLs may sign CRLs.

    Nothing is compared with a time, so that results can be cached: by every byte of the set, which
    contains its CRLs, by `ca` and by the root. Only successes are cached.

    Args:
        ca: `processor` or `platform`.
        root_key: SHA-256 of the trusted root's SubjectPublicKeyInfo.

    Raises:
        CollateralRejected: one of the checks failed; the text names it.
    """
    try:
        info = _signed_text(
            collateral.tcb_info,
            collateral.tcb_info_signature,
            collateral.tcb_info_issuer_chain,
            "tcb-info",
            root_key,
        )
        identity = _signed_text(
            collateral.qe_identity,
            collateral.qe_identity_signature,
            collateral.qe_identity_issuer_chain,
            "qe-identity",
            root_key,
        )
        issuers = _crl_issuers(collateral, ca, root_key)
    except CollateralRejected:
        raise
    except QuoteInvalid as error:
        raise CollateralRejected(str(error), reasons=error.reasons) from error
    except UNUSABLE as error:
        raise rejected(f"it cannot be read: {type(error).__name__}") from error
    view = parsed(collateral)
    return Signers((info, identity, issuers), view.pck_crl, view.root_ca_crl)


def rejected(reason: str, *, rule: str = "collateral") -> CollateralRejected:
    """Return the error for collateral that failed a check.

    Args:
        rule: name of the part: `tcb-info`, `qe-identity`, `revocation` (both CRLs).
    """
    text = f"the collateral does not verify: {reason}"
    return CollateralRejected(
        text, reasons=(Reason(rule, "", "", text, kind=ReasonKind.COLLATERAL),)
    )


def _signed_text(
    text: str, signature: bytes, pem: str, rule: str, root_key: bytes
) -> tuple[x509.Certificate, ...]:
    """Verify TCB info or QE identity, and return the chain of its signer."""
    chain = _chain(pem, rule, root_key)
    if not _is_named(chain[0], TCB_SIGNER):
        raise rejected("its signer is not a TCB signing certificate", rule=rule)
    if chain[0].extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
        raise rejected("its TCB signing certificate is a CA", rule=rule)
    verify_signed_text(text, signature, chain[0], rule=rule)
    return chain


def _crl_issuers(collateral: Collateral, ca: str, root_key: bytes) -> tuple[x509.Certificate, ...]:
    """Verify both CRLs, and return the chain of their issuers."""
    chain = _chain(collateral.pck_crl_issuer_chain, _CRLS, root_key)
    if not _is_named(chain[0], PCK_CAS[ca]):
        raise rejected(f"its revocation list is not that of the {ca} CA", rule=_CRLS)
    try:
        crls = parsed(collateral).pck_crl, parsed(collateral).root_ca_crl
    except ValueError as error:
        raise rejected("a revocation list cannot be read", rule=_CRLS) from error
    for crl, issuer in zip(crls, chain, strict=True):
        _verify_crl(crl, issuer)
    return chain


def _chain(pem: str, rule: str, root_key: bytes) -> tuple[x509.Certificate, ...]:
    try:
        chain = verify_chain_signatures(pem.encode("utf-8", "surrogatepass"), root_key=root_key)
    except QuoteInvalid as error:
        texts = "; ".join(reason.text for reason in error.reasons)
        raise rejected(texts, rule=rule) from error
    if len(chain) != _CHAIN_LENGTH:
        raise rejected(f"a chain has {len(chain)} certificates instead of 2", rule=rule)
    return chain


def _is_named(certificate: x509.Certificate, phrase: str) -> bool:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return any(phrase in str(name.value) for name in names)


def _verify_crl(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> None:
    key = issuer.public_key()
    if (
        crl.issuer != issuer.subject
        or not isinstance(key, ec.EllipticCurvePublicKey)
        or not crl.is_signature_valid(key)
    ):
        raise rejected("a revocation list is not signed by its issuer", rule=_CRLS)
    extensions = issuer.extensions
    if (
        not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        or not extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign
    ):
        text = "the issuer of a revocation list is not a CA that may sign one"
        raise rejected(text, rule=_CRLS)
