"""A guest's certificate becomes evidence, whichever generation of rats-tls made it.

Source: wire-rats-tls.md, "Client certificates, oldest first".
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import Final

from verdictd_py.domain.evidence import Collateral, Evidence, Tee, tee_of_quote
from verdictd_py.errors import EvidenceExpired, EvidenceFormat, EvidenceMissing
from verdictd_py.formats import der
from verdictd_py.protocols.ratstls import dice, endorsements

MAX_CERTIFICATE_BYTES: Final = 64 * 1024
"""Genuine ones take 5 to 15 KiB with endorsements (wire-rats-tls.md: "Cap ... at 64 KiB")."""

VENDOR_OIDS: Final = {  # wire-rats-tls.md, first row of the table
    "1.2.840.113741.1337.8": Tee.TDX,
    "1.2.840.113741.1337.6": Tee.SGX,
    "1.2.840.113741.1337.14": Tee.SGX_LOCAL,
    "1.2.840.113741.1337.20": Tee.SEV_SNP,
    "1.2.840.113741.1337.22": Tee.SEV,
    "1.2.840.113741.1337.24": Tee.CSV,
}

_VENDORS: Final = {der.oid(dotted): dotted for dotted in VENDOR_OIDS}
_DICE: Final = der.oid(dice.EVIDENCE_OID)
_ENDORSEMENTS: Final = der.oid(dice.ENDORSEMENTS_OID)


def read(certificate: bytes, *, now: datetime, max_age: timedelta | None = None) -> Evidence:
    """Reads the evidence in a guest's certificate.

    1. The size has a cap.
    2. The certificate is read, by a reader that also takes the "v4" of older guests.
    3. `now` is in its validity period, and the certificate is not older than `max_age`.
    4. Exactly one extension holds evidence, of any generation.
    5. Its form says what REPORTDATA must begin with; claims, where there are some, must
       name the certificate's key.
    6. The TEE comes from the OID, or from the quote where one OID serves several.
    7. Endorsements, if any, are collateral in the form of the evidence's generation.

    The signature of the certificate is not looked at. It is the guest's own: whoever can
    complete a handshake with this key can also sign any certificate with it, other dates
    included, so nothing could rest on it. That is also why `max_age` bounds honest guests
    and replayed files, and freshness against a guest's owner needs a nonce.

    Args:
        certificate: DER, of the certificate whose key completed the handshake.
        now: aware time.
        max_age: longest time since notBefore, which guests set to an hour ago; None for
            the validity period alone.

    Raises:
        EvidenceMissing: a certificate without evidence.
        EvidenceExpired: 3. fails.
        BindingMismatch: the claims name another key.
        EvidenceFormat: anything else.
    """
    # 1.
    if len(certificate) > MAX_CERTIFICATE_BYTES:
        raise EvidenceFormat(f"the certificate is longer than {MAX_CERTIFICATE_BYTES} bytes")
    # 2.
    parsed = der.read_certificate(certificate)
    # 3.
    _check_time(parsed, now, max_age)
    # 4.
    found = [name for name in (*_VENDORS, _DICE) if name in parsed.extensions]
    if not found:
        raise EvidenceMissing("the certificate carries no evidence")
    if len(found) > 1:
        raise EvidenceFormat("the certificate carries evidence in several extensions")
    # 5., 6. and 7.
    if found == [_DICE]:
        return _dice_evidence(parsed)
    return _vendor_evidence(parsed, found[0])


def _check_time(parsed: der.Certificate, now: datetime, max_age: timedelta | None) -> None:
    if now < parsed.not_before:
        raise EvidenceExpired(f"the certificate is not valid before {parsed.not_before}")
    if now > parsed.not_after:
        raise EvidenceExpired(f"the certificate is not valid after {parsed.not_after}")
    if max_age is not None and now - parsed.not_before > max_age:
        raise EvidenceExpired(f"the certificate is from {parsed.not_before}, older than {max_age}")


def _vendor_evidence(parsed: der.Certificate, name: bytes) -> Evidence:
    """The first generation: the quote itself, bound by the hash of the key."""
    if _ENDORSEMENTS in parsed.extensions:
        raise EvidenceFormat("the certificate carries endorsements of another generation")
    dotted = _VENDORS[name]
    return Evidence(
        tee=VENDOR_OIDS[dotted],
        quote=parsed.extensions[name].value,
        binding=hashlib.sha256(parsed.spki).digest(),
        form=f"rats-tls OID {dotted}",
    )


def _dice_evidence(parsed: der.Certificate) -> Evidence:
    extension = parsed.extensions[_DICE]
    evidence = dice.read_evidence(extension.value)
    tag = f"{evidence.tag:#x}" if evidence.tag == dice.INTERIM_TAG else str(evidence.tag)
    return Evidence(
        tee=tee_of_quote(evidence.quote),
        quote=evidence.quote,
        binding=dice.binding_of(evidence.claims, parsed.spki),
        form=" ".join(
            (
                f"rats-tls tag {tag}",
                "without claims" if evidence.claims is None else "with claims",
                *(["critical"] if extension.critical else []),
            )
        ),
        endorsements=_collateral(parsed, evidence.tag),
    )


def _collateral(parsed: der.Certificate, tag: int) -> Collateral | None:
    extension = parsed.extensions.get(_ENDORSEMENTS)
    return None if extension is None else endorsements.read(extension.value, tag=tag)
