"""gRPC status of each error, and reports of internal errors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, Final
from uuid import uuid4

import grpc
from google.protobuf.message import DecodeError

from verdictd_py.domain.events import WarningBug
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
from verdictd_py.listeners import messages
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


class MessageInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # stubs only
    """Interceptor that decodes requests with limits (`listeners.messages`).

    Undecodable ones are answered with INVALID_ARGUMENT. gRPC itself would answer UNKNOWN, which
    means an internal error, and decode them on the event loop.
    """

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:  # noqa: ANN401  # as gRPC's own
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        if handler.unary_unary is None:
            return _of_small_messages(handler)

        @wraps(handler.unary_unary)  # with the right that it names
        async def answer(data: bytes, context: Any) -> object:  # noqa: ANN401  # as above
            request: object = None
            try:
                request = await messages.decode(data, handler.request_deserializer)
            except DecodeError:
                method = handler_call_details.method
                text = (
                    f"the request cannot be decoded as the message of {method}; "
                    "use the .proto files of this broker"
                )
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)
            return await handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(
            answer, request_deserializer=None, response_serializer=handler.response_serializer
        )


def _of_small_messages(handler: Any) -> Any:  # noqa: ANN401  # as above
    """Return a handler of a stream with a limit of the size of each request.

    gRPC ends the call if its deserializer raises an exception.
    """
    deserializer = partial(messages.decode_small, deserializer=handler.request_deserializer)
    coders = {
        "request_deserializer": deserializer,
        "response_serializer": handler.response_serializer,
    }
    if handler.unary_stream is not None:
        return grpc.unary_stream_rpc_method_handler(handler.unary_stream, **coders)
    return grpc.stream_stream_rpc_method_handler(handler.stream_stream, **coders)


def report_bug(events: Events, error: BaseException, *, doing: str) -> str:
    """Record an internal error, and return the text that may be sent to the peer.

    The text of the exception is neither recorded nor returned: it may contain secrets.
    """
    incident = uuid4().hex
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
