"""Events of guests: appraisals, and secrets that are released or refused to them."""

from typing import Annotated

from verdictd_py.domain.events.fields import (
    AppraisalId,
    CallerName,
    Code,
    CollateralDigest,
    Path,
    Peer,
    Reason,
    TeeName,
)
from verdictd_py.domain.eventtypes import Audit, Event, FieldInfo, Level, event

Form = Annotated[str, FieldInfo("Form in which the guest presented its evidence.", characters=64)]
TcbStatus = Annotated[
    str, FieldInfo("TCB status of the platform, if the evidence was verified.", characters=64)
]
EvidenceDigest = Annotated[
    str, FieldInfo("SHA-256 digest of the evidence, if it was verified.", characters=128)
]
Reasons = Annotated[tuple[str, ...], FieldInfo("Reasons of the refusal.", characters=512, items=64)]
SecretKind = Annotated[
    str,
    FieldInfo(
        "Kind of the secret: `key`, `resource`, `image`, `image-key` or `kek`.", characters=64
    ),
]
PolicyDigest = Annotated[
    str,
    FieldInfo("SHA-256 digest of the policy that decided, if one was evaluated.", characters=64),
]
ReferenceDigest = Annotated[
    str,
    FieldInfo(
        "SHA-256 digest of the reference data that it read, named sets in force included.",
        characters=64,
    ),
]
ReleaseDataDigest = Annotated[
    str, FieldInfo("SHA-256 digest of the data of the release policy.", characters=64)
]


@event("documents.used", audit=Audit.YES)
class DocumentsUsed(Event):
    """A policy and its data decide for the first time in this process: guests, or releases."""

    tee: TeeName | None = None
    policy: PolicyDigest
    reference: ReferenceDigest | None = None
    data: ReleaseDataDigest | None = None


@event("guest.accepted", audit=Audit.YES)
class GuestAccepted(Event):
    """The evidence of a guest was verified, and the appraisal policy accepts the guest."""

    peer: Peer
    appraisal: AppraisalId
    code: Code
    tee: TeeName | None
    form: Form
    tcb_status: TcbStatus | None
    evidence: EvidenceDigest | None
    reasons: Reasons
    policy: PolicyDigest | None = None
    reference: ReferenceDigest | None = None
    collateral: CollateralDigest | None = None


@event("guest.refused", level=Level.WARNING, audit=Audit.LIMITED, by_peers=True)
class GuestRefused(Event):
    """The evidence of a guest was refused by its verification or by the appraisal policy."""

    peer: Peer
    appraisal: AppraisalId
    code: Code
    tee: TeeName | None
    form: Form
    tcb_status: TcbStatus | None
    evidence: EvidenceDigest | None
    reasons: Reasons
    policy: PolicyDigest | None = None
    reference: ReferenceDigest | None = None
    collateral: CollateralDigest | None = None


@event("guest.not-judged", level=Level.WARNING, audit=Audit.LIMITED, by_peers=True)
class GuestNotJudged(Event):
    """A guest could not be appraised for a reason of the broker's own, such as its collateral."""

    peer: Peer
    appraisal: AppraisalId
    code: Code
    reason: Reason


@event("guest.disconnected", audit=Audit.YES)
class GuestDisconnected(Event):
    """A connected guest is disconnected: it is refused now, or an operator requests it."""

    peer: Peer
    guest: Annotated[
        str, FieldInfo("Id of the appraisal with which it was accepted.", characters=64)
    ]
    appraisal: Annotated[
        str, FieldInfo("Id of its last appraisal, for `verdict-py explain`.", characters=64)
    ]
    caller: CallerName | None = None
    reason: Reason


@event("secret.released", audit=Audit.YES)
class SecretReleased(Event):
    """A key, a resource or the content of a wrapped blob is released to an accepted guest."""

    peer: Peer
    appraisal: AppraisalId
    tee: TeeName
    what: SecretKind
    path: Path
    paths: (
        Annotated[
            tuple[str, ...],
            FieldInfo(
                "Paths of all keys, if one request releases several.", characters=1024, items=256
            ),
        ]
        | None
    ) = None
    policy: PolicyDigest | None = None
    data: ReleaseDataDigest | None = None


@event("release.refused", level=Level.WARNING, audit=Audit.LIMITED)
class ReleaseRefused(Event):
    """The release policy refuses a secret to an accepted guest."""

    peer: Peer
    appraisal: AppraisalId
    tee: TeeName
    what: SecretKind
    path: Path
    reasons: Reasons
    policy: PolicyDigest | None = None
    data: ReleaseDataDigest | None = None


@event("tee.not-served")
class TeeNotServed(Event):
    """Every guest of a TEE is refused: no measurement is pinned, and the TEE is not named."""

    tee: TeeName
    reason: Reason


@event("tee.served")
class TeeServed(Event):
    """Guests of a TEE can be accepted from now on: a measurement was pinned."""

    tee: TeeName
