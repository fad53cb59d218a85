"""One attested guest's requests, answered in order."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from verdictd_py.broker.release import Releaser
from verdictd_py.domain.appraisal import AppraisedPeer
from verdictd_py.domain.events import RequestAnswered, RequestFailed, RequestReceived
from verdictd_py.domain.names import ResourcePath
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import RequestError, VerdictdError
from verdictd_py.ports import Events, StoredObject
from verdictd_py.protocols.eaa import answers, messages
from verdictd_py.protocols.eaa.answers import FailureForm
from verdictd_py.protocols.eaa.reader import RequestReader

"""Of a command, in the log: enough to know it, too little to fill a disk with."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Plaintext to send as one TLS write; then perhaps the end of the connection."""

    data: bytes = field(repr=False)
    close: bool = False


class Conversation:
    """Turns plaintext of an appraised peer into answers.

    Args:
        monotonic: seconds, to know when a request began.
    """

    def __init__(
        self,
        peer: AppraisedPeer,
        releaser: Releaser,
        events: Events,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._peer = peer
        self._releaser = releaser
        self._events = events
        self._monotonic = monotonic
        self._reader = RequestReader()
        self._announced: tuple[ResourcePath, StoredObject] | None = None
        self.began: float | None = None
        """When the request that is half here began; None where none is."""

    async def feed(self, plaintext: bytes) -> AsyncIterator[Answer]:
        """Answers to whatever requests `plaintext` completes, each before the next is read."""
        self._reader.feed(plaintext)
        try:
            while (members := self._reader.next_request()) is not None:
                self.began = None
                yield await self._answer(members)
        except RequestError as error:
            yield self._failed("", FailureForm.A, error, close=True)
            return
        if not self._reader.pending:
            self.began = None
        elif self.began is None:
            self.began = self._monotonic()

    async def _answer(self, members: dict[str, JsonValue]) -> Answer:
        """The answer to one request.

        Raises:
            RequestError: it has no command; nothing after it can be trusted.
        """
        command = str(members.get("command"))
        self._events.record(RequestReceived(peer=self._peer.address, command=command))
        try:
            request = messages.parse(members)
        except messages.MalformedRequest as error:
            return self._failed(command, error.failure_form, error)
        try:
            data = await self._data(request)
        except VerdictdError as error:
            return self._failed(command, request.failure_form, error)
        self._events.record(
            RequestAnswered(peer=self._peer.address, command=command, answer_bytes=len(data))
        )
        return Answer(data, close=isinstance(request, messages.Echo))

    async def _data(self, request: messages.Request) -> bytes:
        match request:
            case messages.Version():
                return answers.version()
            case messages.Echo():
                return answers.echo(request.data)
            case messages.Decrypt(blobs=blobs):
                opened = await self._releaser.decrypt(self._peer, [b.wrapped for b in blobs])
                names = [blob.encrypted_data for blob in blobs]
                return answers.decrypted(zip(names, opened, strict=True))
            case messages.GetKek(kids=kids):
                keys = await self._releaser.keks(self._peer, [kid.key_id for kid in kids])
                return answers.keks(zip([kid.sent for kid in kids], keys, strict=True))
            case messages.GetResourceInfo(path=path):
                found = await self._releaser.find(self._peer, path)
                self._announced = (path, found)
                return answers.resource_info(answers.base64_size(len(found.content)))
            case messages.GetResource(path=path):
                found = await self._announced_or_found(path)
                return answers.resource(self._releaser.hand_out(self._peer, found))
            case messages.Unknown():
                raise RequestError(request.text)

    async def _announced_or_found(self, path: ResourcePath) -> StoredObject:
        """The resource as it was announced, once: its size must be the one that was told."""
        announced, self._announced = self._announced, None
        if announced is not None and announced[0] == path:
            return announced[1]
        return await self._releaser.find(self._peer, path)

    def _failed(
        self,
        command: str,
        form: FailureForm,
        error: VerdictdError,
        *,
        close: bool = False,
    ) -> Answer:
        self._events.record(
            RequestFailed(
                peer=self._peer.address, command=command, code=error.code, reason=str(error)
            )
        )
        return Answer(answers.failure(form, str(error)), close=close)
