"""gRPC status of each error, and reports of internal errors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, NoReturn
from uuid import uuid4

import grpc

from verdictd_py.domain.correlation import extended
from verdictd_py.domain.events import RequestFailed, WarningBug
from verdictd_py.errors import (
    AlreadyExists,
    Conflict,
    DecryptionFailed,
    NotAppraised,
    NotAuthorized,
    NotFound,
    Overloaded,
    PolicyInvalid,
    RequestError,
    StorageError,
    VerdictdError,
)
from verdictd_py.ports import Events

_GRPC: Final[tuple[tuple[type[VerdictdError], grpc.StatusCode], ...]] = (
    (RequestError, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (AlreadyExists, grpc.StatusCode.ALREADY_EXISTS),
    (Conflict, grpc.StatusCode.ABORTED),
    (NotAuthorized, grpc.StatusCode.PERMISSION_DENIED),
    (DecryptionFailed, grpc.StatusCode.FAILED_PRECONDITION),
    (StorageError, grpc.StatusCode.FAILED_PRECONDITION),
    (PolicyInvalid, grpc.StatusCode.INVALID_ARGUMENT),
    (NotAppraised, grpc.StatusCode.UNAVAILABLE),
    (Overloaded, grpc.StatusCode.RESOURCE_EXHAUSTED),
)


def grpc_status(error: VerdictdError) -> grpc.StatusCode:
    """Return the gRPC status of `error`; INTERNAL for errors that no client can cause."""
    for kind, status in _GRPC:
        if isinstance(error, kind):
            return status
    return grpc.StatusCode.INTERNAL


async def abort(
    context: Any,  # noqa: ANN401  # of grpc.aio, whose stubs differ for each kind of call
    events: Events,
    error: Exception,
    *,
    doing: str,
    caller: str,
) -> NoReturn:
    """End a gRPC call that failed, which raises: record why, and send status and text.

    gRPC itself would send the text of an unexpected exception to the client.

    Args:
        doing: name of the method in events.
        caller: name of the caller in events.
    """
    if not isinstance(error, VerdictdError):
        await context.abort(grpc.StatusCode.INTERNAL, report_bug(events, error, doing=doing))
        raise error  # never reached: abort raises
    status = grpc_status(error)
    events.record(
        RequestFailed(
            doing=doing,
            caller=caller,
            code=error.code,
            status=status.name,
            reason=str(error),
            limit=Overloaded.limit_of(error),
        )
    )
    await context.abort(status, str(error))
    raise error  # as above


def report_bug(events: Events, error: BaseException, *, doing: str) -> str:
    """Record an internal error, and return the text that may be sent to the peer.

    The text of the exception is neither recorded nor returned: it may contain secrets.
    """
    incident = extended(uuid4().hex)
    events.record(WarningBug.of(error, doing=doing, incident=incident))
    return f"internal error, ask the operator about {incident}"


def exception_handler(
    events: Events,
) -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """Return an exception handler for an event loop, which records unhandled exceptions.

    The default handler of asyncio would print their texts, which may contain secrets.
    """

    def report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        del loop
        error = context.get("exception")
        missing = RuntimeError("asyncio reported a problem without an exception")
        report_bug(events, error if isinstance(error, BaseException) else missing, doing="run")

    return report
