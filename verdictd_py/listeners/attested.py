"""Attestation listener: TCP and RATS-TLS around a conversation with each guest."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from OpenSSL import SSL

from verdictd_py.broker.connected import ConnectedGuest, ConnectedGuests, PeerConnection
from verdictd_py.broker.release import Releaser
from verdictd_py.config import Address
from verdictd_py.domain.events import (
    ConnectionClosed,
    ConnectionFailed,
    ConnectionProbed,
    ConnectionRefused,
    ConnectionTimeout,
)
from verdictd_py.domain.evidence import Evidence
from verdictd_py.errors import (
    EvidenceMissing,
    GuestRefused,
    NotAppraised,
    Overloaded,
    VerdictdError,
)
from verdictd_py.listeners import failures, sockets
from verdictd_py.listeners.accepting import OPENING_SECONDS, accept
from verdictd_py.listeners.census import ListenerCensus
from verdictd_py.listeners.errors import report_bug
from verdictd_py.listeners.limits import Limits
from verdictd_py.listeners.link import LINGER_SECONDS, Link
from verdictd_py.listeners.listener import Background
from verdictd_py.listeners.proxies import Origin, Proxies
from verdictd_py.listeners.responder import Answer, Responder
from verdictd_py.listeners.shares import Share, Shares
from verdictd_py.listeners.wire import Wire
from verdictd_py.ports import Events, Tees
from verdictd_py.protocols.eaa.refusal import Refusal
from verdictd_py.protocols.ratstls import certificate
from verdictd_py.protocols.ratstls.session import TlsClosed, TlsFailed, TlsSession
from verdictd_py.stages import Meter, Stage, begin, ended, measured

_ANSWERS_AT_ONCE: Final = 32
"""Maximum number of answers that are made at once. An answer has up to some MiB, and its size is
known only when it exists; then it counts among the bytes that are held."""

_OVERLOADED: Final = "not served: overloaded; try again later"


class AttestedListener:
    """Listener that serves guests over RATS-TLS (see `Listener`).

    Args:
        address: address of the listener.
        guests: appraises every peer before the first byte of plaintext is read, and again later.
        tees: the known TEEs.
        releaser: answers accepted guests.
        context: returns the TLS settings for a connection; called for each one, so that a
            renewed identity needs no restart.
        proxies: proxies that send the address of their client.
        passed: listening socket of the service manager, used instead of the address.
        census: counters of all workers, None if there is one process.
        meter: measures connections; None if nothing is measured.

    Attributes:
        shares: the connections by source.
    """

    def __init__(  # noqa: PLR0913  # each is another subject
        self,
        address: Address,
        *,
        guests: ConnectedGuests,
        tees: Tees,
        releaser: Releaser,
        context: Callable[[], SSL.Context],
        events: Events,
        limits: Limits,
        proxies: Proxies,
        passed: socket.socket | None = None,
        census: ListenerCensus | None = None,
        meter: Meter | None = None,
    ) -> None:
        self._meter = meter
        self._passed = passed
        self._guests = guests
        self._tees = tees
        self._releaser = releaser
        self._context = context
        self._events = events
        self._limits = limits
        self._proxies = proxies
        self.shares = Shares(lambda: limits.shares, census=census)
        self._answering = asyncio.Semaphore(_ANSWERS_AT_ONCE)
        self.name = "listen"
        self.address = address
        self._listening: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._draining = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle: set[asyncio.Task[None]] = set()
        self._handshakes: set[asyncio.Future[None]] = set()

    @property
    def endpoint(self) -> str:
        return str(self.address)

    def bind(self) -> None:
        self._listening = self._passed or sockets.bind(self.address, option="--listen")
        host, port = self._listening.getsockname()[:2]
        self.address = Address(host, port)

    async def start(self, background: Background) -> None:
        if self._listening is not None:
            run = partial(accept, self._listening, self._take, self._events)
            self._accepting = background("listen.accept", run, essential=True)

    async def stop(self, seconds: float) -> None:
        end = asyncio.get_running_loop().time() + seconds
        self._draining = True
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
        if self._listening is not None:
            self._listening.close()
        if self._handshakes:
            limit = min(seconds, OPENING_SECONDS)
            await asyncio.wait(tuple(self._handshakes), timeout=limit)
        for task in tuple(self._idle):
            task.cancel()
        if self._tasks:
            left = max(0, end - asyncio.get_running_loop().time())
            _, late = await asyncio.wait(tuple(self._tasks), timeout=left)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _take(self, accepted: socket.socket, name: object) -> None:
        peer = self._proxies.peer(name)
        begin(self.name, self._meter)

        def close() -> None:
            task.cancel()  # it has begun before the next connection is accepted

        try:
            share = self.shares.enter(peer.source, close)
        except Overloaded as error:
            accepted.close()
            self._refuse_connection(peer.text, str(error), error.limit)
            return
        task = asyncio.ensure_future(self._serve(accepted, peer, share))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, accepted: socket.socket, peer: Origin, share: Share) -> None:
        opening = _Opening(Wire(accepted), peer, share)
        try:
            async with asyncio.timeout(self._limits.handshake):
                with self._handshaking(), self._idling():
                    link = await self._open(opening)
            await self._converse(link, opening.origin.text, share)
        except TlsClosed:
            kind = ConnectionProbed if opening.silent else ConnectionClosed
            self._events.record(kind(peer=opening.origin.text))
        except TimeoutError:
            self._events.record(
                ConnectionTimeout(peer=opening.origin.text, reason="the peer was too slow")
            )
        except (VerdictdError, OSError) as error:
            if opening.silent and isinstance(error, OSError):  # probes reset the connection too
                self._events.record(ConnectionProbed(peer=opening.origin.text))
                return
            self._events.record(
                ConnectionFailed(peer=opening.origin.text, reason=failures.reason_of(error))
            )
        except Exception as error:  # noqa: BLE001  # other guests must still be served
            report_bug(self._events, error, doing="serve a guest")
        finally:
            opening.close()
            if share.evicted:
                self._refuse_connection(opening.origin.text, share.evicted, share.limit)
            ended()
            share.leave()

    def _refuse_connection(self, peer: str, reason: str, limit: str) -> None:
        self._events.record(ConnectionRefused(peer=peer, reason=reason, limit=limit))

    async def _open(self, opening: _Opening) -> Link:
        """Identify the peer, and complete the handshake. No TLS state exists before its bytes."""
        if self._proxies.sends_header(opening.origin):
            opening.origin = await self._proxies.identify(opening.wire.socket, opening.origin)
            first = await opening.wire.read()
        else:
            arrived = opening.wire.arrived()  # usually, a client sends its hello at once
            first = await opening.wire.read() if arrived is None else arrived
            self._proxies.require_no_header(first)
        opening.silent = not first
        opening.share.move(opening.origin.source)
        session = TlsSession(self._context(), server=True)
        opening.link = Link(opening.wire, session, opening.share)
        with measured(Stage.HANDSHAKE):
            await opening.link.handshake(first)
        return opening.link

    async def _converse(self, link: Link, address: str, share: Share) -> None:
        guest = await self._admit(link, address, share)
        certificate_bytes = share.held.size
        share.held.set(0)
        if guest is None:
            return
        with guest:
            if guest.is_pending:
                # An attacker may have any number of quotes that cannot be judged now. Until it is
                # accepted, the guest has no protection, and its evidence counts as held.
                share.move(share.source)
                share.held.set(certificate_bytes)
            link.detect_dead_peer()  # there is no limit for a silent guest
            try:
                await self._answer(link, guest, share)
            except GuestRefused as error:
                await self._refuse(link, share, str(error), seconds=0)

    async def _answer(self, link: Link, guest: ConnectedGuest, share: Share) -> None:
        """Answer the requests of a guest until its connection ends.

        Raises:
            GuestRefused: the guest, which was pending, is refused, and waits for no answer.
        """
        responder = Responder(guest, self._releaser, self._events, self._answering)
        evidence_bytes = share.held.size
        # A drain waits for the first request of an accepted guest, and for every request that has
        # begun, however many records its rest takes.
        served = guest.is_pending
        while not self._draining or not served or responder.began is not None:
            plaintext = await self._next(link, responder, guest, served=served)
            share.held.add(len(plaintext))
            responder.receive(plaintext)
            while (answer := await self._reply(responder, share)) is not None:
                served = True
                with measured(Stage.ANSWER):
                    await link.send(answer.data, self._limits.idle)
                ended()
                if answer.close:
                    with suppress(OSError):  # the end of the connection is recorded already
                        await link.goodbye()
                    return
            share.held.set(responder.held + (evidence_bytes if guest.is_pending else 0))
        await link.goodbye()

    async def _reply(self, responder: Responder, share: Share) -> Answer | None:
        """Return the next answer, None after the last.

        It waits while guests hold too much, within the time limit of the request. So no answer is
        made meanwhile, and no more of an incomplete request is received.
        """
        if not share.held.fits():
            now = asyncio.get_running_loop().time()
            began = now if responder.began is None else responder.began
            async with asyncio.timeout_at(began + self._limits.request):
                await share.held.room()
        return await responder.next_answer()

    async def _next(
        self, link: Link, responder: Responder, guest: ConnectedGuest, *, served: bool
    ) -> bytes:
        """Receive plaintext, within its time limit if a request has begun.

        A guest may be silent for any time: real guests connect once and never again.

        Raises:
            GuestRefused: the guest, which was pending, is refused.
        """
        began = responder.began
        if began is not None:
            async with asyncio.timeout_at(began + self._limits.request):
                return await link.receive()
        task = _current_task()
        if served:
            self._idle.add(task)  # as `_idling`, for each request
        try:
            if guest.is_pending:
                return await _receive_unless_refused(link, guest)
            return await link.receive()
        finally:
            self._idle.discard(task)

    @contextmanager
    def _handshaking(self) -> Iterator[None]:
        """Let a drain wait for a moment until this task has completed its handshake."""
        completed = asyncio.get_running_loop().create_future()
        self._handshakes.add(completed)
        try:
            yield
        finally:
            self._handshakes.discard(completed)
            completed.set_result(None)

    @contextmanager
    def _idling(self) -> Iterator[None]:
        """Let a drain close this task's connection at once: no answer is due to its peer."""
        task = _current_task()
        self._idle.add(task)
        try:
            yield
        finally:
            self._idle.discard(task)

    async def _admit(self, link: Link, address: str, share: Share) -> ConnectedGuest | None:
        """Appraise the peer; return None if it is not served, after sending the reason."""
        share.prove()
        der = link.session.peer_certificate()
        read = partial(_read_certificate, der, self._tees, self._limits.evidence_age)
        try:
            connection = PeerConnection(address, share.attest, _current_task().cancel)
            return await self._guests.admit(read, connection)
        except Overloaded as error:
            self._refuse_connection(address, str(error), error.limit)
            text = _OVERLOADED
        except NotAppraised as error:
            text = error.text_for_guest
        except GuestRefused as error:
            text = str(error)
        await self._refuse(link, share, text)
        return None

    async def _refuse(
        self, link: Link, share: Share, text: str, *, seconds: float | None = None
    ) -> None:
        """Answer with the reason, which is recorded already, even if the peer disconnects early.

        A peer that sends no request receives it too. Meanwhile its connection may be closed for
        another one: a client that is refused has proven nothing.

        Args:
            seconds: time for the peer to send a request; None for the time of a handshake.
        """
        if self._draining or seconds is None:
            seconds = 0 if self._draining else self._limits.handshake
        refusal = Refusal(text)
        with suppress(OSError, TlsClosed, TlsFailed, Overloaded):
            share.move(share.source)
            with suppress(TimeoutError), self._idling():
                async with asyncio.timeout(seconds):
                    await _answer_refused(link, share, refusal)
            if not refusal.complete:
                async with asyncio.timeout(LINGER_SECONDS):
                    await link.send(refusal.unrequested())
            await link.goodbye()


