"""Admission of gRPC calls: rights and shares of the caller, before the message is read."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

import grpc

from verdictd_py.domain.callers import ROLES, Caller, Right
from verdictd_py.errors import Overloaded
from verdictd_py.listeners.callers import CallContext, CallerRules
from verdictd_py.listeners.deadlines import Deadlines
from verdictd_py.listeners.errors import abort
from verdictd_py.offload import SMALL_BYTES
from verdictd_py.ports import Events
from verdictd_py.stages import ended

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

LARGE_MESSAGES_OF_USERS: Final = 1
"""Maximum number of messages over `SMALL_BYTES` that are answered at once for all such callers
together. Threads decode them, and the event loop then waits for the interpreter lock."""

MESSAGE_SECONDS: Final = 30.0
"""Time limit for receiving the message of a call."""

STREAM_SECONDS: Final = 600.0
"""Time limit of a call that streams, such as `Health/Watch`; clients then open another."""

_NO_RIGHTS: Final = "callers without rights"
_ADMINISTRATOR: Final = ROLES["admin"]
_UNKNOWN: Final = Caller("not known yet", frozenset())
_NO_TURN: Final[AbstractAsyncContextManager[object]] = nullcontext()

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
        self._large = asyncio.Semaphore(LARGE_MESSAGES_OF_USERS)

    def answering(self, counted: str, message: object) -> AbstractAsyncContextManager[object]:
        """Return what a call must hold while its message is answered.

        Args:
            counted: name that the call is counted under.
            message: bytes of the message.
        """
        large = isinstance(message, bytes) and len(message) > SMALL_BYTES
        return self._large if counted and large else _NO_TURN

    def enter(self, caller: Caller) -> tuple[str, AbstractAsyncContextManager[object]]:
        """Count a call.

        Returns:
            The name that the call is counted under, for `leave`, empty if it is not counted; and
            what the call must hold while its message is handled.

        Raises:
            Overloaded: this caller, or all together, have too many calls.
        """
        if caller.rights >= _ADMINISTRATOR:
            return "", _NO_TURN
        name = caller.name if caller.rights else _NO_RIGHTS
        if self._calls.get(name, 0) >= CALLS_OF_USER:
            raise Overloaded(
                f"{name} has {CALLS_OF_USER} calls already; wait until one ends", limit="caller"
            )
        if sum(self._calls.values()) >= CALLS_OF_USERS:
            raise Overloaded(
                f"there are {CALLS_OF_USERS} calls already; wait until one ends", limit="callers"
            )
        self._calls[name] = self._calls.get(name, 0) + 1
        turn = self._messages.get(name)
        if turn is None:
            turn = self._messages[name] = asyncio.Semaphore(MESSAGES_OF_USER)
        return name, turn

    def leave(self, name: str) -> None:
        """Count a call no longer."""
        if not name:
            return
        self._calls[name] -= 1
        if not self._calls[name]:
            del self._calls[name], self._messages[name]


class Admission:
    """Admission of the calls of a listener.

    gRPC receives the message of a call with one request before it runs the handler. Therefore
    such a handler is registered as one of a stream of requests, which is the same on the wire.

    1. The caller is identified. 2. Its right is checked, if the method names one. 3. Its number
    of calls is limited. 4. The message is received, within a time limit. 5. The method runs; a
    method that streams has a time limit.

    Args:
        events: where refused calls are recorded.
        begin_call: protects the connection of an admitted call until the function that it returns
            is called; it gets the name of the connection in gRPC.
        correlate: sets the correlation of a call to that of its connection, of the same name.
        called: counts a call that has ended, by the name of its status.

    Attributes:
        rules: how callers of this listener are identified.
    """

    def __init__(
        self,
        rules: CallerRules,
        events: Events,
        begin_call: Callable[[str], Callable[[], None]],
        correlate: Callable[[str], None],
        called: Callable[[str], None] = lambda code: None,  # noqa: ARG005  # unused
    ) -> None:
        self.rules = rules
        self._called = called
        self._begin_call = begin_call
        self._correlate = correlate
        self._events = events
        self._shares = Shares()
        self._arrivals = Deadlines(MESSAGE_SECONDS)
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

    def admit(self, name: str, handler: Any) -> Any:  # noqa: ANN401  # the stubs lack its attributes
        """Return the handler of a method that admits its callers.

        Args:
            name: name of the method in events.
            handler: handler of the method itself (`grpc.RpcMethodHandler`).
        """
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
        right = required(method)

        async def answer(requests: object, context: Any) -> object:  # noqa: ANN401
            del requests  # the context reads the same stream, in a third of the time
            call = None
            try:
                call = await self._admitted(name, right, context)
                async with call.turn:
                    if call.caller.rights:
                        message = await _message(context, self._arrivals)
                    else:
                        async with self._without_drain(context):
                            message = await _message(context, self._arrivals)
                    async with self._shares.answering(call.counted, message):
                        return await method(message, context)
            finally:
                self._end(call, name, context)

        return answer

    def _stream(self, name: str, method: Any, *, one_request: bool) -> Any:  # noqa: ANN401
        right = required(method)

        async def answer(requests: AsyncIterator[object], context: Any) -> None:  # noqa: ANN401
            call = None
            try:
                call = await self._admitted(name, right, context)
                async with self._without_drain(context):
                    async with asyncio.timeout(STREAM_SECONDS):
                        sent = await _message(context, self._arrivals) if one_request else requests
                        await _write(method(sent, context), context)
            except TimeoutError:
                text = f"a stream lasts at most {STREAM_SECONDS:.0f} seconds; open another"
                await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, text)
            finally:
                self._end(call, name, context)

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

    async def _admitted(self, name: str, right: Right | None, context: Any) -> _Call:  # noqa: ANN401  # as above
        """Admit a call, for which `_end` must be called; or abort it, which raises."""
        caller = _UNKNOWN
        try:
            self._correlate(context.peer())
            caller = await _identify(self.rules, context)
            _identified.set(caller)
            if right is not None:
                caller.require(right)
            counted, turn = self._shares.enter(caller)
        except Exception as error:  # noqa: BLE001  # recorded, and reported to the client
            await abort(context, self._events, error, doing=name, caller=caller.name)
        return _Call(caller, counted, turn, self._begin_call(context.peer()))

    def _end(self, call: _Call | None, name: str, context: Any) -> None:  # noqa: ANN401  # as above
        """End a call, which was admitted or not."""
        if call is not None:
            call.end_of_connection()
            self._shares.leave(call.counted)
        status = _status(context)
        self._called(status)
        ended(name, status)


STATUSES: Final[Mapping[int, str]] = {
    code.value[0]: code.name.lower().replace("_", "-") for code in grpc.StatusCode
}
"""Names of the statuses of gRPC, by number."""


class _Call(NamedTuple):
    """An admitted call.

    Attributes:
        counted: name that it is counted under (`Shares`).
        turn: what it must hold while its message is handled.
        end_of_connection: ends the protection of its connection.
    """

    caller: Caller
    counted: str
    turn: AbstractAsyncContextManager[object]
    end_of_connection: Callable[[], None]


def _status(context: Any) -> str:  # noqa: ANN401  # as above
    """Return the name of the status of a call that ends now."""
    code = context.code() or 0  # the number, or the value, or None for none yet
    number = code.value[0] if isinstance(code, grpc.StatusCode) else code
    error = sys.exception()
    if not number and error is not None:  # gRPC sets the status of an unexpected exception later
        return "cancelled" if isinstance(error, asyncio.CancelledError) else "unknown"
    return STATUSES.get(number, "unknown")


async def _message(context: Any, arrivals: Deadlines) -> object:  # noqa: ANN401
    """Receive the only message of a call, within the time limit.

    Args:
        arrivals: time limits for messages.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  # always true inside a coroutine
    late = False

    def expire() -> None:
        nonlocal late
        late = True
        task.cancel()

    arrivals.start(context, expire)
    try:
        message = await context.read()
    except asyncio.CancelledError:
        if not late or task.uncancel() > 0:  # the client has cancelled it
            raise
        text = f"the request did not arrive within {MESSAGE_SECONDS:.0f} seconds"
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, text)
    finally:
        arrivals.stop(context)
    if message is grpc.aio.EOF:  # type: ignore[attr-defined]  # the stubs lack it
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the call has no request")
    return message


async def _write(answers: Any, context: Any) -> None:  # noqa: ANN401  # as above
    """Write the answers of a method that streams, whichever of gRPC's two forms it has."""
    if not inspect.isasyncgen(answers):
        await answers
        return
    async for answer in answers:
        await context.write(answer)
