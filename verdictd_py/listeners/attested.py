"""Attestation listener: TCP and RATS-TLS around a conversation with each guest."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from OpenSSL import SSL

from verdictd_py.broker.connected import ConnectedGuest, ConnectedGuests
from verdictd_py.broker.release import Releaser
from verdictd_py.config import Address
from verdictd_py.domain.events import (
    ConnectionClosed,
    ConnectionFailed,
    ConnectionRefused,
    ConnectionTimeout,
)
from verdictd_py.domain.evidence import Evidence
from verdictd_py.errors import EvidenceMissing, GuestRefused, NotAppraised, VerdictdError
from verdictd_py.listeners import sockets
from verdictd_py.listeners.accepting import accept
from verdictd_py.listeners.errors import report_bug
from verdictd_py.listeners.limits import Limits
from verdictd_py.listeners.listener import Background
from verdictd_py.listeners.responder import Responder
from verdictd_py.listeners.sockets import peer_text
from verdictd_py.ports import Events, Tees
from verdictd_py.protocols.eaa import answers
from verdictd_py.protocols.eaa.answers import FailureForm
from verdictd_py.protocols.ratstls import certificate
from verdictd_py.protocols.ratstls.session import TlsClosed, TlsSession

_READ_BYTES: Final = 65_536
_LINGER_SECONDS: Final = 1.0
"""Time for a refused peer to read the reason, before its connection is closed."""


class AttestedListener:
    """Listener that serves guests over RATS-TLS (see `Listener`).

    Args:
        address: address of the listener.
        guests: appraises every peer before the first byte of plaintext is read, and again later.
        tees: the known TEEs.
        releaser: answers accepted guests.
        context: returns the TLS settings for a connection; called for each one, so that a
            renewed identity needs no restart.
    """

    def __init__(
        self,
        address: Address,
        *,
        guests: ConnectedGuests,
        tees: Tees,
        releaser: Releaser,
        context: Callable[[], SSL.Context],
        events: Events,
        limits: Limits,
    ) -> None:
        self._guests = guests
        self._tees = tees
        self._releaser = releaser
        self._context = context
        self._events = events
        self._limits = limits
        self.name = "listen"
        self.address = address
        self._listening: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._draining = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle: set[asyncio.Task[None]] = set()

    @property
    def endpoint(self) -> str:
        return str(self.address)

    def bind(self) -> None:
        self._listening = sockets.bind(self.address, option="--listen")
        host, port = self._listening.getsockname()[:2]
        self.address = Address(host, port)

    async def start(self, background: Background) -> None:
        if self._listening is not None:
            run = partial(accept, self._listening, self._take, self._events)
            self._accepting = background("listen.accept", run, essential=True)

    async def stop(self, seconds: float) -> None:
        self._draining = True
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
        if self._listening is not None:
            self._listening.close()
        for task in tuple(self._idle):
            task.cancel()
        if self._tasks:
            _, late = await asyncio.wait(tuple(self._tasks), timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _take(self, accepted: socket.socket, name: object) -> None:
        address = peer_text(name)
        if self._draining or len(self._tasks) >= self._limits.connections:
            accepted.close()
            self._events.record(ConnectionRefused(peer=address, reason="too many connections"))
            return
        task = asyncio.ensure_future(self._open(accepted, address))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open(self, accepted: socket.socket, address: str) -> None:
        try:
            reader, writer = await asyncio.open_connection(sock=accepted, limit=_READ_BYTES)
        except Exception as error:  # noqa: BLE001  # other guests must still be served
            accepted.close()
            report_bug(self._events, error, doing="accept a connection")
            return
        await self._serve(reader, writer, address)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str
    ) -> None:
        try:
            link = _Link(reader, writer, TlsSession(self._context(), server=True))
        except Exception as error:  # noqa: BLE001  # as below
            report_bug(self._events, error, doing="serve a guest")
            writer.transport.abort()
            return
        try:
            await self._converse(link, address)
        except TlsClosed:
            self._events.record(ConnectionClosed(peer=address))
        except TimeoutError:
            self._events.record(ConnectionTimeout(peer=address, reason="the peer was too slow"))
        except (VerdictdError, OSError) as error:
            reason = str(error) if isinstance(error, VerdictdError) else "network failure"
            self._events.record(ConnectionFailed(peer=address, reason=reason))
        except Exception as error:  # noqa: BLE001  # other guests must still be served
            report_bug(self._events, error, doing="serve a guest")
        finally:
            link.drop()

    async def _converse(self, link: _Link, address: str) -> None:
        async with asyncio.timeout(self._limits.handshake):
            await link.handshake()
        guest = await self._admit(link, address)
        if guest is None:
            return
        with guest:
            link.detect_dead_peer()  # there is no limit for a silent guest
            await self._answer(link, guest)

    async def _answer(self, link: _Link, guest: ConnectedGuest) -> None:
        """Answer the requests of an accepted guest until its connection ends."""
        responder = Responder(guest, self._releaser, self._events)
        # A request that has begun is in flight, however many records its rest takes.
        while not self._draining or responder.began is not None:
            plaintext = await self._next(link, responder)
            async for answer in responder.feed(plaintext):
                async with asyncio.timeout(self._limits.idle):
                    await link.send(answer.data)
                if answer.close:
                    await link.goodbye()
                    return
        await link.goodbye()

    async def _next(self, link: _Link, responder: Responder) -> bytes:
        """Receive plaintext, within its time limit if a request has begun.

        A guest may be silent for any time: real guests connect once and never again.
        """
        began = responder.began
        if began is not None:
            async with asyncio.timeout_at(began + self._limits.request):
                return await link.receive()
        task = _current_task()
        self._idle.add(task)
        try:
            return await link.receive()
        finally:
            self._idle.discard(task)

    async def _admit(self, link: _Link, address: str) -> ConnectedGuest | None:
        """Appraise the peer; return None if it was refused, after sending its code and id."""
        der = link.session.peer_certificate()
        read = partial(_read_certificate, der, self._tees, self._limits.evidence_age)
        try:
            return await self._guests.admit(
                read, address=address, disconnect=_current_task().cancel
            )
        except NotAppraised as error:
            text = error.text_for_guest
        except GuestRefused as error:
            text = str(error)
        # The verdict is recorded already; a peer that disconnects early needs no second event.
        with suppress(OSError):  # including TimeoutError
            async with asyncio.timeout(_LINGER_SECONDS):
                await link.send(answers.failure(FailureForm.A, text))
            await link.goodbye()
        return None


def _current_task() -> asyncio.Task[None]:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  # always true inside a coroutine
    return task


def _read_certificate(
    der: bytes | None, tees: Tees, max_age: timedelta | None, now: datetime
) -> Evidence:
    if der is None:
        raise EvidenceMissing("the peer sent no certificate")
    return certificate.read(der, tees, now=now, max_age=max_age)


class _Link:
    """TLS session over a socket."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, session: TlsSession
    ) -> None:
        self._reader = reader
        self._writer = writer
        # So a drained write is in the kernel's buffer, and a peer that does not read
        # occupies memory for one answer only.
        writer.transport.set_write_buffer_limits(0)
        self.session = session
        self._ended = False

    def detect_dead_peer(self) -> None:
        """Have the kernel close the connection if the peer vanishes."""
        connection: socket.socket = self._writer.get_extra_info("socket")
        sockets.detect_dead_peer(connection)

    async def handshake(self) -> None:
        """Complete the handshake; before it raises an error, it sends the TLS alert."""
        try:
            while not self.session.handshake():
                await self._flush()
                self.session.receive(await self._reader.read(_READ_BYTES))
        finally:
            await self._flush()

    async def receive(self) -> bytes:
        """Receive at least one byte of plaintext."""
        while not (plaintext := self.session.read()):
            await self._flush()
            self.session.receive(await self._reader.read(_READ_BYTES))
        return plaintext

    async def send(self, plaintext: bytes) -> None:
        """Send `plaintext` as one TLS write."""
        self.session.write(plaintext)
        await self._flush()

    async def goodbye(self) -> None:
        """Close the sending side, then wait for the peer to close its own, with a time limit.

        Closing a socket with unread bytes resets the connection, and the peer could lose an
        answer that it has not read yet.
        """
        try:
            async with asyncio.timeout(_LINGER_SECONDS):
                self.session.close()
                await self._flush()
                self._ended = True  # even if the next line fails: nothing is written after it
                self._writer.write_eof()
                while await self._reader.read(_READ_BYTES):
                    pass
        except TimeoutError:
            return

    def drop(self) -> None:
        """Close the connection now; send close_notify if that does not block."""
        if not self._ended:
            self.session.close()
            self._writer.write(self.session.outgoing())
        if self._writer.transport.get_write_buffer_size():
            self._writer.transport.abort()
        else:
            self._writer.close()

    async def _flush(self) -> None:
        data = self.session.outgoing()
        if data:
            self._writer.write(data)
            await self._writer.drain()
