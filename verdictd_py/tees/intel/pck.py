"""PCK certificates and signatures of a quote, verified before collateral is requested.

A forged chain must never cause a fetch of collateral, and claims are disclosed on a refusal
only because the quote's own signatures were verified by this module: no order of checks
inside another library is relied on. Revocation and TCB come after, with the collateral.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, lru_cache
from hashlib import sha256
from hmac import compare_digest
from typing import Final

import dcap_qvl
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.x509.oid import NameOID

from verdictd_py.errors import EvidenceExpired, QuoteInvalid, Reason, ReasonKind
from verdictd_py.tees.intel.chains import UNUSABLE, Periods, broken, verify_chain_signatures
from verdictd_py.tees.intel.quote import Quote

_P256_BYTES: Final = 32  # size of each of r, s, x and y

_MACHINES: Final = 512
"""Maximum number of machines whose chain and quoting enclave are cached, some 12 KiB each."""

_CACHED_CHAIN_BYTES: Final = 8 * 1024
"""Maximum length of a cached chain. Intel's have 4 KiB; any text may stand between certificates."""


@dataclass(frozen=True, slots=True)
class Platform:
    """What the PCK certificate says about the platform.

    Attributes:
        fmspc: 12 lower-case hex digits.
        ca: `processor` or `platform`, which of Intel's CAs issued it.
        cpu_svn: 16 bytes, one SVN each.
        pce_id: 4 lower-case hex digits, which provisioning certification enclave.
        pce_svn: its SVN.
        key: the PCK, which signs the QE's report: an uncompressed point (SEC 1).
        digest: SHA-256 of the machine's PPID in hex. Intel calls the PPID privacy sensitive, so
            it is not logged itself.
    """

    fmspc: str
    ca: str
    cpu_svn: bytes = field(repr=False)
    pce_id: str
    pce_svn: int
    key: bytes = field(repr=False)
    digest: str = ""


class _VerifiedChain:
    """PCK chain whose signatures were verified, for one machine.

    Attributes:
        periods: validity periods of its certificates.
    """

    def __init__(self, chain: tuple[x509.Certificate, ...]) -> None:
        self.periods = Periods(chain)
        self._leaf = chain[0]

    @cached_property
    def platform(self) -> Platform:
        """What its leaf says.

        Raises:
            QuoteInvalid: the leaf is not a PCK certificate.
        """
        leaf = self._leaf
        try:
            key = leaf.public_key()
            issuer = leaf.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
            extension = dcap_qvl.parse_pck_extension_from_pem(
                leaf.public_bytes(serialization.Encoding.PEM)
            )
            name = str(issuer[0].value) if issuer else ""
            cas = [ca for ca in ("processor", "platform") if ca in name.lower()]
            if len(cas) != 1 or not isinstance(key, ec.EllipticCurvePublicKey):
                raise broken("its leaf is not issued by a PCK processor or platform CA")
            return Platform(
                fmspc=extension.fmspc.hex(),
                ca=cas[0],
                cpu_svn=extension.cpu_svn,
                pce_id=extension.pce_id.hex(),
                pce_svn=extension.pce_svn,
                key=key.public_bytes(
                    serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
                ),
                digest=sha256(b"verdictd-py platform" + extension.ppid).hexdigest(),
            )
        except UNUSABLE as error:
            raise broken(f"its leaf is not a PCK certificate: {error}") from error


def verify_pck_chain(pem: bytes, *, root_key: bytes, now: datetime) -> Platform:
    """Verify the PCK chain that a quote carries, and return what its leaf says.

    The signatures of a chain are verified once. The cache is keyed by every byte of the chain and
    by the root, and contains successes only. Nothing invalidates an entry: its validity is checked
    at `now` each time, and its revocation with the collateral (dcap-qvl).

    Raises:
        QuoteInvalid: it does not lead to the root, or is not a PCK certificate.
        EvidenceExpired, ClockBehind: it does, but not at `now`.
    """
    pem = pem.rstrip(b"\0")
    verify = _verified if len(pem) <= _CACHED_CHAIN_BYTES else _verified.__wrapped__
    chain = verify(pem, root_key)
    chain.periods.require(now, EvidenceExpired)
    return chain.platform


