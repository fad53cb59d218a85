"""All metrics of the broker: names, units, labels, and the values that labels may have.

Every label has a fixed set of values, which is known when the broker starts. Nothing that a peer
sends, and no name of a secret or platform, is a value. A value outside of its set counts as
`other`, so the number of series is constant, whatever clients send.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from verdictd_py.domain.events import CATALOGUE
from verdictd_py.errors import AttestationError, NotAppraised, Overloaded, VerdictdError
from verdictd_py.stages import Stage

OTHER: Final = "other"
"""Value of a label in place of every value that is not in its set."""

PREFIX: Final = "verdictd_"

GUEST_LISTENERS: Final = ("listen", "kbs_http")
LISTENERS: Final = (*GUEST_LISTENERS, "client_api", "keyprovider_api", "console")

SECONDS: Final = (
    *(0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
"""Upper bounds of the buckets. A cached verification takes 0.2 ms, collateral from Intel 2 s."""


class Kind(StrEnum):
    """Type of a metric, as Prometheus names it."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Axis:
    """One label with its values, or several labels that belong together.

    Attributes:
        labels: names of the labels.
        values: the values of all these labels, one tuple for each combination.
        others: replacement for a combination that is not among them, by its first value.
    """

    labels: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    others: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, label: str, values: Iterable[str]) -> Axis:
        """Return the axis of a single label, with the value `other`."""
        return cls.closed(label, (*values, OTHER))

    @classmethod
    def closed(cls, label: str, values: Iterable[str]) -> Axis:
        """Return the axis of a single label whose values are all constants of this package."""
        return cls((label,), tuple((value,) for value in dict.fromkeys(values)), {})

    def fallback(self, value: tuple[str, ...]) -> tuple[str, ...]:
        """Return the combination that stands for one that is not among the values."""
        return self.others.get(value[0], self.values[-1])


@dataclass(frozen=True, slots=True)
class Family:
    """One metric with its series.

    Attributes:
        name: name with its unit, without the suffixes of the format (`_total`, `_bucket`).
        help: one sentence for the operator.
        axes: labels; the series are all combinations of their values.
        exemplar: name of the exemplars' label; empty for a metric without exemplars.
        largest: for a gauge: whether the processes measure the same thing, so that the largest
            value is reported, not the sum.
    """

    name: str
    kind: Kind
    help: str
    axes: tuple[Axis, ...] = ()
    exemplar: str = ""
    largest: bool = False

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(label for axis in self.axes for label in axis.labels)


def _codes(root: type[VerdictdError]) -> tuple[str, ...]:
    """Return the codes of an error and all errors derived from it, of this package only."""
    codes = [root.code]
    for derived in root.__subclasses__():
        if derived.__module__ == VerdictdError.__module__:
            codes += _codes(derived)
    return tuple(dict.fromkeys(codes))


_OUTCOMES: Final = Axis(
    ("result", "code"),
    (
        ("accepted", "ok"),
        *(("refused", code) for code in _codes(AttestationError)),
        ("refused", OTHER),
        *(("not-judged", code) for code in _codes(NotAppraised)),
        ("not-judged", OTHER),
    ),
    {"accepted": ("accepted", "ok"), "refused": ("refused", OTHER)},
)
_LISTENER: Final = Axis.of("listener", LISTENERS)
_ANY_LISTENER: Final = Axis(("listener",), (*((name,) for name in LISTENERS), ("none",)), {})
"""`none` for what happens without a connection, such as a repeated appraisal."""
_ERRORS: Final = Axis.of("code", _codes(VerdictdError))
_KINDS: Final = Axis.of("kind", ("key", "resource", "image", "image-key", "kek"))
GUEST_OPERATIONS: Final = (
    "version",
    "echo",
    "Decrypt",
    "Get KEK",
    "Get Resource",
    "Get Resource Info",
)
"""Requests of guests over RATS-TLS. Guests send these texts, and may send others."""
_OPERATIONS: Final = Axis.of("operation", (*GUEST_OPERATIONS, "auth", "attest", "resource"))
GRPC_STATUSES: Final = (
    *("ok", "cancelled", "unknown", "invalid-argument", "deadline-exceeded", "not-found"),
    *("already-exists", "permission-denied", "resource-exhausted", "failed-precondition"),
    *("aborted", "out-of-range", "unimplemented", "internal", "unavailable", "data-loss"),
    "unauthenticated",
)
"""Names of the statuses of gRPC, in the order of their numbers (grpc/status.h)."""

PROCESS: Final = Axis.closed("process", ("operator", "worker"))

APPRAISALS: Final = "verdictd_appraisals"
STAGES: Final = "verdictd_stage_seconds"
RELEASES: Final = "verdictd_releases"
WRAPS: Final = "verdictd_wraps"
REQUESTS: Final = "verdictd_guest_requests"
FAILURES: Final = "verdictd_request_failures"
CALLS: Final = "verdictd_grpc_calls"
CONNECTIONS: Final = "verdictd_accepted_connections"
ENDS: Final = "verdictd_connection_ends"
LIMITED: Final = "verdictd_limit_refusals"
CHALLENGES: Final = "verdictd_challenges"
SESSIONS: Final = "verdictd_attested_sessions"
TOKEN_EXPIRY: Final = "verdictd_token_expiry_timestamp_seconds"  # noqa: S105  # a name
STORED_SESSIONS: Final = "verdictd_stored_sessions"
FETCHES: Final = "verdictd_collateral_fetches"
AUDIT_RECORDS: Final = "verdictd_audit_records"
AUDIT_BYTES: Final = "verdictd_audit_written_bytes"
AUDIT_FAILURES: Final = "verdictd_audit_failures"
AUDIT_OMITTED: Final = "verdictd_audit_omitted_events"
LOG_DROPPED: Final = "verdictd_log_dropped_lines"
LOG_OMITTED: Final = "verdictd_log_omitted_lines"
UNTRACED: Final = "verdictd_trace_dropped_requests"
EVENTS: Final = "verdictd_events"
LOOP_DELAY: Final = "verdictd_event_loop_delay_seconds"
QUEUES: Final = "verdictd_queue_length"
MEMORY: Final = "verdictd_process_resident_memory_bytes"
CPU: Final = "verdictd_process_cpu_seconds"


