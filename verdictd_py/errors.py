"""Exceptions of the project, each class with a stable code.

The text of an error is safe to return to the peer that caused it: it contains only what that
peer sent, never a path, a measured value or a secret. Information for the operator alone is in
`reasons` or in the log event.

This module imports no other module of the project, so that every package can raise its errors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import ClassVar, Self


class ReasonKind(Enum):
    """Subject of a failed rule. Code decides by the kind, never by the name of the rule."""

    FORMAT = auto()
    """The evidence is missing, cannot be read, or is not served."""
    VERIFICATION = auto()
    """The evidence does not verify: signature, certificate chain, revocation, TCB level."""
    COLLATERAL = auto()
    """The collateral is expired, older than required, not signed, or for another platform."""
    BINDING = auto()
    """The evidence was made for another key or another challenge."""
    ATTRIBUTES = auto()
    """The TEE is in a mode that no policy can accept, such as debug."""
    TCB = auto()
    """The vendor's rating of the platform."""
    EVENT_LOG = auto()
    """The event log is not the log of the guest's boot."""
    INIT_DATA = auto()
    """The guest was not started with this init-data."""
    MEASUREMENT = auto()
    """A measurement is not among the reference values. Pinning it can fix this."""
    POLICY = auto()
    """Another rule of a policy, or a policy that cannot be evaluated."""
    OTHER = auto()
    """Not classified."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One failed rule with untruncated values, for the operator.

    Attributes:
        rule: name of the rule, the claim's name if it is about a claim (`debug`).
        measured: the measured value as text; empty if there is none.
        expected: the value that would have passed, as text; empty if there is none.
        text: explanation for the operator.
        kind: subject of the rule; not in reports.
    """

    rule: str
    measured: str
    expected: str
    text: str
    kind: ReasonKind = field(default=ReasonKind.OTHER, kw_only=True)

    def as_json(self) -> dict[str, str]:
        """Return the members of a reason in reports: rule, measured, expected, text."""
        return {
            "rule": self.rule,
            "measured": self.measured,
            "expected": self.expected,
            "text": self.text,
        }


class VerdictdError(Exception):
    """Root of every exception that this package raises on purpose."""

    code: ClassVar[str] = "internal"


class ConfigError(VerdictdError):
    """The operator's settings cannot be used; the message gives cause and remedy."""

    code = "config"


class RequestError(VerdictdError):
    """The peer's request is wrong."""

    code = "request"


class NotFound(VerdictdError):
    """No object of that name is stored."""

    code = "not-found"


class AlreadyExists(VerdictdError):
    """An object of that name is stored already, and creating never overwrites."""

    code = "already-exists"


class Conflict(VerdictdError):
    """The stored object changed after the caller read it; the caller must read it again."""

    code = "conflict"


class NotAuthorized(VerdictdError):
    """The caller is known and is not allowed to do this."""

    code = "not-authorized"


class DecryptionFailed(VerdictdError):
    """The ciphertext does not authenticate under the key it names."""

    code = "decryption-failed"


class StorageError(VerdictdError):
    """Stored data cannot be read, written or used (for example, a key of the wrong size)."""

    code = "storage"


class StoreUnavailable(StorageError):
    """The store does not answer, so that nothing is known about the object: it may be absent."""

    code = "store-unavailable"


class PolicyInvalid(VerdictdError):
    """A policy or its reference data cannot be compiled or evaluated, so it allows nothing."""

    code = "policy-invalid"


class EvaluationFailed(PolicyInvalid):
    """A compiled policy makes no decision about one input.

    Causes are a wrong type, rules that contradict each other, an exceeded budget, or an input
    that is too large. All of them depend on the input, which the guest chose in part.
    """


class NotAppraised(VerdictdError):
    """The guest cannot be appraised now, for a reason of the broker's own; it may try again later.

    Nothing is released. This is never a verdict, which guests take as final (ADR 15).

    Attributes:
        rule, kind: rule and kind of the reason in the history.
        record: id of its record in the history; empty before it is recorded.
    """

    code = "not-judged"
    record: str = ""
    rule: ClassVar[str] = "appraisal"
    kind: ClassVar[ReasonKind] = ReasonKind.OTHER

    @property
    def text_for_guest(self) -> str:
        """The only text that is disclosed to the guest: the message is for the operator."""
        return f"not judged: {self.code}; try again later"


class CollateralUnavailable(NotAppraised):
    """No collateral is available now."""

    code = "collateral-unavailable"
    rule = "collateral"
    kind = ReasonKind.COLLATERAL


class ClockBehind(CollateralUnavailable):
    """The vendor signed something later than this host's time, so this host's clock is wrong.

    No date can be checked by this clock.
    """

    code = "clock-behind"


class PolicyUnavailable(NotAppraised):
    """A policy, or what it needs, is missing, unreadable, or cannot be compiled."""

    code = "policy-unavailable"
    rule = "policy"
    kind = ReasonKind.POLICY


