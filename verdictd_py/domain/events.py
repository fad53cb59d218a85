"""Catalogue of the daemon's events.

The log, the audit trail and `docs/reference/events.md` are derived from these types. A wire name
never changes and never gets another meaning, because operators' tools read it. A class has the
name of its event: `GuestNotJudged` for `guest.not-judged`. Its docstring says when the event is
recorded.

This module evaluates its annotations at once: as texts they would take half of its import.
"""

from typing import Annotated, Final, Self

from verdictd_py.domain.eventtypes import Audit, Event, FieldInfo, Level, event
from verdictd_py.domain.secrets import SecretBytes

Peer = Annotated[str, FieldInfo("Address of the peer: IP address and port.", characters=128)]
CallerName = Annotated[
    str,
    FieldInfo(
        "Name of the management client: its user id or its certificate's name.", characters=512
    ),
]
AppraisalId = Annotated[
    str, FieldInfo("Id of the appraisal, for `verdict-py explain`.", characters=64)
]
Code = Annotated[
    str, FieldInfo("Code of the refusal or failure; `ok` for an accepted guest.", characters=64)
]
Form = Annotated[str, FieldInfo("Form in which the guest presented its evidence.", characters=64)]
TcbStatus = Annotated[
    str, FieldInfo("TCB status of the platform, if the evidence was verified.", characters=64)
]
EvidenceDigest = Annotated[
    str, FieldInfo("SHA-256 digest of the evidence, if it was verified.", characters=128)
]
TeeName = Annotated[str, FieldInfo("Name of the TEE.", characters=64)]
Reason = Annotated[str, FieldInfo("Cause, and the remedy if there is one.", characters=2048)]
Reasons = Annotated[tuple[str, ...], FieldInfo("Reasons of the refusal.", characters=512, items=64)]
KeyName = Annotated[str, FieldInfo("Id of the key.", characters=1024)]
SecretKind = Annotated[
    str,
    FieldInfo(
        "Kind of the secret: `key`, `resource`, `image`, `image-key` or `kek`.", characters=64
    ),
]
Path = Annotated[
    str, FieldInfo("Path of the key or resource below the data directory.", characters=1024)
]
Pinned = Annotated[
    tuple[str, ...],
    FieldInfo(
        "Accepted reference values that were added, as `claim=value`.", characters=1024, items=256
    ),
]
Operation = Annotated[str, FieldInfo("Operation that was requested.", characters=256)]
Status = Annotated[
    str, FieldInfo("Status of the response: that of gRPC or of HTTP.", characters=64)
]
Command = Annotated[str, FieldInfo("Command of the request, or method and route.", characters=64)]
ResponseBytes = Annotated[int, FieldInfo("Size of the response's body in bytes.")]
Problem = Annotated[str, FieldInfo("Cause of the failure.", characters=2048)]
Fmspc = Annotated[str, FieldInfo("FMSPC of the platform, in hexadecimal.", characters=16)]
Ca = Annotated[
    str,
    FieldInfo("CA of the platform's PCK certificate: `platform` or `processor`.", characters=16),
]
Digest = Annotated[str, FieldInfo("SHA-256 digest, in hexadecimal.", characters=128)]
KeyProviderAddress = Annotated[
    str, FieldInfo("Address of the key provider's own listener, if there is one.", characters=512)
]
RestartSeconds = Annotated[int, FieldInfo("Pause before the restart, unless the daemon ends.")]
PreviousDigest = Annotated[
    str, FieldInfo("SHA-256 digest of its content before, if it had any.", characters=64)
]
CurrentDigest = Annotated[
    str, FieldInfo("SHA-256 digest of its content, if it exists.", characters=64)
]
StoragePart = Annotated[
    str, FieldInfo("Part of the storage: `data directory` or `sessions`.", characters=64)
]
WorkerNumber = Annotated[int, FieldInfo("Number of the guest worker, from 1.")]
LimitName = Annotated[
    str,
    FieldInfo(
        "Limit that was reached: `address`, `connections`, `platform`, `platforms`, "
        "`descriptors`, `token`, `caller`, `callers`, `new-keys` or `other`.",
        characters=64,
    ),
]
KbsUrl = Annotated[str, FieldInfo("URL of the HTTP listener, if there is one.", characters=512)]


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
CollateralDigest = Annotated[
    str,
    FieldInfo("SHA-256 digest of the collateral that verified the evidence.", characters=64),
]


