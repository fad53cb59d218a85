"""Use cases of a guest on its attested connection, one for each request of the EAA protocol.

They take and return typed values, which `protocols.eaa` reads and writes.
"""

from __future__ import annotations

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
        peer: the accepted guest.
        releaser: releases secrets to it.
    """

    def __init__(self, peer: AppraisedPeer, releaser: Releaser) -> None:
        self._peer = peer
        self._releaser = releaser
        self._announced: tuple[ResourcePath, StoredObject] | None = None

    async def fulfil(self, request: messages.Request) -> Result:
        """Return the result of one request.

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
                plaintexts = await self._releaser.decrypt(self._peer, [b.wrapped for b in blobs])
                names = [blob.encrypted_data for blob in blobs]
                return Plaintexts(tuple(zip(names, plaintexts, strict=True)))
            case messages.GetKek(kids=kids):
                keys = await self._releaser.keks(self._peer, [kid.key_id for kid in kids])
                return Keks(tuple(zip([kid.sent for kid in kids], keys, strict=True)))
            case messages.GetResourceInfo(path=path):
                resource = await self._releaser.find(self._peer, path)
                self._announced = (path, resource)
                return ResourceInfo(len(resource.content))
            case messages.GetResource(path=path):
                resource = await self._announced_or_stored(path)
                return Resource(await self._releaser.release(self._peer, resource))
            case messages.Unknown():
                raise RequestError(request.text)

    async def _announced_or_stored(self, path: ResourcePath) -> StoredObject:
        """Return the resource whose size was announced last, otherwise the stored one.

        The client reads as many bytes as were announced, so the content must not change.
        """
        announced, self._announced = self._announced, None
        if announced is not None and announced[0] == path:
            return announced[1]
        return await self._releaser.find(self._peer, path)
