"""Use cases of a guest on its attested connection, one for each request of the EAA protocol.

They take and return typed values, which `protocols.eaa` reads and writes.
"""

from __future__ import annotations

from dataclasses import replace

from verdictd_py.broker.release import Releaser
from verdictd_py.domain.appraisal import AppraisedPeer
from verdictd_py.domain.names import ResourcePath
from verdictd_py.errors import RequestError
from verdictd_py.ports import StoredObject
from verdictd_py.protocols.eaa import messages
from verdictd_py.protocols.eaa.answers import (
    EchoedText,
    Keks,
    Plaintexts,
    Resource,
    ResourceInfo,
    Result,
    Version,
)


class GuestRequests:
    """Use cases of one attested guest.

    Args:
        releaser: releases secrets to it.
    """

    def __init__(self, releaser: Releaser) -> None:
        self._releaser = releaser
        self._announced: tuple[ResourcePath, StoredObject] | None = None

    @property
    def held(self) -> int:
        """Number of bytes that are stored for a later request."""
        return 0 if self._announced is None else len(self._announced[1].content)

    async def fulfil(self, peer: AppraisedPeer, request: messages.Request) -> Result:
        """Return the result of one request.

        Args:
            peer: the guest as it is accepted now.

        Raises:
            RequestError: the command is not supported, or its result is too large for an answer.
            NotAuthorized, NotFound, StorageError, DecryptionFailed: see `Releaser`.
        """
        match request:
            case messages.Version():
                return Version()
            case messages.Echo():
                return EchoedText(request.data)
            case messages.Decrypt(blobs=blobs):
                plaintexts = await self._releaser.decrypt(peer, [b.wrapped for b in blobs])
                names = [blob.encrypted_data for blob in blobs]
                return Plaintexts(tuple(zip(names, plaintexts, strict=True)))
            case messages.GetKek(kids=kids):
                keys = await self._releaser.keks(peer, [kid.key_id for kid in kids])
                return Keks(tuple(zip([kid.sent for kid in kids], keys, strict=True)))
            case messages.GetResourceInfo(path=path):
                resource = await self._releaser.find(peer, path)
                self._announced = (path, resource)
                return ResourceInfo(len(resource.content))
            case messages.GetResource(path=path):
                resource = await self._announced_or_stored(peer, path)
                return Resource(await self._releaser.release(peer, resource))
            case messages.Unknown():
                raise RequestError(request.text)

    async def _announced_or_stored(self, peer: AppraisedPeer, path: ResourcePath) -> StoredObject:
        """Return the resource whose size was announced last, otherwise the stored one.

        The client reads as many bytes as were announced, so the content must not change. The
        release policy decides again: it, or the resource, may have changed since.
        """
        announced, self._announced = self._announced, None
        stored = await self._releaser.find(peer, path)
        if announced is None or (announced[0], announced[1].path) != (path, stored.path):
            return stored
        return replace(announced[1], decided_by=stored.decided_by)
