"""Releases keys and resources to peers that were appraised, and to nobody else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from verdictd_py.broker import ciphers
from verdictd_py.domain.appraisal import AppraisedPeer
from verdictd_py.domain.events import ReleaseRefused, SecretReleased
from verdictd_py.domain.names import LEGACY_RESOURCES, KeyId, ResourcePath
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.domain.wrapping import Algorithm, WrappedBlob
from verdictd_py.errors import DecryptionFailed, NotAuthorized, NotFound, RequestError, StorageError
from verdictd_py.ports import (
    NO_QUERY,
    Events,
    KeyStore,
    Kind,
    ReleasePolicy,
    ResourceStore,
    StoredObject,
)

_OF_IMAGES: Final = frozenset(LEGACY_RESOURCES.values())


class Releaser:
    """What an attested guest can ask for.

    Args:
        policy: asked for everything that was found, before it is handed out.
        allow_a256ctr: decrypt packets without a tag. Off by default: whoever holds an
            image can relabel a GCM packet as CTR, and CTR authenticates nothing.
    """

    def __init__(
        self,
        *,
        keys: KeyStore,
        resources: ResourceStore,
        policy: ReleasePolicy,
        events: Events,
        allow_a256ctr: bool = False,
    ) -> None:
        self._keys = keys
        self._resources = resources
        self._policy = policy
        self._events = events
        self._allow_a256ctr = allow_a256ctr

    async def decrypt(
        self, peer: AppraisedPeer, blobs: Sequence[WrappedBlob]
    ) -> tuple[SecretBytes, ...]:
        """Plaintexts of `blobs`, in order: all or nothing.

        Raises:
            RequestError, NotFound, StorageError, DecryptionFailed: of the first bad
                blob, and the text names it by its kid.
            NotAuthorized: the release policy keeps one of the keys from this guest.
        """
        plaintexts = []
        for blob in blobs:
            await self._require(peer, Kind.KEY, f"keys/{blob.key_id}")
            key = await self._keys.get(blob.key_id)
            plaintexts.append(decrypt_blob(blob, key, allow_a256ctr=self._allow_a256ctr))
        for blob in blobs:
            self._released(peer, "image-key", f"keys/{blob.key_id}")
        return tuple(plaintexts)

    async def keks(self, peer: AppraisedPeer, key_ids: Sequence[KeyId]) -> tuple[SecretBytes, ...]:
        """The keys themselves, in order: all or nothing.

        Raises:
            NotFound, StorageError: of the first bad one.
            NotAuthorized: as `decrypt`.
        """
        for key_id in dict.fromkeys(key_ids):
            await self._require(peer, Kind.KEY, f"keys/{key_id}")
        keys = [await self._keys.get(key_id) for key_id in key_ids]
        for key_id in key_ids:
            self._released(peer, "kek", f"keys/{key_id}")
        return tuple(keys)

    async def find(
        self, peer: AppraisedPeer, path: ResourcePath, query: Mapping[str, str] = NO_QUERY
    ) -> StoredObject:
        """The resource at `path`, or else the key of that name; not handed out yet.

        What the release policy keeps from a guest looks the same whether it is there or not.

        Raises:
            NotFound: neither.
            StorageError: it cannot be served.
            NotAuthorized: as `decrypt`.
        """
        try:
            found = await self._stored(path)
        except (NotFound, StorageError):
            await self._require(peer, Kind.RESOURCE, str(path), query)
            if path in _OF_IMAGES:
                await self._require(peer, Kind.IMAGE, str(path), query)
            await self._require(peer, Kind.KEY, f"keys/{path}", query)
            raise
        is_key = found.kind is Kind.KEY
        await self._require(peer, found.kind, found.path if is_key else str(path), query)
        return found

    async def _stored(self, path: ResourcePath) -> StoredObject:
        try:
            return await self._resources.get(path)
        except NotFound:
            try:
                key = await self._keys.get(KeyId(path.segments))
            except NotFound:
                raise NotFound(f"there is no resource {path}") from None
            return StoredObject(Kind.KEY, f"keys/{path}", key)

    def release(self, peer: AppraisedPeer, found: StoredObject) -> SecretBytes:
        """The content of what `find` found, and a record that `peer` got it."""
        self._released(peer, found.kind, found.path)
        return found.content

    async def _require(
        self, peer: AppraisedPeer, kind: Kind, path: str, query: Mapping[str, str] = NO_QUERY
    ) -> None:
        """Returns if the release policy gives this to the guest.

        Raises:
            NotAuthorized: it does not; the guest learns the id of its appraisal only.
        """
        reasons = await self._policy.failures(peer, kind, path, query)
        if not reasons:
            return
        self._events.record(
            ReleaseRefused(
                peer=peer.address,
                appraisal=peer.appraisal_id,
                tee=peer.tee,
                what=kind,
                path=path,
                reasons=tuple(reason.text for reason in reasons),
            )
        )
        raise NotAuthorized(f"not released to this guest; ask about {peer.appraisal_id}")

    def _released(self, peer: AppraisedPeer, what: str, path: str) -> None:
        self._events.record(
            SecretReleased(
                peer=peer.address, appraisal=peer.appraisal_id, tee=peer.tee, what=what, path=path
            )
        )


def decrypt_blob(blob: WrappedBlob, key: SecretBytes, *, allow_a256ctr: bool) -> SecretBytes:
    """Plaintext of one blob.

    Raises:
        RequestError, DecryptionFailed: the text names the blob by its kid.
    """
    if blob.algorithm is Algorithm.A256CTR and not allow_a256ctr:
        raise RequestError(
            f"{blob.key_id}: A256CTR authenticates nothing and is off; "
            "the broker's operator can turn it on (allow_a256ctr)"
        )
    try:
        return ciphers.decrypt(blob.algorithm, key, blob.iv, blob.ciphertext)
    except RequestError as error:
        raise type(error)(f"{blob.key_id}: {error}") from None
    except DecryptionFailed as error:
        raise DecryptionFailed(f"{blob.key_id}: {error}") from None
