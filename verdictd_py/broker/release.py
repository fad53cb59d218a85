"""Release of keys and resources, only to peers that were appraised and accepted."""

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
from verdictd_py.stages import Stage, measured

_IMAGE_RESOURCES: Final = frozenset(LEGACY_RESOURCES.values())


class Releaser:
    """Releases secrets to accepted guests, each only if the release policy allows it.

    Args:
        policy: release policy; it decides about every secret before it is released.
        allow_a256ctr: whether packets without a tag are decrypted. It is off by default: an
            attacker with the image can relabel a GCM packet as CTR, which authenticates
            nothing.
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
        """Return the plaintexts of all `blobs`, in order; if one fails, release none.

        Raises:
            RequestError, NotFound, StorageError, DecryptionFailed: error about the first blob
                that fails; the text names it by its kid.
            NotAuthorized: the release policy denies one of the keys.
        """
        plaintexts = []
        for blob in blobs:
            await self._require(peer, Kind.KEY, f"keys/{blob.key_id}")
            key = await self._keys.get(blob.key_id)
            plaintexts.append(decrypt_blob(blob, key, allow_a256ctr=self._allow_a256ctr))
        await self._record_releases(peer, "image-key", *(f"keys/{b.key_id}" for b in blobs))
        return tuple(plaintexts)

    async def keks(self, peer: AppraisedPeer, key_ids: Sequence[KeyId]) -> tuple[SecretBytes, ...]:
        """Return all the keys themselves, in order; if one fails, release none.

        Raises:
            NotFound, StorageError: error about the first key that fails.
            NotAuthorized: the release policy denies one of the keys.
        """
        for key_id in dict.fromkeys(key_ids):
            await self._require(peer, Kind.KEY, f"keys/{key_id}")
        keys = [await self._keys.get(key_id) for key_id in key_ids]
        await self._record_releases(peer, "kek", *(f"keys/{key_id}" for key_id in key_ids))
        return tuple(keys)

    async def find(
        self, peer: AppraisedPeer, path: ResourcePath, query: Mapping[str, str] = NO_QUERY
    ) -> StoredObject:
        """Return the resource at `path`, or else the key of that name, before its release.

        A guest cannot distinguish a denied resource from a missing one.

        Raises:
            NotFound: there is neither a resource nor a key.
            StorageError: the resource or key cannot be served.
            NotAuthorized: the release policy denies it.
        """
        try:
            stored = await self._stored(path)
        except (NotFound, StorageError):
            await self._require(peer, Kind.RESOURCE, str(path), query)
            if path in _IMAGE_RESOURCES:
                await self._require(peer, Kind.IMAGE, str(path), query)
            await self._require(peer, Kind.KEY, f"keys/{path}", query)
            raise
        is_key = stored.kind is Kind.KEY
        await self._require(peer, stored.kind, stored.path if is_key else str(path), query)
        return stored

    async def _stored(self, path: ResourcePath) -> StoredObject:
        try:
            return await self._resources.get(path)
        except NotFound:
            try:
                key = await self._keys.get(KeyId(path.segments))
            except NotFound:
                raise NotFound(f"there is no resource {path}") from None
            return StoredObject(Kind.KEY, f"keys/{path}", key)

    async def release(self, peer: AppraisedPeer, stored: StoredObject) -> SecretBytes:
        """Record the release of an object that `find` returned, and return its content.

        Raises:
            StorageError: the release cannot be recorded.
        """
        await self._record_releases(peer, stored.kind, stored.path)
        return stored.content

    async def _require(
        self, peer: AppraisedPeer, kind: Kind, path: str, query: Mapping[str, str] = NO_QUERY
    ) -> None:
        """Require that the release policy allows the release.

        Raises:
            NotAuthorized: the policy denies it; only the id of the appraisal is disclosed.
        """
        with measured(Stage.POLICY):
            reasons = await self._policy.failures(peer, kind, path, query)
        if not reasons:
            return
        await self._events.commit(
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

    async def _record_releases(self, peer: AppraisedPeer, what: str, *paths: str) -> None:
        """Record releases before the secrets leave; the records are then on disk.

        Raises:
            StorageError: they cannot be recorded, so nothing must be released.
        """
        await self._events.commit(
            *(
                SecretReleased(
                    peer=peer.address,
                    appraisal=peer.appraisal_id,
                    tee=peer.tee,
                    what=what,
                    path=path,
                )
                for path in paths
            )
        )


def decrypt_blob(blob: WrappedBlob, key: SecretBytes, *, allow_a256ctr: bool) -> SecretBytes:
    """Return the plaintext of one blob.

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
