"""The whole exception tree, each class with a stable code.

Every message is written to be safe in front of the peer that caused it: it names only
what that peer sent, never a path, a measured value or a secret. What only the operator
may see travels beside it, in `reasons` or in the log event.

Imports nothing of the project: every room may raise from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Reason:
    """One rule that refused, with whole values, for the operator.

    Attributes:
        rule: what was checked, a claim's name where there is one (`rtmr1`, `debug`).
        measured: the value found, as text; empty where there is none.
        expected: what would have passed, as text; empty where nothing would.
        text: the sentence an operator reads.
    """

    rule: str
    measured: str
    expected: str
    text: str

    def as_json(self) -> dict[str, str]:
        """The shape of `reasons` in reports: rule, measured, expected, text."""
        return {
            "rule": self.rule,
            "measured": self.measured,
            "expected": self.expected,
            "text": self.text,
        }


class VerdictdError(Exception):
    """Root of everything this package raises on purpose."""

    code: ClassVar[str] = "internal"


class ConfigError(VerdictdError):
    """The operator's settings cannot be used. The message names cause and remedy."""

    code = "config"


class RequestError(VerdictdError):
    """The peer sent something wrong (its fault, not ours)."""

    code = "request"


class NotFound(VerdictdError):
    """Nothing of that name is stored."""

    code = "not-found"


class AlreadyExists(VerdictdError):
    """Something of that name is stored already, and creating never overwrites."""

    code = "already-exists"


class Conflict(VerdictdError):
    """Something stored has changed after the caller read it; the caller reads it again."""

    code = "conflict"


class NotAuthorized(VerdictdError):
    """The caller is known, and may not do this."""

    code = "not-authorized"


class DecryptionFailed(VerdictdError):
    """The ciphertext does not authenticate under the key it names."""

    code = "decryption-failed"


class StorageError(VerdictdError):
    """Stored bytes cannot be read, written or used (a key of a wrong size, say)."""

    code = "storage"


class PolicyInvalid(VerdictdError):
    """A policy or its reference data cannot be compiled or evaluated; never an allow."""

    code = "policy-invalid"


class NotJudged(VerdictdError):
    """A guest could not be judged now; it may try again later.

    Attributes:
        rule: of the reason that the history shows.
    """

    code = "not-judged"
    rule: ClassVar[str] = "appraisal"

    @property
    def told(self) -> str:
        """All that the guest is told: the message is for the operator."""
        return f"not judged: {self.code}; try again later"


class CollateralUnavailable(NotJudged):
    """No collateral could be had now."""

    code = "collateral-unavailable"
    rule = "collateral"


class AppraisalTimeout(NotJudged):
    """Judging the guest took longer than the operator allows."""

    code = "timeout"


class ProtocolVersionRefused(VerdictdError):
    """The peer speaks a version of its protocol that is not served."""

    code = "protocol-version"


class SessionMissing(VerdictdError):
    """The peer shows no session or token at all; a guest begins anew."""

    code = "session-missing"


class SessionInvalid(VerdictdError):
    """The session is unknown, over, or its challenge was answered already."""

    code = "session-invalid"


class GuestRefused(VerdictdError):
    """A guest was judged and refused; the text, code and id, is all that it may be told."""

    code = "guest-refused"


class TokenInvalid(VerdictdError):
    """A token that this broker did not sign, or that is over."""

    code = "token-invalid"


class TokenOutOfTime(TokenInvalid):
    """A token that a trusted key signed, and that is over, too early, or says no end."""


class Overloaded(VerdictdError):
    """Too much at once; trying again later helps."""

    code = "overloaded"


class AttestationError(VerdictdError):
    """Evidence was judged and refused.

    Args:
        message: one line.
        reasons: every failed rule with its values; one is made of the message where
            the caller gives none, so a refusal always explains itself.

    Attributes:
        verified: the `VerifiedEvidence` that was refused, where its signature verified
            before something else did not (expired collateral, a revoked certificate).
    """

    code = "attestation"
    verified: object = None

    def __init__(self, message: str, *, reasons: tuple[Reason, ...] = ()) -> None:
        super().__init__(message)
        self.reasons = reasons or (Reason(self.code, "", "", message),)


class EvidenceMissing(AttestationError):
    """The peer showed no evidence at all."""

    code = "evidence-missing"


class EvidenceFormat(AttestationError):
    """The certificate or the evidence in it cannot be read, or is not served."""

    code = "evidence-format"


class EvidenceExpired(AttestationError):
    """The certificate is outside its validity, or older than the operator allows."""

    code = "evidence-expired"


class BindingMismatch(AttestationError):
    """The evidence does not vouch for the key that the peer holds."""

    code = "binding-mismatch"


class NonceMismatch(AttestationError):
    """The evidence answers another challenge than the one that was given."""

    code = "nonce-mismatch"


class QuoteInvalid(AttestationError):
    """The quote does not verify up to the trusted root."""

    code = "quote-invalid"


class CollateralExpired(AttestationError):
    """Collateral is outside its validity."""

    code = "collateral-expired"


class TcbStatusRefused(AttestationError):
    """The platform's TCB can never be accepted, whatever the policy says."""

    code = "tcb-status"


class EventLogRefused(AttestationError):
    """The event log is not that of the guest's boot."""

    code = "event-log"


class InitDataRefused(AttestationError):
    """The init-data is not what the guest was started with."""

    code = "init-data"


class PolicyRefused(AttestationError):
    """The appraisal policy said no, or did not say yes."""

    code = "policy-refused"
