"""Reader of the evidence in guests' certificates, of every generation of rats-tls.

Source: wire-rats-tls.md, "Client certificates, oldest first".
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

from verdictd_py.domain.evidence import Evidence
from verdictd_py.errors import EvidenceExpired, EvidenceFormat, EvidenceFromFuture, EvidenceMissing
from verdictd_py.formats import der
from verdictd_py.ports.known_tees import Tees
from verdictd_py.protocols.ratstls import dice

MAX_CERTIFICATE_BYTES: Final = 64 * 1024
"""Maximum size. Real certificates have 5 to 15 KiB with endorsements (wire-rats-tls.md: "Cap ...
at 64 KiB")."""

_ARC: Final = der.oid("1.2.840.113741.1337.0")[:-1]
"""Prefix of all OIDs that rats-tls has used for the evidence of TEEs."""

_DICE: Final = der.oid(dice.EVIDENCE_OID)
_ENDORSEMENTS: Final = der.oid(dice.ENDORSEMENTS_OID)


def read(
    certificate: bytes, tees: Tees, *, now: datetime, max_age: timedelta | None = None
) -> Evidence:
    """Read the evidence in a guest's certificate.

    1. The size is limited.
    2. The certificate is parsed; the "v4" of older guests is accepted.
    3. `now` is in its validity period, and the certificate is not older than `max_age`.
    4. Exactly one extension contains evidence, of any generation.
    5. The form of the evidence determines what REPORTDATA must begin with. Claims, if any,
       must name the certificate's key.
    6. The OID determines the TEE, or tag and evidence do where several TEEs use one OID.
    7. The TEE's own reader parses evidence and endorsements.

    The signature of the certificate is not verified, because it proves nothing: a guest that
    completes a handshake with this key can sign any certificate with it, with any dates.
    `max_age` therefore limits honest guests and replayed files only; freshness against the
    owner of a guest needs a nonce.

    Args:
        certificate: DER of the certificate whose key completed the handshake.
        tees: the known TEEs.
        now: aware time.
        max_age: maximum time since notBefore, which guests set to an hour ago; None to
            check the validity period only.

    Raises:
        EvidenceMissing: the certificate has no evidence, or an empty quote.
        EvidenceExpired, EvidenceFromFuture: step 3 failed.
        BindingMismatch: the claims name another key.
        EvidenceFormat: another step failed.
    """
    # 1.
    if len(certificate) > MAX_CERTIFICATE_BYTES:
        raise EvidenceFormat(f"the certificate is longer than {MAX_CERTIFICATE_BYTES} bytes")
    # 2.
    parsed = der.read_certificate(certificate)
    # 3.
    _check_time(parsed, now, max_age)
    # 4.
    known = _encoded_oids(tees)
    carriers = [
        name
        for name in parsed.extensions
        if name in known or name == _DICE or name.startswith(_ARC)
    ]
    if not carriers:
        raise EvidenceMissing("the certificate carries no evidence")
    if len(carriers) > 1:
        raise EvidenceFormat("the certificate carries evidence in several extensions")
    # 5., 6. and 7.
    if carriers == [_DICE]:
        return _dice_evidence(parsed, tees)
    return _vendor_evidence(parsed, carriers[0], known.get(carriers[0], ""), tees)


@lru_cache(maxsize=4)  # a process has one set of TEEs
def _encoded_oids(tees: Tees) -> Mapping[bytes, str]:
    """Return the OIDs of all TEEs by their encoding."""
    return {der.oid(dotted): dotted for dotted in tees.oids}


def _check_time(parsed: der.Certificate, now: datetime, max_age: timedelta | None) -> None:
    if now < parsed.not_before:
        minutes = math.ceil((parsed.not_before - now) / timedelta(minutes=1))
        raise EvidenceFromFuture(
            f"from the future: the guest's clock is at least {minutes} minutes ahead; its "
            f"certificate is not valid before {parsed.not_before}"
        )
    if now > parsed.not_after:
        raise EvidenceExpired(f"the certificate is not valid after {parsed.not_after}")
    if max_age is not None and now - parsed.not_before > max_age:
        raise EvidenceExpired(
            f"the certificate is from {parsed.not_before}, which is more than {max_age} ago"
        )


def _vendor_evidence(parsed: der.Certificate, name: bytes, dotted: str, tees: Tees) -> Evidence:
    """Read evidence of the first generation: a quote whose REPORTDATA is the hash of the key."""
    if _ENDORSEMENTS in parsed.extensions:
        raise EvidenceFormat("the certificate carries endorsements of another generation")
    tee = tees.of_oid(dotted)
    if tee is None:
        raise EvidenceFormat("the certificate carries evidence of an unknown TEE")
    if not parsed.extensions[name].value:
        raise EvidenceMissing.empty()
    return Evidence(
        tee=tee.name,
        quote=parsed.extensions[name].value,
        binding=hashlib.sha256(parsed.spki).digest(),
        form=f"rats-tls OID {dotted}",
    )


def _dice_evidence(parsed: der.Certificate, tees: Tees) -> Evidence:
    extension = parsed.extensions[_DICE]
    evidence = dice.read_evidence(extension.value, tees.tags)
    if not evidence.quote:
        raise EvidenceMissing.empty()
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
