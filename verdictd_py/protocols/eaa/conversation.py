"""The conversation with an attested guest: plaintext in, typed requests out, in their order.

After each `receive`, take requests until `next_request` returns None. Each must be answered
before the next one is taken: with `answers.encode` of the broker's result, or with
`Received.failure`. The connection ends after an answer to a request that `closes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from verdictd_py.errors import RequestError
from verdictd_py.protocols.eaa import answers, messages
from verdictd_py.protocols.eaa.answers import FailureForm
from verdictd_py.protocols.eaa.messages import Echo, MalformedRequest, Request
from verdictd_py.protocols.eaa.reader import RequestReader

MAX_KNOWN_BYTES: Final = 256
"""Longest request that is cached. Requests for keys and resources are shorter; those with wrapped
keys are longer, and differ."""

_KNOWN: Final = 512
"""Maximum number of cached requests. All guests of an image send the same ones."""


@dataclass(frozen=True, slots=True)
class Received:
    """A request of the guest, or its error if it is malformed.

    Attributes:
        command: the command as sent, for the log; None if the guest sent none.
        request: the typed request, or the error to answer with if it is malformed.
        failure_form: shape of a failure that the command's client can read.
        closes: whether the connection ends after the answer.
    """

    command: str | None
    request: Request | RequestError
    failure_form: FailureForm
    closes: bool = False

    def failure(self, text: str) -> bytes:
        """Encode a failure to answer this request, with a text for the guest."""
        return answers.failure(self.failure_form, text)


class Conversation:
    """State of one conversation: the bytes of a request that is not complete yet."""

    def __init__(self) -> None:
        self._reader = RequestReader()
        self._known: Received | None = None
        self._ended = False

    @property
    def pending(self) -> bool:
        """Whether a request has started that `next_request` has not returned yet."""
        return not self._ended and (self._known is not None or self._reader.pending)

    @property
    def pending_bytes(self) -> int:
        """Number of bytes that were received and that no request has used yet."""
        return self._reader.pending_bytes

    def receive(self, plaintext: bytes) -> None:
        """Append plaintext of the guest."""
        known = None
        if len(plaintext) <= MAX_KNOWN_BYTES and not self.pending:
            known = _complete(plaintext)
        if known is None:
            self._reader.feed(plaintext)
        else:
            self._known = known

    def next_request(self) -> Received | None:
        """Return the next request; None if more bytes are needed, or the conversation ended."""
        if self._ended:
            return None
        received, self._known = self._known, None
        if received is None:
            received = _read(self._reader)
        self._ended = received is not None and received.closes
        return received


@lru_cache(maxsize=_KNOWN)
def _complete(plaintext: bytes) -> Received | None:
    """Return the request that a plaintext consists of; None if it is anything else.

    Nothing invalidates the result: it depends on the bytes only, and decides nothing. A malformed
    request is not cached, because errors refer to the frames that raised them.
    """
    reader = RequestReader()
    reader.feed(plaintext)
    received = _read(reader)
    if received is None or isinstance(received.request, RequestError) or reader.pending:
        return None
    return received


def _read(reader: RequestReader) -> Received | None:
    try:
        members = reader.next_request()
    except RequestError as error:
        return Received(None, error, FailureForm.A, closes=True)
    if members is None:
        return None
    sent = members.get("command")
    command = sent if isinstance(sent, str) else None
    try:
        request = messages.parse(members)
    except MalformedRequest as error:
        return Received(command, error, error.failure_form)
    except RequestError as error:  # without a command, what follows cannot be trusted
        return Received(command, error, FailureForm.A, closes=True)
    return Received(command, request, request.failure_form, closes=isinstance(request, Echo))
