"""Answers to the requests of one attested guest, in their order, each with its events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from verdictd_py.broker.release import Releaser
from verdictd_py.broker.requests import GuestRequests
from verdictd_py.domain.appraisal import AppraisedPeer
from verdictd_py.domain.events import RequestAnswered, RequestFailed, RequestReceived
from verdictd_py.errors import NotAppraised, VerdictdError
from verdictd_py.ports import Events
from verdictd_py.protocols.eaa import answers
from verdictd_py.protocols.eaa.conversation import Conversation, Received


@dataclass(frozen=True, slots=True)
class Answer:
    """Plaintext to send as one TLS write, and whether the connection ends after it."""

    data: bytes = field(repr=False)
    close: bool = False


class Responder:
    """Turns plaintext of an appraised peer into answers.

    Attributes:
        began: when the incomplete request began, by the clock of the event loop; None if there
            is none.
    """

    def __init__(self, peer: AppraisedPeer, releaser: Releaser, events: Events) -> None:
        self._address = peer.address
        self._requests = GuestRequests(peer, releaser)
        self._events = events
        self._conversation = Conversation()
        self.began: float | None = None

    async def feed(self, plaintext: bytes) -> AsyncIterator[Answer]:
        """Yield an answer to each request that `plaintext` completes, before the next is read."""
        self._conversation.receive(plaintext)
        while (received := self._conversation.next_request()) is not None:
            self.began = None
            yield Answer(await self._answer(received), close=received.closes)
        if not self._conversation.pending:
            self.began = None
        elif self.began is None:
            self.began = asyncio.get_running_loop().time()

    async def _answer(self, received: Received) -> bytes:
        command, request = received.command or "", received.request
        if received.command is not None:
            self._events.record(RequestReceived(peer=self._address, command=command))
        try:
            if isinstance(request, VerdictdError):
                raise request
            data = answers.encode(await self._requests.fulfil(request))
        except VerdictdError as error:
            self._events.record(
                RequestFailed(
                    peer=self._address, command=command, code=error.code, reason=str(error)
                )
            )
            text = error.text_for_guest if isinstance(error, NotAppraised) else str(error)
            return received.failure(text)
        self._events.record(
            RequestAnswered(peer=self._address, command=command, answer_bytes=len(data))
        )
        return data
