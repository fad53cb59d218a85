"""Attestation tokens: an accepted appraisal, and the key it is bound to, for five minutes.

A token is all that is kept of a guest between its requests: what a session holds is one, and
a guest may show one itself. So nothing but this broker's key can make a peer, whoever
can write where sessions are kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec

from verdictd_py.domain.appraisal import Appraisal
from verdictd_py.domain.evidence import REPORT_DATA_BYTES, Tee, VerifiedEvidence
from verdictd_py.errors import EvidenceFormat, TokenInvalid
from verdictd_py.rcar import ear, jose
from verdictd_py.rcar.teekey import TeeKey
from verdictd_py.rcar.versions import Version

LIFETIME: Final = timedelta(minutes=5)
"""Guests attest anew after it (wire-rcar.md, "Handshake")."""

ISSUER: Final = "verdictd-py"

_OWN: Final = "verdictd"
"""Claim with what a peer is made of again; the standard claims are for other readers."""


@dataclass(frozen=True, slots=True)
class Attested:
    """A guest that was accepted, and how to answer it."""

    appraisal: Appraisal
    key: TeeKey
    version: Version


@dataclass(frozen=True, slots=True)
class Tokens:
    """Makes and reads attestation tokens with one key.

    Attributes:
        key: P-256; brokers that share sessions share it.
    """

    key: ec.EllipticCurvePrivateKey = field(repr=False)

    def issue(
        self, attested: Attested, *, now: datetime, open_measurements: tuple[str, ...]
    ) -> str:
        """A token about an accepted guest.

        Args:
            open_measurements: see `ear.claims`.

        Raises:
            AttestationError: the appraisal refused.
        """
        appraisal = attested.appraisal
        if appraisal.refusal is not None:
            raise appraisal.refusal
        begins = int(now.timestamp())
        claims = ear.claims(appraisal, attested.key, open_measurements)
        claims |= {
            "iss": ISSUER,
            "iat": begins,
            "nbf": begins,
            "exp": begins + int(LIFETIME.total_seconds()),
            "jti": appraisal.id,
            _OWN: _own(attested),
        }
        return jose.signed(claims, {"jwk": jose.public_jwk(self.key.public_key())}, self.key)

    def read(self, token: str, *, now: datetime) -> Attested:
        """The guest behind a token of this broker.

        Raises:
            TokenInvalid: signed by another key, over, or not one of these.
        """
        claims = jose.verified(token, self.key.public_key(), now=now)
        if claims.get("iss") != ISSUER:
            raise TokenInvalid("the token is no attestation token of this broker")
        try:
            return _attested(claims)
        except (KeyError, TypeError, ValueError, EvidenceFormat):
            raise TokenInvalid("the token is no attestation token of this broker") from None

    def jwks(self) -> dict[str, Any]:
        """What others need to check these tokens (RFC 7517, 5)."""
        return {"keys": [{**jose.public_jwk(self.key.public_key()), "alg": "ES256"}]}


def _own(attested: Attested) -> dict[str, Any]:
    appraisal = attested.appraisal
    evidence = appraisal.evidence
    return {
        "version": attested.version.value,
        "tee": (appraisal.tee or Tee.NONE).value,
        "form": appraisal.form,
        "at": appraisal.at.isoformat(),
        "appraisal": appraisal.id,
        "evidence": None
        if evidence is None
        else {
            "reportData": evidence.report_data.hex(),
            "tcbStatus": evidence.tcb_status,
            "advisoryIds": list(evidence.advisory_ids),
            "digest": evidence.digest,
        },
    }


def _attested(claims: dict[str, Any]) -> Attested:
    """What `issue` was given, but for a boot's single events.

    Raises:
        KeyError, TypeError, ValueError, EvidenceFormat: it is no token of `issue`.
    """
    own = claims[_OWN]
    tee, version = Tee(own["tee"]), Version(own["version"])
    annotated = claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"]
    found = own["evidence"]
    evidence = None
    if found is not None:
        report_data = bytes.fromhex(found["reportData"])
        if len(report_data) != REPORT_DATA_BYTES:
            raise ValueError("no report data")
        evidence = VerifiedEvidence(
            tee=tee,
            report_data=report_data,
            claims=annotated[tee.value],
            tcb_status=found["tcbStatus"],
            advisory_ids=tuple(found["advisoryIds"]),
            digest=found["digest"],
        )
    appraisal = Appraisal(
        id=own["appraisal"],
        at=datetime.fromisoformat(own["at"]),
        tee=tee,
        form=own["form"],
        evidence=evidence,
        bound=True,
        refusal=None,
    )
    key = TeeKey.parse(annotated["runtime_data_claims"]["tee-pubkey"], version)
    return Attested(appraisal, key, version)