@event("documents.used", audit=Audit.YES)
class DocumentsUsed(Event):
    """A policy and its data decide for the first time in this process: guests, or releases."""

    tee: TeeName | None = None
    policy: PolicyDigest
    reference: ReferenceDigest | None = None
    data: ReleaseDataDigest | None = None


@event("collateral.used", audit=Audit.LIMITED)
class CollateralUsed(Event):
    """Collateral verifies the evidence of a guest for the first time in this process."""

    tee: TeeName
    sha256: CollateralDigest
    until: (
        Annotated[str, FieldInfo("Time at which it expires (RFC 3339), if it does.", characters=64)]
        | None
    ) = None


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


@event("wrap.requested", by_peers=True)
class WrapRequested(Event):
    """A client requests that the options of an image layer be wrapped."""

    caller: CallerName
    parameter: Annotated[str, FieldInfo("Form of the key provider's parameter.", characters=64)]
    optsdata: Annotated[SecretBytes, FieldInfo("Options of the layer.")]


@event("wrap.refused", level=Level.WARNING, by_peers=True)
class WrapRefused(Event):
    """A client who may only wrap requested a key that is not available to it."""

    caller: CallerName
    kid: KeyName
    code: Code
    reason: Reason


@event("key.read")
class KeyRead(Event):
    """A key is used to wrap the options of an image layer."""

    kid: KeyName
    key: Annotated[SecretBytes, FieldInfo("The key.")]


@event("image-key.wrapped", audit=Audit.YES)
class ImageKeyWrapped(Event):
    """The options of an image layer were wrapped."""

    caller: CallerName
    kid: KeyName
    algorithm: Annotated[str, FieldInfo("Cipher that wraps them.", characters=64)]


@event("image-key.unwrapped", audit=Audit.YES)
class ImageKeyUnwrapped(Event):
    """The options of an image layer are unwrapped and returned to a client."""

    caller: CallerName
    kid: KeyName


@event("key.created", audit=Audit.YES)
class KeyCreated(Event):
    """A new key is created. Recorded before, as every change: `change.failed` follows a failure."""

    caller: CallerName
    kid: KeyName


@event("console.link-created", audit=Audit.YES)
class ConsoleLinkCreated(Event):
    """A caller of the client API gets a link, with which a person signs in to the console once."""

    caller: CallerName


@event("console.signed-in", audit=Audit.YES)
class ConsoleSignedIn(Event):
    """A person signs in to the console."""

    caller: CallerName
    peer: Peer


@event("console.refused", level=Level.WARNING, by_peers=True)
class ConsoleRefused(Event):
    """The console refused a sign-in, a change without its token, or a request for another host."""

    peer: Peer
    doing: Operation
    reason: Reason


@event("key.registered", audit=Audit.YES)
class KeyRegistered(Event):
    """A key that a client provides is stored."""

    caller: CallerName
    kid: KeyName


@event("key.exported", audit=Audit.YES)
class KeyExported(Event):
    """A key is returned to a client."""

    caller: CallerName
    kid: KeyName


@event("key.deleted", audit=Audit.YES)
class KeyDeleted(Event):
    """A key is deleted."""

    caller: CallerName
    kid: KeyName


@event("resource.exported", audit=Audit.YES)
class ResourceExported(Event):
    """A resource is returned to a client."""

    caller: CallerName
    path: Path


