"""A guest's certificate becomes evidence, whichever generation of rats-tls made it.

Source: wire-rats-tls.md, "Client certificates, oldest first".
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import Final

from verdictd_py.domain.evidence import Evidence
from verdictd_py.errors import EvidenceExpired, EvidenceFormat, EvidenceMissing
from verdictd_py.formats import der
from verdictd_py.ports.tees import Tees
from verdictd_py.protocols.ratstls import dice

MAX_CERTIFICATE_BYTES: Final = 64 * 1024
"""Genuine ones take 5 to 15 KiB with endorsements (wire-rats-tls.md: "Cap ... at 64 KiB")."""

_ARC: Final = der.oid("1.2.840.113741.1337.0")[:-1]
"""Beginning of the OIDs in which rats-tls has carried the evidence of all TEEs that it knew."""

_DICE: Final = der.oid(dice.EVIDENCE_OID)
_ENDORSEMENTS: Final = der.oid(dice.ENDORSEMENTS_OID)


def read(
    certificate: bytes, tees: Tees, *, now: datetime, max_age: timedelta | None = None
) -> Evidence:
    """Read the evidence in a guest's certificate.

    1. The size has a cap.
    2. The certificate is read, by a reader that also takes the "v4" of older guests.
    3. `now` is in its validity period, and the certificate is not older than `max_age`.
    4. Exactly one extension holds evidence, of any generation.
    5. Its form says what REPORTDATA must begin with; claims, where there are some, must
       name the certificate's key.
    6. The TEE comes from the OID, or from tag and evidence where one OID serves several.
    7. The TEE's own reader takes evidence and endorsements apart.

    The signature of the certificate is not looked at. It is the guest's own: whoever can
    complete a handshake with this key can also sign any certificate with it, other dates
    included, so nothing could rest on it. That is also why `max_age` bounds honest guests
    and replayed files, and freshness against a guest's owner needs a nonce.

    Args:
        certificate: DER, of the certificate whose key completed the handshake.
        tees: those that are known.
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
    known = {der.oid(dotted): dotted for dotted in tees.oids}
    found = [
        name
        for name in parsed.extensions
        if name in known or name == _DICE or name.startswith(_ARC)
    ]
    if not found:
        raise EvidenceMissing("the certificate carries no evidence")
    if len(found) > 1:
        raise EvidenceFormat("the certificate carries evidence in several extensions")
    # 5., 6. and 7.
    if found == [_DICE]:
        return _dice_evidence(parsed, tees)
    return _vendor_evidence(parsed, found[0], known.get(found[0], ""), tees)


def _check_time(parsed: der.Certificate, now: datetime, max_age: timedelta | None) -> None:
    if now < parsed.not_before:
        raise EvidenceExpired(f"the certificate is not valid before {parsed.not_before}")
    if now > parsed.not_after:
        raise EvidenceExpired(f"the certificate is not valid after {parsed.not_after}")
    if max_age is not None and now - parsed.not_before > max_age:
        raise EvidenceExpired(f"the certificate is from {parsed.not_before}, older than {max_age}")


def _vendor_evidence(parsed: der.Certificate, name: bytes, dotted: str, tees: Tees) -> Evidence:
    """Read the first generation: the quote itself, bound by the hash of the key."""
    if _ENDORSEMENTS in parsed.extensions:
        raise EvidenceFormat("the certificate carries endorsements of another generation")
    tee = tees.of_oid(dotted)
    if tee is None:
        raise EvidenceFormat("the certificate carries evidence of a TEE that is not known here")
    return Evidence(
        tee=tee.name,
        quote=parsed.extensions[name].value,
        binding=hashlib.sha256(parsed.spki).digest(),
        form=f"rats-tls OID {dotted}",
    )


def _dice_evidence(parsed: der.Certificate, tees: Tees) -> Evidence:
    extension = parsed.extensions[_DICE]
    evidence = dice.read_evidence(extension.value, tees.tags)
    tee = tees.of_tagged(evidence.tag, evidence.quote)
    endorsements = parsed.extensions.get(_ENDORSEMENTS)
    carried = tee.wire.read_certificate(
        evidence.quote, None if endorsements is None else endorsements.value, evidence.tag
    )
    tag = f"{evidence.tag:#x}" if evidence.tag == dice.INTERIM_TAG else str(evidence.tag)
    return Evidence(
        tee=tee.name,
        quote=carried.quote,
        binding=dice.binding_of(evidence.claims, parsed.spki),
        form=" ".join(
            (
                f"rats-tls tag {tag}",
                "without claims" if evidence.claims is None else "with claims",
                *(["critical"] if extension.critical else []),
            )
        ),
        endorsements=carried.endorsements,
    )
