"""Admission of gRPC calls: rights and shares of the caller, before the message is read."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ExitStack,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from contextvars import ContextVar
from typing import Any, Final

import grpc

from verdictd_py.domain.callers import ROLES, Caller, Right
from verdictd_py.domain.events import RequestFailed
from verdictd_py.errors import Overloaded, VerdictdError
from verdictd_py.listeners.callers import CallContext, CallerRules
from verdictd_py.listeners.errors import grpc_status, report_bug
from verdictd_py.ports import Events

CALLS_OF_ALL: Final = 1024
"""Maximum number of calls of a listener, refused ones included until they have their answer."""

CALLS_OF_CONNECTION: Final = 64
"""Maximum number of calls at once on a connection; HTTP/2 makes the client wait with others."""

CALLS_OF_USER: Final = 64
"""Maximum number of calls at once of a caller who is not an administrator."""

CALLS_OF_USERS: Final = 256
"""The same for all such callers together. The rest is for root, the daemon's user, and
certificates with the role `admin`."""

MESSAGES_OF_USER: Final = 4
"""Maximum number of messages that are read and answered at once for such a caller; others wait.
A message has up to 8 MiB, and decoding it takes several times as much."""

MESSAGE_SECONDS: Final = 30.0
"""Time limit for receiving the message of a call."""

STREAM_SECONDS: Final = 600.0
"""Time limit of a call that streams, such as `Health/Watch`; clients then open another."""

_NO_RIGHTS: Final = "callers without rights"
_ADMINISTRATOR: Final = ROLES["admin"]

_identified: ContextVar[Caller] = ContextVar("caller")


async def caller_of(rules: CallerRules, context: CallContext) -> Caller:
    """Return the caller of this call, identified at its admission where there was one.

    A certificate's rights are looked up again: its role may have been removed while the message
    was received.
    """
    known = _identified.get(None)
    if known is None or rules.certificate_roles is not None:
        return await _identify(rules, context)
    return known


async def _identify(rules: CallerRules, context: CallContext) -> Caller:
    """Return the caller; a certificate may have to be verified again, which takes time."""
    if rules.certificate_roles is None:
        return rules.caller(context)
    return await asyncio.to_thread(rules.caller, context)


def required(method: object) -> Right | None:
    """Return the right that callers of a method need, if it names one (see `calls.answered`)."""
    right = getattr(method, "right", None)
    return right if isinstance(right, Right) else None


class Shares:
    """Counter of calls by caller, with limits for everyone but administrators."""

    def __init__(self) -> None:
        self._calls: dict[str, int] = {}
        self._messages: dict[str, asyncio.Semaphore] = {}

    @contextmanager
    def call(self, caller: Caller) -> Iterator[AbstractAsyncContextManager[object]]:
        """Count a call while it lasts; yield what it must hold while its message is handled.

        Raises:
            Overloaded: this caller, or all together, have too many calls.
        """
        if caller.rights >= _ADMINISTRATOR:
            yield nullcontext()
            return
        name = caller.name if caller.rights else _NO_RIGHTS
        if self._calls.get(name, 0) >= CALLS_OF_USER:
            raise Overloaded(f"{name} has {CALLS_OF_USER} calls already; wait until one ends")
        if sum(self._calls.values()) >= CALLS_OF_USERS:
            raise Overloaded(f"there are {CALLS_OF_USERS} calls already; wait until one ends")
        self._calls[name] = self._calls.get(name, 0) + 1
        try:
            yield self._messages.setdefault(name, asyncio.Semaphore(MESSAGES_OF_USER))
        finally:
            self._calls[name] -= 1
            if not self._calls[name]:
                del self._calls[name], self._messages[name]


class Admission(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # stubs only
    """Interceptor that admits calls.

    gRPC receives the message of a call with one request before it runs the handler. Therefore
    such a handler is registered as one of a stream of requests, which is the same on the wire.

    1. The caller is identified. 2. Its right is checked, if the method names one. 3. Its number
    of calls is limited. 4. The message is received, within a time limit. 5. The method runs; a
    method that streams has a time limit.

    Args:
        events: where refused calls are recorded.
        calling: protects the connection of an admitted call while the call lasts; it gets the name
            of the connection in gRPC.

    Attributes:
        rules: how callers of this listener are identified.
    """

    def __init__(
        self,
        rules: CallerRules,
        events: Events,
        calling: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self.rules = rules
        self._calling = calling
        self._events = events
        self._shares = Shares()
        self._undrained: set[asyncio.Task[object]] = set()
        self._draining = False

    def end_undrained(self) -> None:
        """End the calls for which a drain does not wait.

        These are streams, which last for minutes, and calls of callers without rights whose
        message has not arrived.
        """
        self._draining = True
        for task in tuple(self._undrained):
            task.cancel()

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:  # noqa: ANN401  # as gRPC's own
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        name = handler_call_details.method.rpartition("/")[2]
        coders = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.unary_unary is not None:
            answer = self._unary(name, handler.unary_unary)
            return grpc.stream_unary_rpc_method_handler(answer, **coders)
        answer = self._stream(
            name,
            handler.unary_stream or handler.stream_stream,
            one_request=handler.unary_stream is not None,
        )
        return grpc.stream_stream_rpc_method_handler(answer, **coders)

    def _unary(self, name: str, method: Any) -> Any:  # noqa: ANN401  # as above
        async def answer(requests: AsyncIterator[object], context: Any) -> object:  # noqa: ANN401
            async with self._admitted(name, method, context) as turn, turn:
                has_rights = bool(_identified.get().rights)
                async with nullcontext() if has_rights else self._without_drain(context):
                    message = await _message(requests, context)
                return await method(message, context)

        return answer

    def _stream(self, name: str, method: Any, *, one_request: bool) -> Any:  # noqa: ANN401
        async def answer(requests: AsyncIterator[object], context: Any) -> None:  # noqa: ANN401
            async with self._admitted(name, method, context):
                try:
                    async with self._without_drain(context):
                        async with asyncio.timeout(STREAM_SECONDS):
                            sent = await _message(requests, context) if one_request else requests
                            await _write(method(sent, context), context)
                except TimeoutError:
                    text = f"a stream lasts at most {STREAM_SECONDS:.0f} seconds; open another"
                    await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, text)

        return answer

    @asynccontextmanager
    async def _without_drain(self, context: Any) -> AsyncIterator[None]:  # noqa: ANN401  # as above
        """Let a drain end the call in this block."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # always true inside a coroutine
        self._undrained.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if not self._draining:
                raise
            # gRPC sends no status for a cancelled handler, and would wait until its client leaves.
            task.uncancel()
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the broker stops")
        finally:
            self._undrained.discard(task)

    @asynccontextmanager
    async def _admitted(
        self,
        name: str,
        method: object,
        context: Any,  # noqa: ANN401  # as above
    ) -> AsyncIterator[AbstractAsyncContextManager[object]]:
        """Admit a call, or end it; yield what the call must hold while its message is handled."""
        caller = Caller("not known yet", frozenset())
        with ExitStack() as share:
            try:
                caller = await _identify(self.rules, context)
                _identified.set(caller)
                if (right := required(method)) is not None:
                    caller.require(right)
                turn = share.enter_context(self._shares.call(caller))
                share.enter_context(self._calling(context.peer()))
            except VerdictdError as error:
                status = grpc_status(error)
                self._events.record(
                    RequestFailed(
                        doing=name,
                        caller=caller.name,
                        code=error.code,
                        status=status.name,
                        reason=str(error),
                    )
                )
                await context.abort(status, str(error))
            except Exception as error:  # noqa: BLE001  # grpc would send its text to the client
                text = report_bug(self._events, error, doing=name)
                await context.abort(grpc.StatusCode.INTERNAL, text)
            yield turn


async def _message(requests: AsyncIterator[object], context: Any) -> object:  # noqa: ANN401
    """Receive the only message of a call, within the time limit."""
    try:
        async with asyncio.timeout(MESSAGE_SECONDS):
            async for message in requests:
                return message
    except TimeoutError:
        text = f"the request did not arrive within {MESSAGE_SECONDS:.0f} seconds"
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, text)
    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the call has no request")
    return None  # never reached: abort raises


async def _write(answers: Any, context: Any) -> None:  # noqa: ANN401  # as above
    """Write the answers of a method that streams, whichever of gRPC's two forms it has."""
    if not inspect.isasyncgen(answers):
        await answers
        return
    async for answer in answers:
        await context.write(answer)