@event("resource.set", audit=Audit.YES)
class ResourceSet(Event):
    """A resource is stored."""

    caller: CallerName
    path: Path
    content: Annotated[SecretBytes, FieldInfo("The resource.")]


@event("resource.deleted", audit=Audit.YES)
class ResourceDeleted(Event):
    """A resource is deleted."""

    caller: CallerName
    path: Path


@event("policy.set", audit=Audit.YES)
class PolicySet(Event):
    """A policy, its reference data or another document that decides is stored."""

    caller: CallerName
    name: Annotated[str, FieldInfo("Name of the document.", characters=1024)]
    sha256: Digest


@event("policy.deleted", audit=Audit.YES)
class PolicyDeleted(Event):
    """A document that nothing reads is deleted."""

    caller: CallerName
    name: Annotated[str, FieldInfo("Name of the document.", characters=1024)]


@event("policy.loaded")
class PolicyLoaded(Event):
    """A policy was read and can be used: at start and at each reload."""

    tee: TeeName


@event("reference.pinned", audit=Audit.YES)
class ReferencePinned(Event):
    """Measurements of a known guest are added to the reference data."""

    caller: CallerName
    appraisal: AppraisalId
    name: Annotated[str, FieldInfo("Name of the reference data.", characters=1024)]
    values: Pinned


@event("reference.added", audit=Audit.YES)
class ReferenceAdded(Event):
    """A set of reference values is added."""

    caller: CallerName
    tee: TeeName
    name: Annotated[str, FieldInfo("Name of the set.", characters=256)]
    appraisal: Annotated[
        str,
        FieldInfo(
            "Id of the appraisal that the values come from; empty if there is none.", characters=64
        ),
    ]
    values: Pinned


@event("reference.retired", audit=Audit.YES)
class ReferenceRetired(Event):
    """A set of reference values is retired."""

    caller: CallerName
    tee: TeeName
    name: Annotated[str, FieldInfo("Name of the set.", characters=256)]


@event("reference.deleted", audit=Audit.YES)
class ReferenceDeleted(Event):
    """A set of reference values that is no longer in force is deleted."""

    caller: CallerName
    tee: TeeName
    name: Annotated[str, FieldInfo("Name of the set.", characters=256)]


@event("policy-engine.compiling")
class PolicyEngineCompiling(Event):
    """The daemon compiles the policy engine for this machine before it serves its listeners."""

    reason: Annotated[str, FieldInfo("What the start waits for, and for how long.", characters=256)]


@event("daemon.started", audit=Audit.YES)
class DaemonStarted(Event):
    """The daemon serves its listeners."""

    version: Annotated[str, FieldInfo("Version of verdictd-py.", characters=64)]
    listen: Annotated[
        str, FieldInfo("Address of the listener for attested guests.", characters=512)
    ]
    client_api: Annotated[str, FieldInfo("Address of the management API.", characters=512)]
    keyprovider_api: KeyProviderAddress | None
    kbs_http: KbsUrl | None
    verifiers: Annotated[
        tuple[str, ...], FieldInfo("Names of the verifiers.", characters=64, items=64)
    ]
    attester: Annotated[
        str, FieldInfo("Name of the attester of the daemon's own certificate.", characters=64)
    ]
    data_dir: Annotated[str, FieldInfo("Path of the data directory.", characters=4096)]
    workers: Annotated[int, FieldInfo("Number of guest workers, if there are any.")] | None = None


@event("worker.started", audit=Audit.YES)
class WorkerStarted(Event):
    """A guest worker serves guests. Its events are in an audit file of its own."""

    worker: WorkerNumber
    pid: Annotated[int, FieldInfo("Id of its process.")]
    file: Annotated[
        str, FieldInfo("Path of its audit file below the data directory.", characters=256)
    ]


