"""Events of connections and of requests, and internal errors that a request met."""

from typing import Annotated, Self

from verdictd_py.domain.events.fields import CallerName, Code, Operation, Peer, Reason
from verdictd_py.domain.eventtypes import Event, FieldInfo, Level, event

Status = Annotated[
    str, FieldInfo("Status of the response: that of gRPC or of HTTP.", characters=64)
]
Command = Annotated[str, FieldInfo("Command of the request, or method and route.", characters=64)]
ResponseBytes = Annotated[int, FieldInfo("Size of the response's body in bytes.")]
LimitName = Annotated[
    str,
    FieldInfo(
        "Limit that was reached: `address`, `connections`, `platform`, `platforms`, "
        "`descriptors`, `token`, `caller`, `callers`, `new-keys` or `other`.",
        characters=64,
    ),
]


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
