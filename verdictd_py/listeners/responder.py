"""Answers to the requests of one attested guest, in their order, each with its events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from verdictd_py.broker.connected import ConnectedGuest
from verdictd_py.broker.release import Releaser
from verdictd_py.broker.requests import GuestRequests
from verdictd_py.domain.events import RequestAnswered, RequestFailed, RequestReceived
from verdictd_py.errors import GuestRefused, NotAppraised, VerdictdError
from verdictd_py.offload import offload
from verdictd_py.ports import Events
from verdictd_py.protocols.eaa import answers
from verdictd_py.protocols.eaa.conversation import Conversation, Received


@dataclass(frozen=True, slots=True)
class Answer:
    """Plaintext to send as one TLS write, and whether the connection ends after it."""

    data: bytes = field(repr=False)
    close: bool = False


class Responder:
    """Turns plaintext of an accepted guest into answers.

    Before each request, the guest must be accepted still. A refused guest receives a failure, and
    its connection ends. A guest that cannot be appraised now receives a failure and stays
    connected, because real guests connect only once.

    Attributes:
        began: when the incomplete request began, by the clock of the event loop; None if there
            is none.
    """

    def __init__(self, guest: ConnectedGuest, releaser: Releaser, events: Events) -> None:
        self._guest = guest
        self._address = guest.address
        self._requests = GuestRequests(releaser)
        self._events = events
        self._conversation = Conversation()
        self.began: float | None = None

    @property
    def held(self) -> int:
        """Number of bytes that are stored for the guest between its requests."""
        return self._conversation.pending_bytes + self._requests.held

    async def feed(self, plaintext: bytes) -> AsyncIterator[Answer]:
        """Yield an answer to each request that `plaintext` completes, before the next is read.

        Other guests are served before each record and after each answer: a guest can send
        thousands of small records and requests at once.
        """
        await asyncio.sleep(0)
        self._conversation.receive(plaintext)
        while (received := await self._next_request()) is not None:
            self.began = None
            answer = await self._answer(received)
            yield answer
            if answer.close:
                return
            await asyncio.sleep(0)
        if not self._conversation.pending:
            self.began = None
        elif self.began is None:
            self.began = asyncio.get_running_loop().time()

    async def _next_request(self) -> Received | None:
        return await offload(self._conversation.pending_bytes, self._conversation.next_request)

    async def _answer(self, received: Received) -> Answer:
        command, request = received.command or "", received.request
        if received.command is not None:
            self._events.record(RequestReceived(peer=self._address, command=command))
        try:
            peer = await self._guest.require_accepted()
            if isinstance(request, VerdictdError):
                raise request
            data = answers.encode(await self._requests.fulfil(peer, request))
        except VerdictdError as error:
            self._events.record(
                RequestFailed(
                    peer=self._address, command=command, code=error.code, reason=str(error)
                )
            )
            text = error.text_for_guest if isinstance(error, NotAppraised) else str(error)
            close = received.closes or isinstance(error, GuestRefused)
            return Answer(received.failure(text), close=close)
        self._events.record(
            RequestAnswered(peer=self._address, command=command, answer_bytes=len(data))
        )
        return Answer(data, close=received.closes)