@event("worker.stopped", audit=Audit.YES)
class WorkerStopped(Event):
    """A guest worker has finished its requests, because the daemon stops."""

    worker: WorkerNumber
    file: Annotated[
        str, FieldInfo("Path of its last audit file below the data directory.", characters=256)
    ]
    records: Annotated[int, FieldInfo("Number of records in this file.")]
    digest: Annotated[str, FieldInfo("Digest of the last record in this file.", characters=64)]


@event("warning.worker", level=Level.WARNING, audit=Audit.YES)
class WarningWorker(Event):
    """A guest worker has ended, or could not be started; its connections are lost."""

    worker: WorkerNumber
    reason: Reason
    restarts_in_seconds: RestartSeconds | None = None


@event("listener.started")
class ListenerStarted(Event):
    """A listener serves clients. Recorded for each listener before `daemon.started`."""

    name: Annotated[str, FieldInfo("Name of the setting that gives its address.", characters=64)]
    endpoint: Annotated[str, FieldInfo("Address or URL for clients.", characters=512)]


Changes = Annotated[
    tuple[str, ...], FieldInfo("What changed; empty if nothing did.", characters=512, items=64)
]


@event("daemon.reloaded", audit=Audit.YES)
class DaemonReloaded(Event):
    """SIGHUP: the operator's files were read again, and are in force."""

    changed: Changes


@event("warning.reload", level=Level.WARNING, audit=Audit.YES)
class WarningReload(Event):
    """SIGHUP: some of the operator's files cannot be used, and their old content stays in force."""

    changed: Changes
    problems: Annotated[
        tuple[str, ...],
        FieldInfo("Cause and remedy for each file that cannot be used.", characters=2048, items=16),
    ]


@event("daemon.ready")
class DaemonReady(Event):
    """The broker is ready again: what `warning.readiness` reported is fixed."""


@event("warning.readiness", level=Level.WARNING)
class WarningReadiness(Event):
    """The broker is not ready; its health service and `/readyz` say so."""

    problems: Annotated[
        tuple[str, ...],
        FieldInfo("Each part that cannot be used, with its cause.", characters=2048, items=16),
    ]


@event("daemon.tasks")
class DaemonTasks(Event):
    """SIGUSR1 or SIGQUIT: the functions in which each task of the daemon waits."""

    tasks: Annotated[
        tuple[str, ...],
        FieldInfo(
            "Name of each task, with its functions and lines, innermost last.",
            characters=1024,
            items=200,
        ),
    ]


@event("daemon.stopping")
class DaemonStopping(Event):
    """The daemon received a signal to stop; it completes the requests in progress."""


@event("daemon.stopped", audit=Audit.YES)
class DaemonStopped(Event):
    """The daemon has stopped."""


@event("unsafe.option", level=Level.WARNING, audit=Audit.YES)
class UnsafeOption(Event):
    """The daemon runs with an unsafe option."""

    flag: Annotated[str, FieldInfo("Name of the option.", characters=128)]


@event("kbs.self-signed")
class KbsSelfSigned(Event):
    """The HTTP listener created a self-signed certificate for itself."""

    sha256: Digest
    names: Annotated[
        tuple[str, ...],
        FieldInfo("Names and addresses that it is valid for.", characters=256, items=128),
    ]


@event("kbs.administrators")
class KbsAdministrators(Event):
    """The HTTP listener accepts the tokens of these administrators."""

    names: Annotated[
        tuple[str, ...], FieldInfo("Names of the administrators.", characters=256, items=64)
    ]


@event("kbs.token-key-added", audit=Audit.YES)
class KbsTokenKeyAdded(Event):
    """A new key of attestation tokens is stored for all brokers; the ones before it expire."""

    key: Annotated[str, FieldInfo("Id of the key, `kid` in tokens.", characters=64)]
    signs_from: Annotated[
        str, FieldInfo("Time from which brokers sign with it, ISO 8601.", characters=32)
    ]
    caller: CallerName | None = None
    revoked: (
        Annotated[int, FieldInfo("Number of keys whose tokens are refused from now on.")] | None
    ) = None


