"""Attestation tokens: an accepted appraisal and the guest's key, valid for five minutes.

Between its requests, a guest is identified by its token only, which is stored with its session
or sent by the guest. Only the broker's key makes a client an accepted guest, even if an
attacker can write to the session store. Claims that are too long for a token are stored under
their digest, which the token contains (`claims`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final, TypeVar

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
"""Guests attest again after it (wire-rcar.md, "Handshake")."""

ISSUER: Final = "verdictd-py"

Kind = TypeVar("Kind")

_OWN: Final = "verdictd"
"""Claim from which `Tokens.read` restores the guest; the standard claims are for others."""


@dataclass(frozen=True, slots=True)
class AttestedGuest:
    """Accepted guest: its appraisal, its key and its protocol version."""

    appraisal: Appraisal
    key: TeeKey
    version: Version


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """New token.

    Attributes:
        stored_claims: claims that must be stored next to it, None if the token has all.
        content: what `Tokens.read` returns for it.
    """

    token: str = field(repr=False)
    stored_claims: claims.StoredClaims | None = field(repr=False)
    content: TokenContent = field(repr=False)


@dataclass(frozen=True, slots=True)
class TokenContent:
    """Content of a valid token.

    Attributes:
        stored_digest: digest of the claims that are stored next to the token, None if the
            token has all.
    """

    stored_digest: str | None
    _guest: AttestedGuest = field(repr=False)
    _times: Mapping[str, Any] = field(repr=False)

    @property
    def expires(self) -> float:
        """Time from which the token is invalid, in seconds since 1970."""
        return float(self._times["exp"])

    def require_valid(self, now: datetime) -> None:
        """Require that the token is valid now; `Tokens.read` has verified everything else.

        Raises:
            TokenInvalid: it has expired, or was issued later than now.
        """
        # With leeway: a clock that is set back by a second must not end a session.
        jose.require_valid_time(self._times, now=now, leeway=jose.LEEWAY_SECONDS)

    def guest(self, stored_claims: str | None = None) -> AttestedGuest:
        """Return the guest with all its claims.

        Args:
            stored_claims: the text that is stored under `stored_digest`.

        Raises:
            TokenInvalid: the text is missing, or has another digest.
        """
        if self.stored_digest is None:
            return self._guest
        appraisal = self._guest.appraisal
        evidence = appraisal.evidence
        if evidence is not None:
            joined = claims.join(evidence.claims, self.stored_digest, stored_claims)
            appraisal = replace(appraisal, evidence=replace(evidence, claims=joined))
        return replace(self._guest, appraisal=appraisal)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Issuer and reader of attestation tokens with one key.

    Attributes:
        key: P-256; brokers that share sessions share it.
        root: digest of the root that this broker trusts instead of the vendors'. Tokens of
            brokers with another root are refused: a rehearsal may use the same key.
    """

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    root: str | None = None
    generation: ClassVar[int] = 0  # one key, which never changes; see `knowntokens.Issuer`
    _public: dict[str, Any] = field(init=False, repr=False, compare=False)
    _signer: jose.Signer = field(init=False, repr=False, compare=False)
    _verifier: jose.Verifier = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Prepare what depends on the key only."""
        key = self.key.public_key()
        public = {**jose.public_jwk(key), "alg": jose.ALGORITHM}
        signer = jose.Signer(self.key, {"jwk": public, "kid": public["kid"]})
        object.__setattr__(self, "_public", public)
        object.__setattr__(self, "_signer", signer)
        object.__setattr__(self, "_verifier", jose.Verifier(key))

    def issue(self, guest: AttestedGuest, *, now: datetime, policy: str) -> IssuedToken:
        """Issue a token about an accepted guest.

        Args:
            policy: file name of the policy that accepted the guest.

        Raises:
            AttestationError: the appraisal refused the guest.
        """
        appraisal = guest.appraisal
        if appraisal.refusal is not None:
            raise appraisal.refusal
        issued_at = int(now.timestamp())
        divided = claims.divide(appraisal.claims)
        stored_digest = None if divided.stored is None else divided.stored.digest
        payload = ear.claims(appraisal, divided.in_token, guest.key, policy)
        payload |= {
            "iss": ISSUER,
            # No `nbf`: guests compare it with their own clock, which may be behind.
            "iat": issued_at,
            "exp": issued_at + int(LIFETIME.total_seconds()),
            "jti": appraisal.id,
            _OWN: {**_own(guest, stored_digest), "root": self.root},
        }
        content = TokenContent(
            stored_digest, _restored(guest, divided.in_token), jose.times(payload)
        )
        return IssuedToken(self._signer.sign(payload), divided.stored, content)

    def read(self, token: str, *, now: datetime) -> TokenContent:
        """Verify a token, and return its content.

        Raises:
            TokenInvalid: signed by another key, expired, of another form, or issued by a
                broker that trusts another root.
        """
        # With leeway: a clock that is set back by a second must not end a session.
        payload = self._verifier.verify(token, now=now, leeway=jose.LEEWAY_SECONDS)
        if payload.get("iss") != ISSUER:
            raise TokenInvalid("the token is not an attestation token of this broker")
        try:
            content, root = _content(payload), payload[_OWN]["root"]
        except (KeyError, TypeError, ValueError, EvidenceFormat):
            raise TokenInvalid("the token is not an attestation token of this broker") from None
        if root != self.root:
            raise TokenInvalid("the token is of a broker that trusts another root; attest again")
        return content

    def jwks(self) -> dict[str, Any]:
        """Return the key set that verifies these tokens (RFC 7517, 5)."""
        return {"keys": [dict(self._public)]}


def _restored(guest: AttestedGuest, in_token: Mapping[str, JsonValue]) -> AttestedGuest:
    """Return the guest as `Tokens.read` restores it, from the guest of a new token.

    A token has neither the faults nor the validity of the evidence.
    """
    appraisal = guest.appraisal
    evidence = appraisal.evidence
    if evidence is not None:
        evidence = replace(evidence, claims=in_token, faults=(), valid_until=None)
    appraisal = replace(
        appraisal,
        tee=appraisal.tee or NO_TEE,
        evidence=evidence,
        policy_skipped=False,
    )
    return AttestedGuest(appraisal, guest.key, guest.version)


def _own(guest: AttestedGuest, stored_digest: str | None) -> dict[str, Any]:
    appraisal = guest.appraisal
    evidence = appraisal.evidence
    return {
        "version": guest.version.value,
        "tee": appraisal.tee or NO_TEE,
        "form": appraisal.form,
        "at": appraisal.at.isoformat(),
        "appraisal": appraisal.id,
        "kept": stored_digest,
        "evidence": None
        if evidence is None
        else {
            "reportData": evidence.report_data.hex(),
            "tcbStatus": evidence.tcb_status,
            "advisoryIds": list(evidence.advisory_ids),
            "digest": evidence.digest,
            "platform": evidence.platform,
        },
    }


def _content(payload: dict[str, Any]) -> TokenContent:
    """Restore what `issue` was given, without the claims that are stored next to the token.

    Raises:
        KeyError, TypeError, ValueError, EvidenceFormat: the payload was not written by `issue`.
    """
    own = _typed(payload[_OWN], dict)
    version = Version(own["version"])
    cpu = payload["submods"]["cpu0"]
    annotated = cpu["ear.veraison.annotated-evidence"]
    key = TeeKey.parse(annotated["runtime_data_claims"]["tee-pubkey"], version)
    stored_digest = None if own["kept"] is None else _typed(own["kept"], str)
    appraisal = _appraisal(own, annotated, _trust(cpu))
    guest = AttestedGuest(appraisal, key, version)
    return TokenContent(stored_digest, guest, jose.times(payload))


def _trust(cpu: Mapping[str, Any]) -> TrustVector:
    vector = _typed(cpu["ear.trustworthiness-vector"], dict)
    return {_typed(name, str): _typed(value, int) for name, value in vector.items()}


def _appraisal(own: dict[str, Any], annotated: Mapping[str, Any], trust: TrustVector) -> Appraisal:
    tee, evidence = _typed(own["tee"], str), own["evidence"]
    if (evidence is None) is not (tee == NO_TEE):
        raise ValueError("a TEE without evidence, or evidence without a TEE")
    at = datetime.fromisoformat(own["at"])
    if at.tzinfo is None:
        raise ValueError("a time without its time zone")
    return Appraisal(
        id=_typed(own["appraisal"], str),
        at=at,
        tee=tee,
        form=_typed(own["form"], str),
        evidence=None if evidence is None else _evidence(tee, evidence, annotated[tee]),
        bound=True,
        refusal=None,
        trust=trust,
    )


def _evidence(tee: str, members: dict[str, Any], claims: dict[str, JsonValue]) -> VerifiedEvidence:
    report_data = bytes.fromhex(members["reportData"])
    if len(report_data) != REPORT_DATA_BYTES:
        raise ValueError("report data of another length")
    status = members["tcbStatus"]
    platform = members.get("platform")  # brokers of earlier versions that share sessions omit it
    return VerifiedEvidence(
        tee=tee,
        report_data=report_data,
        claims=_typed(claims, dict),
        tcb_status=None if status is None else _typed(status, str),
        advisory_ids=tuple(_typed(item, str) for item in _typed(members["advisoryIds"], list)),
        digest=_typed(members["digest"], str),
        platform=None if platform is None else _typed(platform, str),
    )


def _typed(value: object, kind: type[Kind]) -> Kind:
    if not isinstance(value, kind):
        raise TypeError("a claim of another type")
    return value