class AuditUnavailable(NotAppraised):
    """The audit trail cannot be written, and no verdict is disclosed without its record."""

    code = "audit-unavailable"
    rule = "audit"


class InternalError(NotAppraised):
    """An unexpected exception ended the appraisal, for example EMFILE: too many open files."""

    code = "internal-error"


class AppraisalTimeout(NotAppraised):
    """The appraisal took longer than the operator allows."""

    code = "timeout"


class NoCapacity(NotAppraised):
    """The guest's platform, or all platforms together, have too many connections."""

    code = "no-capacity"


class ProtocolVersionRefused(VerdictdError):
    """The peer uses a version of its protocol that is not served."""

    code = "protocol-version"


class SessionMissing(VerdictdError):
    """The peer sent neither a session nor a token; the guest must start again."""

    code = "session-missing"


class SessionInvalid(VerdictdError):
    """The session is unknown or expired, or its challenge was answered already."""

    code = "session-invalid"


class GuestRefused(VerdictdError):
    """A guest was appraised and refused; it receives only this text, with code and id."""

    code = "guest-refused"


class TokenInvalid(VerdictdError):
    """The token was not signed by this broker, or has expired."""

    code = "token-invalid"


class TokenNotValidNow(TokenInvalid):
    """A trusted key signed the token, which is expired, not valid yet, or never expires."""


class Overloaded(VerdictdError):
    """There are too many concurrent requests; the peer may try again later.

    Attributes:
        limit: name of the limit that was reached, for the metrics: one of `LIMITS`.
    """

    code = "overloaded"

    LIMITS: ClassVar[tuple[str, ...]] = (
        *("address", "connections", "platform", "platforms", "descriptors"),
        *("token", "caller", "callers", "new-keys", "other"),
    )

    def __init__(self, message: str, *, limit: str = "other") -> None:
        super().__init__(message)
        self.limit = limit

    @staticmethod
    def limit_of(error: VerdictdError) -> str | None:
        """Return the name of the limit that an error is about; None if it is about none."""
        return error.limit if isinstance(error, Overloaded) else None


class AttestationError(VerdictdError):
    """Evidence was appraised and refused.

    Args:
        message: one line.
        reasons: every failed rule with its values. If there is none, the message becomes the
            reason, so that each refusal is explained.

    Attributes:
        kind: kind of a reason that comes from the message.
    """

    code = "attestation"
    kind: ClassVar[ReasonKind] = ReasonKind.OTHER

    def __init__(self, message: str, *, reasons: tuple[Reason, ...] = ()) -> None:
        super().__init__(message)
        self.reasons = reasons or (Reason(self.code, "", "", message, kind=self.kind),)


class EvidenceMissing(AttestationError):
    """The peer presented no evidence."""

    code = "evidence-missing"
    kind = ReasonKind.FORMAT

    @classmethod
    def empty(cls) -> Self:
        """Return the error for evidence with an empty quote."""
        return cls(
            "the evidence has an empty quote: the guest's host gave none, because its quote "
            "generation service does not answer or is older than DCAP 1.21"
        )


class EvidenceFormat(AttestationError):
    """The certificate or the evidence in it cannot be read, or is not served."""

    code = "evidence-format"
    kind = ReasonKind.FORMAT


class EvidenceExpired(AttestationError):
    """A certificate of the guest or its platform has expired, or is older than allowed."""

    code = "evidence-expired"
    kind = ReasonKind.VERIFICATION


class EvidenceFromFuture(AttestationError):
    """A certificate of the guest is not valid yet: the guest's clock is ahead."""

    code = "evidence-from-future"
    kind = ReasonKind.VERIFICATION


class BindingMismatch(AttestationError):
    """The evidence is not bound to the peer's key."""

    code = "binding-mismatch"
    kind = ReasonKind.BINDING


class NonceMismatch(AttestationError):
    """The evidence answers a different challenge from the one that was sent."""

    code = "nonce-mismatch"
    kind = ReasonKind.BINDING


class QuoteInvalid(AttestationError):
    """The quote does not verify up to the trusted root."""

    code = "quote-invalid"
    kind = ReasonKind.VERIFICATION


class CollateralExpired(AttestationError):
    """The collateral is outside its validity. A verdict only if the guest itself sent it."""

    code = "collateral-expired"
    kind = ReasonKind.COLLATERAL


class TcbStatusRefused(AttestationError):
    """No policy can accept the platform's TCB."""

    code = "tcb-status"
    kind = ReasonKind.TCB


class EventLogRefused(AttestationError):
    """The event log is not the log of the guest's boot."""

    code = "event-log"
    kind = ReasonKind.EVENT_LOG


class InitDataRefused(AttestationError):
    """The guest was not started with this init-data."""

    code = "init-data"
    kind = ReasonKind.INIT_DATA


class PolicyRefused(AttestationError):
    """The guest is refused by the appraisal policy, or by rules that no policy can overrule."""

    code = "policy-refused"
    kind = ReasonKind.POLICY