@event("audit.opened")
class AuditOpened(Event):
    """A new file of the audit trail was created."""

    file: Annotated[str, FieldInfo("Its path below the data directory.", characters=256)]


@event("audit.closed")
class AuditClosed(Event):
    """The file of the audit trail is complete."""

    records: Annotated[int, FieldInfo("Number of its records.")]
    digest: Annotated[
        str, FieldInfo("Digest of its last record, for `verdictd-py audit verify`.", characters=64)
    ]


AuditFileName = Annotated[
    str, FieldInfo("Path of the file below the data directory.", characters=256)
]
Statements = Annotated[
    tuple[str, ...],
    FieldInfo(
        "Other files, each with its state, the number of its records and its last digest.",
        characters=512,
        items=64,
    ),
]
Unauthenticated = Annotated[
    int, FieldInfo("Number of refusals among them whose evidence was not verified.")
]
Denials = Annotated[
    int, FieldInfo("Number of secrets refused to accepted guests, beyond the limit.")
]
Wraps = Annotated[int, FieldInfo("Number of wraps and unwraps refused because space was short.")]


@event("audit.began", audit=Audit.YES)
class AuditBegan(Event):
    """First record of an audit file, with counts of `audit.not-kept` that survived a stop."""

    file: AuditFileName
    reason: Annotated[str, FieldInfo("`start`, `continued` or `rotated`.", characters=32)]
    files: Statements
    key: (
        Annotated[
            str, FieldInfo("Public key that signs the heads of this file, base64.", characters=64)
        ]
        | None
    ) = None
    unauthenticated: Unauthenticated
    refusals: Annotated[
        int, FieldInfo("Number of refusals beyond the limit of records within a minute.")
    ]
    denials: Denials
    wraps: Wraps
    failed: Annotated[
        int,
        FieldInfo("Number of events that could not be written, so that they did not happen."),
    ]


@event("audit.named", audit=Audit.YES)
class AuditNamed(Event):
    """Further statements of `audit.began`, which has at most 64."""

    files: Statements


@event("audit.head", audit=Audit.YES)
class AuditHead(Event):
    """State of an audit file: after 1,000 records, each minute with records, and at its end."""

    file: AuditFileName
    records: Annotated[int, FieldInfo("Number of records before this one.")]
    digest: Annotated[
        str,
        FieldInfo(
            "Digest of the last of them, for `verdictd-py audit verify --expect-head`.",
            characters=64,
        ),
    ]
    signature: (
        Annotated[
            str,
            FieldInfo("Ed25519 signature of the head, base64, with `--audit-key`.", characters=128),
        ]
        | None
    ) = None
    last: Annotated[bool, FieldInfo("Whether the file ends with this record.")] | None = None


@event("audit.pruned", audit=Audit.YES)
class AuditPruned(Event):
    """Files of the audit trail are removed, because the retention does not allow more."""

    files: Statements
    records: Annotated[int, FieldInfo("Number of records in these files.")]
    reason: Reason


@event("audit.continued", level=Level.WARNING, audit=Audit.YES)
class AuditContinued(Event):
    """The audit trail continues in a new file. This is the second record of that file."""

    file: Annotated[
        str, FieldInfo("Path of the file before, below the data directory.", characters=256)
    ]
    records: Annotated[int, FieldInfo("Number of records in the file before.")]
    digest: Annotated[
        str, FieldInfo("Digest of the last record in the file before.", characters=64)
    ]
    reason: Reason


@event("audit.not-kept", level=Level.WARNING, audit=Audit.YES)
class AuditNotKept(Event):
    """Events are missing in the audit trail. Recorded each minute if there are any, and at stop."""

    refusals: Annotated[
        int, FieldInfo("Number of refusals beyond the limit of records within a minute.")
    ]
    failed: Annotated[
        int,
        FieldInfo("Number of events that could not be written, so that they did not happen."),
    ]
    unauthenticated: Unauthenticated | None = None
    denials: Denials | None = None
    wraps: Wraps | None = None


