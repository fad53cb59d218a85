"""Answers to the requests of one attested guest, in their order, each with its events."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

from verdictd_py.broker.connected import ConnectedGuest
from verdictd_py.broker.release import Releaser
from verdictd_py.broker.requests import GuestRequests
from verdictd_py.domain.events import (
    ConnectionClosed,
    RequestAnswered,
    RequestFailed,
    RequestReceived,
)
from verdictd_py.errors import GuestRefused, NotAppraised, PolicyUnavailable, VerdictdError
from verdictd_py.offload import offload
from verdictd_py.ports import Events
from verdictd_py.protocols.eaa import answers
from verdictd_py.protocols.eaa.conversation import Conversation, Received
from verdictd_py.protocols.eaa.messages import Request, Version

_ATTEMPTS: Final = 20
"""Maximum number of decisions about one request, while policies or collateral change. A decision
is repeated only if a change overlaps with it. Applying a directory of policies makes a dozen
changes in a row, and a guest must not fail because of them: it may never ask again."""

_AFTER_ECHO: Final = "the broker closes a connection after the answer to echo, as the protocol says"


@dataclass(frozen=True, slots=True)
class Answer:
    """Plaintext to send as one TLS write, and whether the connection ends after it."""

    data: bytes = field(repr=False)
    close: bool = False


class Responder:
    """Turns plaintext of an accepted guest into answers.

    Before each request, the guest must be accepted still. A refused guest receives a failure, and
    its connection ends. A guest that cannot be appraised now receives a failure and stays
    connected, because real guests connect only once. A `version` that is its first request is
    answered, because clients print nothing of its failure (see `protocols.eaa.refusal`).

    Args:
        at_once: limit of the answers of all guests that are made at once.

    Attributes:
        began: when the incomplete request began, by the clock of the event loop; None if there
            is none.
    """

    def __init__(
        self,
        guest: ConnectedGuest,
        releaser: Releaser,
        events: Events,
        at_once: asyncio.Semaphore,
    ) -> None:
        self._at_once = at_once
        self._guest = guest
        self._address = guest.address
        self._requests = GuestRequests(releaser)
        self._events = events
        self._conversation = Conversation()
        self._first = True
        self._ended = False
        self._answered = False  # whether a request in the last plaintext has its answer
        self.began: float | None = None

    @property
    def held(self) -> int:
        """Number of bytes that are stored for the guest between its requests."""
        return self._conversation.pending_bytes + self._requests.held

    def receive(self, plaintext: bytes) -> None:
        """Append plaintext of the guest; then take answers until there are none."""
        self._answered = False
        self._conversation.receive(plaintext)

    async def next_answer(self) -> Answer | None:
        """Return the answer to the next request that is complete; None if there is none.

        No request is read before the one before it is answered, and none after an answer that
        closes the connection. Other guests are served between two requests: a guest can send
        thousands of small ones at once.
        """
        if self._ended or not self._conversation.pending:
            self.began = None
            return None
        received = await self._next_request()
        if received is None:
            if self.began is None:
                self.began = asyncio.get_running_loop().time()
            return None
        self.began = None
        if self._answered:
            await asyncio.sleep(0)
        self._answered = True
        answer = await self._answer(received)
        self._ended = answer.close
        return answer

    async def _next_request(self) -> Received | None:
        return await offload(self._conversation.pending_bytes, self._conversation.next_request)

    async def _answer(self, received: Received) -> Answer:
        command, request = received.command or "", received.request
        first, self._first = self._first, False
        if received.command is not None:
            self._events.record(RequestReceived(peer=self._address, command=command))
        try:
            data = await self._data(request)
        except VerdictdError as error:
            self._events.record(
                RequestFailed(
                    peer=self._address, command=command, code=error.code, reason=str(error)
                )
            )
            if isinstance(error, NotAppraised):
                if first and isinstance(request, Version):
                    return Answer(answers.version())
                return Answer(received.failure(error.text_for_guest), close=received.closes)
            close = received.closes or isinstance(error, GuestRefused)
            return Answer(received.failure(str(error)), close=close)
        self._events.record(
            RequestAnswered(peer=self._address, command=command, answer_bytes=len(data))
        )
        if received.closes:
            self._events.record(ConnectionClosed(peer=self._address, reason=_AFTER_ECHO))
        return Answer(data, close=received.closes)

    async def _data(self, request: Request | VerdictdError) -> bytes:
        """Return the answer to a request, decided by what is in force when it is complete.

        If anything has changed meanwhile, the request is decided again, so that no secret leaves
        after a change was acknowledged that denies it.

        Raises:
            PolicyUnavailable: something changed during each attempt.
            VerdictdError: the request fails.
        """
        for _ in range(_ATTEMPTS):
            peer = await self._guest.require_accepted()
            basis = self._guest.basis
            if isinstance(request, VerdictdError):
                raise request
            async with self._at_once:  # never during an appraisal, which may wait for collateral
                data = answers.encode(await self._requests.fulfil(peer, request))
            if await self._guest.is_unchanged(basis):
                return data
        raise PolicyUnavailable("the documents changed during each attempt at an answer")
