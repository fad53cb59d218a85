"""Channel between two processes of one broker: calls and notifications in JSON over a socket.

Each message is its length in four bytes (big-endian), then a JSON object in UTF-8:

* `{"id": 7, "name": "ping", "body": ...}`: a call, which is answered;
* `{"name": "changed", "body": ...}`: a notification, which is not;
* `{"id": 7, "answer": ...}`, or for a failure `{"id": 7, "code": "not-found", "text": "..."}`: the
  answer to a call.

The handlers of messages begin in the order in which the messages were sent, and run until their
first `await` before the next one begins.

A process closes the channel if its peer breaks these rules, or reads nothing for too long.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final, Self

from verdictd_py.encoding import JsonValue
from verdictd_py.errors import (
    AlreadyExists,
    CollateralUnavailable,
    ConfigError,
    Conflict,
    NotAuthorized,
    NotFound,
    Overloaded,
    PolicyInvalid,
    RequestError,
    StorageError,
    VerdictdError,
)
from verdictd_py.listeners.errors import report_bug
from verdictd_py.offload import offload
from verdictd_py.ports import Events

MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
"""Maximum size of a message. Callers divide longer lists into pages."""

MAX_QUEUED_BYTES: Final = 16 * 1024 * 1024
"""Maximum size of the messages that the peer has not read; beyond it, the channel is closed."""

MAX_RUNNING: Final = 1024
"""Maximum number of calls of the peer at once; a further one is answered with `Overloaded`."""

CALL_SECONDS: Final = 10.0
"""Default time limit of a call."""

_LENGTH_BYTES: Final = 4

_ERRORS: Final[dict[str, type[VerdictdError]]] = {
    kind.code: kind
    for kind in (
        AlreadyExists,
        CollateralUnavailable,
        ConfigError,
        Conflict,
        NotAuthorized,
        NotFound,
        Overloaded,
        PolicyInvalid,
        RequestError,
        StorageError,
    )
}
"""Errors of a handler that its caller gets with the same type; any other one is `ChannelFailed`."""

_FAILED: Final = "failed"
"""Code of every other failure."""

Handler = Callable[[JsonValue], Awaitable[JsonValue]]
"""Handles the body of a message; returns the body of the answer, which a notification ignores."""


class ChannelFailed(Overloaded):
    """The other process has ended, does not answer in time, or has failed; try again later."""


class Channel:
    """One end of a channel, with its handlers by name.

    Use `open`. Handlers may be added at any time; a message without a handler is answered with
    `ChannelFailed`.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, events: Events
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._events = events
        self._handlers: dict[str, Handler] = {}
        self._calls: dict[int, asyncio.Future[JsonValue]] = {}
        self._last_id = 0
        self._running: set[asyncio.Task[None]] = set()
        self._receiving = asyncio.create_task(self._receive(), name="channel")

    @classmethod
    async def open(cls, connected: socket.socket, events: Events) -> Self:
        """Use one end of a pair of unix stream sockets; the channel owns it from now on.

        Args:
            events: records internal errors of handlers.
        """
        connected.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=connected)
        return cls(reader, writer, events)

    @property
    def is_closed(self) -> bool:
        """Whether no message can be sent or received any more."""
        return self._receiving.done() or self._writer.is_closing()

    def handle(self, name: str, handler: Handler) -> None:
        """Have `handler` called for each message of this name.

        A `VerdictdError` that it raises is the answer. Any other exception is recorded as an
        internal error, and the caller gets `ChannelFailed` with the id of the incident.
        """
        self._handlers[name] = handler

    async def call(
        self, name: str, body: JsonValue = None, *, seconds: float = CALL_SECONDS
    ) -> JsonValue:
        """Call the handler of this name in the other process, and return its answer.

        Raises:
            ChannelFailed: there is no answer: the other process has ended, is too slow, or
                has failed; or the message is too large.
            VerdictdError: raised by the handler (see `_ERRORS`).
        """
        self._last_id += 1
        number = self._last_id
        message = _encode({"id": number, "name": name, "body": body})
        answer: asyncio.Future[JsonValue] = asyncio.get_running_loop().create_future()
        self._calls[number] = answer
        try:
            async with asyncio.timeout(seconds):
                self._send(message)
                return await answer
        except TimeoutError:
            raise ChannelFailed(
                f"another process of the broker does not answer within {seconds:.0f} s; "
                "try again in a minute"
            ) from None
        finally:
            del self._calls[number]

    def notify(self, name: str, body: JsonValue = None) -> None:
        """Have the handler of this name called; nothing happens if the channel is closed.

        Raises:
            ChannelFailed: the message is too large.
        """
        message = _encode({"name": name, "body": body})
        with suppress(ChannelFailed):
            self._send(message)

    async def wait_closed(self) -> None:
        """Wait until the channel is closed, by either process."""
        await asyncio.wait([self._receiving])

    def close(self) -> None:
        """Close the channel. Calls that wait fail, and handlers that run are cancelled."""
        self._receiving.cancel()
        self._end()

    def _send(self, message: bytes) -> None:
        if self.is_closed:
            raise _ended()
        transport = self._writer.transport
        self._writer.write(message)
        if transport.get_write_buffer_size() > MAX_QUEUED_BYTES:
            transport.abort()
            raise _ended()

    async def _receive(self) -> None:
        try:
            while True:
                size = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES))
                if size > MAX_MESSAGE_BYTES:
                    return
                data = await self._reader.readexactly(size)
                message = await offload(size, partial(json.loads, data))
                if not isinstance(message, dict):
                    return
                self._take(message)
        except (OSError, EOFError, ValueError, KeyError, TypeError):
            return  # the peer has ended, or sends no messages
        finally:
            self._end()

    def _end(self) -> None:
        self._writer.transport.abort()
        for answer in self._calls.values():
            if not answer.done():
                answer.set_exception(_ended())
        for task in tuple(self._running):
            task.cancel()

    def _take(self, message: dict[str, JsonValue]) -> None:
        """Handle one message.

        Raises:
            KeyError, TypeError: it has another form.
        """
        number, name = message.get("id"), message.get("name")
        if isinstance(name, str):
            self._begin(number, name, message["body"])
            return
        if not isinstance(number, int):
            raise TypeError("neither a call nor an answer")
        answer = self._calls.get(number)
        if answer is None or answer.done():  # its caller has given up
            return
        if "answer" in message:
            answer.set_result(message["answer"])
        else:
            kind = _ERRORS.get(str(message["code"]), ChannelFailed)
            answer.set_exception(kind(str(message["text"])))

    def _begin(self, number: JsonValue, name: str, body: JsonValue) -> None:
        if number is not None and len(self._running) >= MAX_RUNNING:
            busy = Overloaded("another process of the broker has too many calls; try again later")
            self._answer({"id": number, "code": busy.code, "text": str(busy)})
            return
        task = asyncio.create_task(self._handle(number, name, body), name=f"channel: {name}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _handle(self, number: JsonValue, name: str, body: JsonValue) -> None:
        answer: dict[str, JsonValue]
        try:
            handler = self._handlers.get(name)
            if handler is None:
                raise ChannelFailed(f"another process of the broker does not know {name}")
            answer = {"answer": await handler(body)}
        except VerdictdError as error:
            answer = {"code": _code(error), "text": str(error)}
        except Exception as error:  # noqa: BLE001  # recorded; other messages must be handled
            text = report_bug(self._events, error, doing=f"handle {name}")
            answer = {"code": _FAILED, "text": text}
        if number is not None:
            self._answer({"id": number, **answer})

    def _answer(self, answer: dict[str, JsonValue]) -> None:
        try:
            message = _encode(answer)
        except ChannelFailed as error:
            message = _encode({"id": answer["id"], "code": _FAILED, "text": str(error)})
        with suppress(ChannelFailed):  # its caller has given up
            self._send(message)


def _code(error: VerdictdError) -> str:
    """Return the code of the nearest class of an error that the channel transports."""
    codes: dict[type, str] = {kind: code for code, kind in _ERRORS.items()}
    codes[ChannelFailed] = _FAILED
    return next((codes[kind] for kind in type(error).__mro__ if kind in codes), _FAILED)


def _ended() -> ChannelFailed:
    return ChannelFailed("another process of the broker has ended; try again")


def _encode(message: dict[str, JsonValue]) -> bytes:
    data = json.dumps(message, separators=(",", ":")).encode()
    if len(data) > MAX_MESSAGE_BYTES:
        raise ChannelFailed(
            f"a message between processes of the broker has {len(data)} bytes, at most "
            f"{MAX_MESSAGE_BYTES} are possible"
        )
    return len(data).to_bytes(_LENGTH_BYTES) + data