@event("audit.not-delivered", level=Level.WARNING, audit=Audit.YES)
class AuditNotDelivered(Event):
    """A sink of the audit trail was too slow, or could not be reached. The trail is complete."""

    sink: Annotated[str, FieldInfo("Name of the sink, as in `--audit-sink`.", characters=512)]
    records: Annotated[int, FieldInfo("Number of records that were not delivered.")]


@event("change.failed", level=Level.WARNING, audit=Audit.YES)
class ChangeFailed(Event):
    """A change that the record of this caller announced failed."""

    caller: CallerName
    change: Annotated[str, FieldInfo("Name of the event that announced the change.", characters=64)]
    object: Annotated[
        str, FieldInfo("Name of the key, resource, document or set.", characters=1024)
    ]
    code: Code
    reason: Reason


@event("log.dropped", level=Level.WARNING)
class LogDropped(Event):
    """Lines of the log were lost: its reader stalled, or its disk was full."""

    lines: Annotated[int, FieldInfo("Number of lines that were lost.")]


@event("log.flood")
class LogFlood(Event):
    """A source caused more events of a type within a minute than the log has lines for."""

    type: Annotated[str, FieldInfo("Name of the event that occurred so often.", characters=64)]
    source: Annotated[
        str,
        FieldInfo(
            "Address of the peer without its port (of IPv6, its /64 network), or name of the "
            "caller; `other sources` for those beyond the 100 with the most lines.",
            characters=512,
        ),
    ]
    lines: Annotated[int, FieldInfo("Number of lines that were omitted.")]


@event("trace.dropped", level=Level.WARNING)
class TraceDropped(Event):
    """Traces were dropped: the collector of `--traces` was too slow, or could not be reached."""

    requests: Annotated[int, FieldInfo("Number of requests without a trace.")]


@event("connection.refused", by_peers=True)
class ConnectionRefused(Event):
    """A connection was closed because there are too many, or could not be accepted."""

    peer: Peer | None = None
    reason: Reason
    limit: LimitName | None = None


@event("connection.closed", by_peers=True)
class ConnectionClosed(Event):
    """The peer closed its connection, or the broker did after an answer that ends it."""

    peer: Peer
    reason: Reason | None = None


@event("connection.probed", level=Level.DEBUG, by_peers=True)
class ConnectionProbed(Event):
    """A peer closed its connection without a byte, as health checks of load balancers do."""

    peer: Peer


@event("connection.timeout", by_peers=True)
class ConnectionTimeout(Event):
    """A connection was closed because the peer was too slow."""

    peer: Peer
    reason: Reason


@event("connection.failed", by_peers=True)
class ConnectionFailed(Event):
    """A connection failed: its TLS handshake, its protocol or the network."""

    peer: Peer
    reason: Reason


@event("request.received", by_peers=True)
class RequestReceived(Event):
    """A request of a connected guest was received."""

    peer: Peer
    command: Command


@event("request.answered", by_peers=True)
class RequestAnswered(Event):
    """A request was answered."""

    peer: Peer
    command: Command
    answer_bytes: ResponseBytes


@event("request.failed", level=Level.WARNING, by_peers=True)
class RequestFailed(Event):
    """A request was answered with an error."""

    peer: Peer | None = None
    command: Command | None = None
    doing: Operation | None = None
    caller: CallerName | None = None
    code: Code
    status: Status | None = None
    reason: Reason
    limit: LimitName | None = None


@event("request.unattested", by_peers=True)
class RequestUnattested(Event):
    """A guest requested a secret without a session; it must attest itself first."""

    peer: Peer
    doing: Operation
    code: Code
    status: Status
    reason: Reason


@event("collateral.renewed")
class CollateralRenewed(Event):
    """Collateral was fetched and verified."""

    tee: TeeName
    fmspc: Fmspc
    ca: Ca
    until: Annotated[str, FieldInfo("Time at which it expires (RFC 3339).", characters=64)]
    evaluation: Annotated[int, FieldInfo("Its TCB evaluation number.")]


