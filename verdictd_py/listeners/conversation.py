"""One attested guest's requests, answered in order."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from verdictd_py.broker.release import Releaser
from verdictd_py.domain.appraisal import AppraisedPeer
from verdictd_py.domain.names import ResourcePath
from verdictd_py.domain.ports import Events, StoredObject
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.eaa import answers, messages
from verdictd_py.eaa.reader import RequestReader
from verdictd_py.errors import RequestError, VerdictdError

_SHOWN_CHARACTERS: Final = 64
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
        """Answers to whatever requests `plaintext` completes."""
        try:
            requests = self._reader.feed(plaintext)
        except RequestError as error:
            yield self._failed("", messages.FailureForm.A, error, close=True)
            return
        if requests or self.began is None:
            self.began = self._monotonic() if self._reader.pending else None
        for request in requests:
            yield await self._answer(request)

    async def _answer(self, request: dict[str, Any]) -> Answer:
        try:
            command = messages.command_of(request)
        except RequestError as error:
            return self._failed("", messages.FailureForm.A, error, close=True)
        try:
            typed = messages.parse(request)
            data = await self._data(typed)
        except VerdictdError as error:
            return self._failed(command, messages.failure_form(command), error)
        self._events.record(
            "request.answered",
            peer=self._peer.address,
            command=command[:_SHOWN_CHARACTERS],
            answer_bytes=len(data),
        )
        return Answer(data, close=isinstance(typed, messages.Echo))

    async def _data(self, request: messages.Request) -> bytes:
        match request:
            case messages.Version():
                return answers.version()
            case messages.Echo(data=text):
                return answers.echo(text)
            case messages.Decrypt(blobs=blobs):
                opened = await self._releaser.decrypt(self._peer, [blob for _, blob in blobs])
                return answers.secrets(_by_name([sent for sent, _ in blobs], opened))
            case messages.GetKek(kids=kids):
                keys = await self._releaser.keks(self._peer, [key_id for _, key_id in kids])
                return answers.secrets(_by_name([sent for sent, _ in kids], keys))
            case messages.GetResourceInfo(path=path):
                found = await self._releaser.find(self._peer, path)
                self._announced = (path, found)
                return answers.resource_info(len(found.content))
            case messages.GetResource(path=path):
                found = await self._announced_or_found(path)
                return answers.base64_text(self._releaser.hand_out(self._peer, found))

    async def _announced_or_found(self, path: ResourcePath) -> StoredObject:
        """The resource as it was announced, once: its size must be the one that was told."""
        announced, self._announced = self._announced, None
        if announced is not None and announced[0] == path:
            return announced[1]
        return await self._releaser.find(self._peer, path)

    def _failed(
        self,
        command: str,
        form: messages.FailureForm,
        error: VerdictdError,
        *,
        close: bool = False,
    ) -> Answer:
        self._events.record(
            "request.failed",
            peer=self._peer.address,
            command=command[:_SHOWN_CHARACTERS],
            code=error.code,
            reason=str(error),
        )
        return Answer(answers.failure(form, str(error)), close=close)


def _by_name(names: list[str], values: tuple[SecretBytes, ...]) -> dict[str, SecretBytes]:
    """The answer's map. One name with two values could only be answered half.

    Raises:
        RequestError: there is one.
    """
    found: dict[str, SecretBytes] = {}
    for name, value in zip(names, values, strict=True):
        if found.setdefault(name, value) != value:
            raise RequestError("two blobs with the same encrypted_data and different plaintexts")
    return found