async def _answer_refused(link: Link, share: Share, refusal: Refusal) -> None:
    while not refusal.complete:
        await share.held.room()
        for answer in refusal.answers(await link.receive()):
            await link.send(answer)
        share.held.set(refusal.held)


def _current_task() -> asyncio.Task[None]:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  # always true inside a coroutine
    return task


async def _receive_unless_refused(link: Link, guest: ConnectedGuest) -> bytes:
    """Receive at least one byte of plaintext of a pending guest.

    Raises:
        GuestRefused: the guest was refused before it sent anything.
    """
    receiving = asyncio.ensure_future(link.receive())
    try:
        while not receiving.done():
            refused = asyncio.ensure_future(guest.wait_for_refusal())
            try:
                await asyncio.wait((receiving, refused), return_when=asyncio.FIRST_COMPLETED)
            finally:
                refused.cancel()
                await asyncio.gather(refused, return_exceptions=True)
            if not receiving.done():
                with suppress(NotAppraised):  # still pending
                    await guest.require_accepted()
        return receiving.result()
    finally:
        receiving.cancel()
        await asyncio.gather(receiving, return_exceptions=True)


def _read_certificate(
    der: bytes | None, tees: Tees, max_age: timedelta | None, now: datetime
) -> Evidence:
    if der is None:
        raise EvidenceMissing("the peer sent no certificate")
    return certificate.read(der, tees, now=now, max_age=max_age)


@dataclass(slots=True)
class _Opening:
    """A connection with what is known about it so far, whenever it is closed.

    Attributes:
        silent: whether the peer has sent no byte yet, except for a proxy's header.
    """

    wire: Wire
    origin: Origin
    share: Share
    link: Link | None = None
    silent: bool = True

    def close(self) -> None:
        if self.link is None:
            self.wire.close()
        else:
            self.link.drop()