@lru_cache(maxsize=_MACHINES)
def _verified(pem: bytes, root_key: bytes) -> _VerifiedChain:
    return _VerifiedChain(verify_chain_signatures(pem, root_key=root_key))


def verify_quote_signatures(quote: Quote, platform: Platform) -> None:
    """Verify that this platform's quoting enclave signed the quote.

    1. The PCK signed the QE's report.
    2. The QE's report names the attestation key: its report data begins with
       SHA-256(attestation key || QE authentication data).
    3. The attestation key signed header and body.

    All quotes of a machine have the same QE report until its quoting enclave makes another key, so
    the result of 1 and 2 is cached, see `_attestation_key`.

    Raises:
        QuoteInvalid: one of these checks failed.
    """
    # 1. and 2.
    key = _attestation_key(
        platform.key,
        quote.qe_report,
        quote.qe_report_signature,
        quote.qe_auth_data,
        quote.attestation_key,
    )
    # 3.
    if not _signed_by(key, quote.signature, quote.signed):
        raise _forged("the attestation key did not sign header and body")


@lru_cache(maxsize=_MACHINES)
def _attestation_key(
    pck: bytes, report: bytes, signature: bytes, auth_data: bytes, attestation_key: bytes
) -> ec.EllipticCurvePublicKey:
    """Take steps 1 and 2 of `verify_quote_signatures`, and return the attestation key.

    The cache is keyed by everything that is signed, the signature and both keys. It contains
    successes only, and nothing invalidates them: no signature depends on the time.
    """
    # 1.
    signer = _point(pck)
    if signer is None or not _signed_by(signer, signature, report):
        raise _forged("the PCK did not sign the quoting enclave's report")
    # 2. REPORTDATA of an SGX report is at offset 320.
    if not compare_digest(report[320:352], sha256(attestation_key + auth_data).digest()):
        raise _forged("the quoting enclave's report names another attestation key")
    key = _point(b"\x04" + attestation_key)  # SEC 1, uncompressed
    if key is None:
        raise _forged("the attestation key is not a point of P-256")
    return key


def _point(encoded: bytes) -> ec.EllipticCurvePublicKey | None:
    """Return the key that is this point of P-256, None if it is not on the curve."""
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), encoded)
    except ValueError:
        return None


def verify_signed_text(text: str, signature: bytes, signer: x509.Certificate, *, rule: str) -> None:
    """Verify that the leaf of a verified chain signed a JSON text of Intel's.

    Args:
        rule: name of the text for the reason: `tcb-info` or `qe-identity`.

    Raises:
        QuoteInvalid: it did not.
    """
    key = signer.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not _signed_by(
        key, signature, text.encode("utf-8", "surrogatepass")
    ):
        what = "the signature of the collateral does not verify"
        reason = Reason(rule, "", "", what, kind=ReasonKind.VERIFICATION)
        raise QuoteInvalid(what, reasons=(reason,))


def _signed_by(key: ec.EllipticCurvePublicKey, signature: bytes, message: bytes) -> bool:
    """Return whether `signature` (r and s, 32 bytes each) is that of `key` over `message`."""
    if len(signature) != 2 * _P256_BYTES:
        return False
    r = int.from_bytes(signature[:_P256_BYTES], "big")
    s = int.from_bytes(signature[_P256_BYTES:], "big")
    try:
        key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _forged(why: str) -> QuoteInvalid:
    text = "the quote's signature does not verify"
    reason = Reason("signature", "", "", f"{text}: {why}", kind=ReasonKind.VERIFICATION)
    return QuoteInvalid(text, reasons=(reason,))