@event("collateral.not-renewed")
class CollateralNotRenewed(Event):
    """Collateral could not be fetched or verified."""

    tee: TeeName
    fmspc: Fmspc
    ca: Ca
    problem: Problem
    again_after_seconds: Annotated[int, FieldInfo("Seconds until the next attempt.")]


@event("collateral.not-stored")
class CollateralNotStored(Event):
    """Collateral could not be stored; the daemon uses it until it stops."""

    problem: Problem


@event("collateral.unreadable")
class CollateralUnreadable(Event):
    """Stored collateral could not be read or verified."""

    problem: Problem


@event("warning.collateral", level=Level.WARNING)
class WarningCollateral(Event):
    """A file of collateral will expire soon, has expired, or cannot be used."""

    file: Annotated[str, FieldInfo("Path of the file.", characters=4096)]
    about: Annotated[str, FieldInfo("Platform of the collateral.", characters=256)]
    problem: Problem


@event("warning.policy", level=Level.WARNING)
class WarningPolicy(Event):
    """A policy cannot be used: no guest that needs it can be appraised."""

    tee: Annotated[str, FieldInfo("Name of the TEE, or `release`.", characters=64)]
    reason: Reason


@event("warning.audit", level=Level.ERROR)
class WarningAudit(Event):
    """The audit trail cannot be written: no guest is appraised, and no secret is released."""

    reason: Reason


@event("warning.unpinned", level=Level.WARNING)
class WarningUnpinned(Event):
    """A policy accepts guests with any value of some measurements."""

    tee: TeeName
    measurements: Annotated[
        tuple[str, ...], FieldInfo("Names of these measurements.", characters=128, items=64)
    ]
    reason: Reason


@event("warning.document", level=Level.WARNING)
class WarningDocument(Event):
    """A stored document has no effect, entirely or in part."""

    name: Annotated[str, FieldInfo("Name of the document.", characters=1024)]
    reason: Reason


@event("warning.content", level=Level.WARNING)
class WarningContent(Event):
    """A stored content cannot be used by guests, by all of them or by some."""

    resource: Annotated[str, FieldInfo("Path of the resource.", characters=1024)]
    reason: Reason


@event("tee.not-served")
class TeeNotServed(Event):
    """Every guest of a TEE is refused: no measurement is pinned, and the TEE is not named."""

    tee: TeeName
    reason: Reason


@event("tee.served")
class TeeServed(Event):
    """Guests of a TEE can be accepted from now on: a measurement was pinned."""

    tee: TeeName


@event("warning.identity", level=Level.WARNING)
class WarningIdentity(Event):
    """A certificate or key of the daemon could not be renewed or read, or guests refuse it."""

    reason: Reason


@event("warning.environment", level=Level.WARNING)
class WarningEnvironment(Event):
    """Variables of the environment cannot be read, and are ignored."""

    reason: Reason


@event("warning.storage", level=Level.WARNING)
class WarningStorage(Event):
    """The data directory has a defect that the daemon tolerates."""

    reason: Reason


@event("warning.rolled-back", level=Level.WARNING, audit=Audit.YES)
class WarningRolledBack(Event):
    """A policy, reference data or a set has a content again that had been replaced."""

    file: Annotated[str, FieldInfo("Its path in the data directory.", characters=4096)]
    revision: Annotated[int, FieldInfo("Number of the content that it has now.")]
    earlier: Annotated[int, FieldInfo("Number under which it had this content before.")]
    sha256: Digest
    replaced: Annotated[
        str, FieldInfo("SHA-256 digest of the content that was replaced.", characters=64)
    ]


