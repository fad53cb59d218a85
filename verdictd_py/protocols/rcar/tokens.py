"""Attestation tokens: an accepted appraisal, and the key it is bound to, for five minutes.

A token is all that is known of a guest between its requests: what a session holds is one, and
a guest may show one itself. So nothing but this broker's key can make a peer, whoever
can write where sessions are kept. Claims that are too long for it are kept under a digest that
stands in it (`claims`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec

from verdictd_py.domain.appraisal import Appraisal
from verdictd_py.domain.evidence import NO_TEE, REPORT_DATA_BYTES, VerifiedEvidence
from verdictd_py.domain.trust import TrustVector
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import EvidenceFormat, TokenInvalid
from verdictd_py.protocols.rcar import claims, ear, jose
from verdictd_py.protocols.rcar.teekey import TeeKey
from verdictd_py.protocols.rcar.versions import Version

LIFETIME: Final = timedelta(minutes=5)
"""Guests attest anew after it (wire-rcar.md, "Handshake")."""

ISSUER: Final = "verdictd-py"

Kind = TypeVar("Kind")

_OWN: Final = "verdictd"
"""Claim with what a peer is made of again; the standard claims are for other readers."""


@dataclass(frozen=True, slots=True)
class Attested:
    """A guest that was accepted, and how to answer it."""

    appraisal: Appraisal
    key: TeeKey
    version: Version


@dataclass(frozen=True, slots=True)
class Issued:
    """A new token.

    Attributes:
        kept: digest and text of the claims to keep beside it, None where it has all.
    """

    token: str = field(repr=False)
    kept: tuple[str, str] | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Shown:
    """What stands in a token that is good.

    Attributes:
        kept: digest of the claims that do not, None where all do.
    """

    kept: str | None
    _part: Attested = field(repr=False)

    def attested(self, kept: str | None = None) -> Attested:
        """The guest, with all its claims.

        Args:
            kept: the text that is kept under that digest.

        Raises:
            TokenInvalid: it is not there, or another one.
        """
        appraisal = self._part.appraisal
        found = appraisal.evidence
        if found is not None:
            whole = claims.join(found.claims, self.kept, kept)
            appraisal = replace(appraisal, evidence=replace(found, claims=whole))
        return replace(self._part, appraisal=appraisal)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Makes and reads attestation tokens with one key.

    Attributes:
        key: P-256; brokers that share sessions share it.
        root: digest of the root that this broker trusts instead of the vendors'. A token of a
            broker with another root says nothing here: a rehearsal's may have the same key.
    """

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    root: str | None = None

    def issue(self, attested: Attested, *, now: datetime, policy: str) -> Issued:
        """A token about an accepted guest.

        Args:
            policy: file name of the policy that accepted the guest.

        Raises:
            AttestationError: the appraisal refused.
        """
        appraisal = attested.appraisal
        if appraisal.refusal is not None:
            raise appraisal.refusal
        begins = int(now.timestamp())
        divided = claims.divide(appraisal.claims)
        said = ear.claims(appraisal, divided.shown, attested.key, policy)
        said |= {
            "iss": ISSUER,
            # No `nbf`: guests hold it against their own clock, which may be behind.
            "iat": begins,
            "exp": begins + int(LIFETIME.total_seconds()),
            "jti": appraisal.id,
            _OWN: {
                **_own(attested, divided.kept[0] if divided.kept else None),
                "root": self.root,
            },
        }
        public = {**jose.public_jwk(self.key.public_key()), "alg": jose.ALGORITHM}
        header = {"jwk": public, "kid": public["kid"]}
        return Issued(jose.signed(said, header, self.key), divided.kept)

    def read(self, token: str, *, now: datetime) -> Shown:
        """What a token of this broker says.

        Raises:
            TokenInvalid: signed by another key, over, not one of these, or of a broker that
                trusts another root.
        """
        # With leeway: a clock that is set back by a second ends no session.
        said = jose.verified(token, self.key.public_key(), now=now, leeway=jose.LEEWAY_SECONDS)
        if said.get("iss") != ISSUER:
            raise TokenInvalid("the token is no attestation token of this broker")
        try:
            shown, root = _shown(said), said[_OWN]["root"]
        except (KeyError, TypeError, ValueError, EvidenceFormat):
            raise TokenInvalid("the token is no attestation token of this broker") from None
        if root != self.root:
            raise TokenInvalid("the token is of a broker that trusts another root; attest again")
        return shown

    def jwks(self) -> dict[str, Any]:
        """What others need to check these tokens (RFC 7517, 5)."""
        return {"keys": [{**jose.public_jwk(self.key.public_key()), "alg": jose.ALGORITHM}]}


def _own(attested: Attested, kept: str | None) -> dict[str, Any]:
    appraisal = attested.appraisal
    evidence = appraisal.evidence
    return {
        "version": attested.version.value,
        "tee": appraisal.tee or NO_TEE,
        "form": appraisal.form,
        "at": appraisal.at.isoformat(),
        "appraisal": appraisal.id,
        "kept": kept,
        "evidence": None
        if evidence is None
        else {
            "reportData": evidence.report_data.hex(),
            "tcbStatus": evidence.tcb_status,
            "advisoryIds": list(evidence.advisory_ids),
            "digest": evidence.digest,
        },
    }


def _shown(said: dict[str, Any]) -> Shown:
    """What `issue` was given, but for claims that are kept beside the token.

    Raises:
        KeyError, TypeError, ValueError, EvidenceFormat: it is no token of `issue`.
    """
    own = _typed(said[_OWN], dict)
    version = Version(own["version"])
    cpu = said["submods"]["cpu0"]
    annotated = cpu["ear.veraison.annotated-evidence"]
    key = TeeKey.parse(annotated["runtime_data_claims"]["tee-pubkey"], version)
    kept = None if own["kept"] is None else _typed(own["kept"], str)
    return Shown(kept, Attested(_appraisal(own, annotated, _trust(cpu)), key, version))


def _trust(cpu: Mapping[str, Any]) -> TrustVector:
    vector = _typed(cpu["ear.trustworthiness-vector"], dict)
    return {_typed(name, str): _typed(value, int) for name, value in vector.items()}


def _appraisal(own: dict[str, Any], annotated: Mapping[str, Any], trust: TrustVector) -> Appraisal:
    tee, found = _typed(own["tee"], str), own["evidence"]
    if (found is None) is not (tee == NO_TEE):
        raise ValueError("a TEE without evidence, or evidence of none")
    at = datetime.fromisoformat(own["at"])
    if at.tzinfo is None:
        raise ValueError("a time without its zone")
    return Appraisal(
        id=_typed(own["appraisal"], str),
        at=at,
        tee=tee,
        form=_typed(own["form"], str),
        evidence=None if found is None else _evidence(tee, found, annotated[tee]),
        bound=True,
        refusal=None,
        trust=trust,
    )


def _evidence(tee: str, found: dict[str, Any], shown: dict[str, JsonValue]) -> VerifiedEvidence:
    report_data = bytes.fromhex(found["reportData"])
    if len(report_data) != REPORT_DATA_BYTES:
        raise ValueError("no report data")
    status = found["tcbStatus"]
    return VerifiedEvidence(
        tee=tee,
        report_data=report_data,
        claims=_typed(shown, dict),
        tcb_status=None if status is None else _typed(status, str),
        advisory_ids=tuple(_typed(each, str) for each in _typed(found["advisoryIds"], list)),
        digest=_typed(found["digest"], str),
    )


def _typed(value: object, kind: type[Kind]) -> Kind:
    if not isinstance(value, kind):
        raise TypeError("a claim of another type")
    return value
