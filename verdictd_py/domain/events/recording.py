"""Events of the audit trail, the log and the traces about themselves."""

from typing import Annotated

from verdictd_py.domain.events.fields import Reason
from verdictd_py.domain.eventtypes import Audit, Event, FieldInfo, Level, event

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


@event("warning.sink", level=Level.WARNING)
class WarningSink(Event):
    """A sink of the audit trail takes no records. They wait, and the sink is tried again."""

    sink: Annotated[str, FieldInfo("Name of the sink, as in `--audit-sink`.", characters=512)]
    reason: Reason
    records: Annotated[int, FieldInfo("Number of records that wait.")]


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


@event("warning.audit", level=Level.ERROR)
class WarningAudit(Event):
    """The audit trail cannot be written: no guest is appraised, and no secret is released."""

    reason: Reason