@event("warning.other-daemon", level=Level.WARNING)
class WarningOtherDaemon(Event):
    """Another daemon uses the same data directory, which is supported if it is intended."""

    pid: Annotated[int, FieldInfo("Number of its process, in its own container or on its host.")]
    host: Annotated[str, FieldInfo("Name of this container or host.", 64)]
    started: Annotated[str, FieldInfo("Time of its start, RFC 3339.", 64)]


@event("storage.fault", level=Level.ERROR)
class StorageFault(Event):
    """A part of the storage cannot be used, and what needs it fails until `storage.recovered`."""

    part: StoragePart
    reason: Reason


@event("storage.recovered")
class StorageRecovered(Event):
    """A part of the storage can be used again, without a restart."""

    part: StoragePart


@event("seal.opened", audit=Audit.YES)
class SealOpened(Event):
    """The index of the sealed objects was read; a lower generation than before is a roll-back."""

    generation: Annotated[int, FieldInfo("Number of changes of the sealed objects so far.")]
    strict: Annotated[bool, FieldInfo("Whether plain objects are refused.")]
    key: Annotated[
        str, FieldInfo("Newest version of the key-encryption key, not secret.", characters=255)
    ]


@event("seal.refused", level=Level.ERROR, audit=Audit.LIMITED)
class SealRefused(Event):
    """A stored object is refused: it was altered, replaced, removed, or is not sealed."""

    path: Annotated[str, FieldInfo("Canonical path of the object.", characters=1024)]
    reason: Reason


@event("file.changed", audit=Audit.YES)
class FileChanged(Event):
    """A file that determines decisions is used for the first time, or was changed, by anyone."""

    file: Annotated[
        str, FieldInfo("Its path: relative in the data directory, else absolute.", characters=4096)
    ]
    previous: PreviousDigest | None
    sha256: CurrentDigest | None
    revision: (
        Annotated[int, FieldInfo("Number of this content among all that the document has had.")]
        | None
    ) = None


@event("warning.limits", level=Level.WARNING)
class WarningLimits(Event):
    """Listeners serve fewer connections than their settings, for lack of file descriptors."""

    reason: Reason


@event("warning.shadowed", level=Level.WARNING)
class WarningShadowed(Event):
    """A stored resource is not served to guests, because a file has the same name."""

    resource: Annotated[str, FieldInfo("Path of the resource.", characters=1024)]
    by: Annotated[str, FieldInfo("Path of the file.", characters=1024)]


@event("warning.task", level=Level.ERROR)
class WarningTask(Event):
    """Background work failed. It is restarted, or the daemon ends with exit status 1."""

    task: Annotated[str, FieldInfo("Name of the work.", characters=128)]
    error: Annotated[str, FieldInfo("Type of the exception.", characters=128)]
    reason: Reason
    restarts_in_seconds: RestartSeconds | None


@event("warning.bug", level=Level.ERROR, by_peers=True)
class WarningBug(Event):
    """An internal error occurred. The exception's text is withheld: it could quote a secret."""

    doing: Operation
    incident: Annotated[
        str, FieldInfo("Id that the peer received with its response.", characters=64)
    ]
    error: Annotated[str, FieldInfo("Type of the exception.", characters=128)]
    frames: Annotated[
        tuple[str, ...],
        FieldInfo(
            "Functions and lines of the traceback, innermost last.",
            characters=256,
            items=100,
            last_items=True,
        ),
    ]

    @classmethod
    def of(cls, error: BaseException, *, doing: str, incident: str) -> Self:
        """Return the record of an exception, without its text."""
        frames = []
        trace = error.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            frames.append(f"{code.co_qualname}:{trace.tb_lineno}")
            trace = trace.tb_next
        return cls(doing=doing, incident=incident, error=type(error).__name__, frames=tuple(frames))


CATALOGUE: Final[tuple[type[Event], ...]] = tuple(
    sorted(
        (
            member
            for member in tuple(globals().values())
            if isinstance(member, type) and issubclass(member, Event) and member is not Event
        ),
        key=lambda member: member.spec.name,
    )
)
"""All event types above, by wire name."""