def families(tees: Sequence[str]) -> tuple[Family, ...]:
    """Return the metrics that the processes of a broker count, for the TEEs that it knows."""
    tee = Axis(("tee",), (*((name,) for name in sorted(tees)), ("unknown",)), {})
    counter, gauge, histogram = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM
    return (
        Family(
            APPRAISALS,
            counter,
            "Appraisals of guests by result and code (verdictd-py's error codes).",
            (_ANY_LISTENER, tee, _OUTCOMES),
            exemplar="appraisal",
        ),
        Family(
            STAGES,
            histogram,
            "Seconds of the stages of requests; a stage within another one counts for itself.",
            (_LISTENER, Axis.closed("stage", Stage)),
            exemplar="connection",
        ),
        Family(
            RELEASES,
            counter,
            "Secrets that the release policy allowed or refused to an accepted guest.",
            (_ANY_LISTENER, _KINDS, Axis.closed("result", ("released", "refused"))),
            exemplar="appraisal",
        ),
        Family(
            WRAPS,
            counter,
            "Options of image layers that were wrapped or unwrapped, and refused requests.",
            (Axis.closed("result", ("wrapped", "unwrapped", "refused")),),
        ),
        Family(
            REQUESTS,
            counter,
            "Requests of guests by result.",
            (
                Axis.of("listener", GUEST_LISTENERS),
                _OPERATIONS,
                Axis.closed("result", ("answered", "failed", "unattested")),
            ),
        ),
        Family(
            FAILURES,
            counter,
            "Requests that were answered with an error, by its code.",
            (_LISTENER, _ERRORS),
        ),
        Family(
            CALLS,
            counter,
            "Calls of gRPC by the status of the answer, also those that leave no event.",
            (
                Axis.closed("listener", ("client_api", "keyprovider_api")),
                Axis.closed("status", GRPC_STATUSES),
            ),
        ),
        Family(CONNECTIONS, counter, "Connections that were accepted.", (_LISTENER,)),
        Family(
            ENDS,
            counter,
            "Connections that ended, as far as the log has an event for it.",
            (_LISTENER, Axis.closed("reason", ("closed", "timeout", "failed", "refused"))),
        ),
        Family(
            LIMITED,
            counter,
            "Connections and requests that were refused because a limit was reached.",
            (_LISTENER, Axis.of("limit", Overloaded.LIMITS)),
        ),
        Family(CHALLENGES, counter, "Challenges that HTTP guests received."),
        Family(SESSIONS, counter, "HTTP guests that received a token."),
        Family(
            TOKEN_EXPIRY,
            gauge,
            "Time at which the token that was issued last expires.",
            largest=True,
        ),
        Family(
            STORED_SESSIONS,
            gauge,
            "Sessions of HTTP guests that are stored now. Those in a file are counted every 10 s.",
            (Axis.closed("state", ("challenge", "token")),),
            largest=True,
        ),
        Family(
            FETCHES,
            counter,
            "Attempts to fetch collateral of a platform type.",
            (Axis.closed("result", ("renewed", "failed")),),
        ),
        Family(AUDIT_RECORDS, counter, "Records that were written to the audit trail."),
        Family(AUDIT_BYTES, counter, "Bytes that were written to the audit trail."),
        Family(
            AUDIT_FAILURES,
            counter,
            "Events that could not be recorded, so that they did not happen.",
        ),
        Family(
            AUDIT_OMITTED,
            counter,
            "Events that the audit trail omits, beyond the budget of their class: refusals are "
            "only counted then, wraps and releases do not happen.",
            (
                Axis.of(
                    "class",
                    ("unauthenticated", "refusals", "denials", "wraps", "releases"),
                ),
            ),
        ),
        Family(LOG_DROPPED, counter, "Lines of the log that were lost: its reader stalled."),
        Family(LOG_OMITTED, counter, "Lines of floods that the log replaces by a count."),
        Family(UNTRACED, counter, "Requests whose traces the collector did not receive."),
        Family(
            EVENTS,
            counter,
            "Events by type (docs/reference/events.md).",
            (Axis.of("event", (kind.spec.name for kind in CATALOGUE)),),
        ),
        Family(
            LOOP_DELAY,
            histogram,
            "Seconds by which the event loop was late for a timer.",
            (PROCESS,),
        ),
        Family(
            QUEUES,
            gauge,
            "Calls that wait for the disk of the audit trail, and lines that wait for the reader "
            "of the log.",
            (PROCESS, Axis.closed("queue", ("audit", "log"))),
        ),
        Family(MEMORY, gauge, "Resident memory, all processes of a type together.", (PROCESS,)),
        Family(CPU, counter, "CPU seconds, all processes of a type together.", (PROCESS,)),
    )
