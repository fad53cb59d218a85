"""Release of keys and resources, only to peers that were appraised and accepted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from verdictd_py.broker import ciphers
from verdictd_py.broker.sources import Sources
from verdictd_py.domain.appraisal import AppraisedPeer, DecidedBy
from verdictd_py.domain.events import ReleaseRefused, SecretReleased
from verdictd_py.domain.names import LEGACY_RESOURCES, KeyId, ResourcePath
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.domain.wrapping import Algorithm, WrappedBlob
from verdictd_py.errors import (
    DecryptionFailed,
    NotAuthorized,
    NotFound,
    RequestError,
    StorageError,
    StoreUnavailable,
)
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

_Allowed = dict[str, DecidedBy | None]
"""Documents by which releases were allowed, by path."""

_IMAGE_RESOURCES: Final = frozenset(LEGACY_RESOURCES.values())


class _KeyUnusable(Exception):  # it never leaves this module
    """There is no resource, and the key of its name cannot be used."""

    def __init__(self, cause: StorageError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Releaser:
    """Releases secrets to accepted guests, each only if the release policy allows it.

    Args:
        policy: release policy; it decides about every secret before it is released.
        allow_a256ctr: whether packets without a tag are decrypted. It is off by default: an
            attacker with the image can relabel a GCM packet as CTR, which authenticates
            nothing.
        released: called with the paths of each request that was answered.
    """

    def __init__(
        self,
        *,
        keys: KeyStore,
        resources: ResourceStore,
        policy: ReleasePolicy,
        events: Events,
        allow_a256ctr: bool = False,
        released: Callable[[Sequence[str]], None] | None = None,
    ) -> None:
        self._keys = keys
        self._released = released
        self._resources = resources
        self._policy = policy
        self._events = events
        self._allow_a256ctr = allow_a256ctr
        self._sources = Sources()

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
        allowed: _Allowed = {}
        for blob in blobs:
            path = f"keys/{blob.key_id}"
            allowed[path] = await self._require(peer, Kind.KEY, path)
            key = await self._keys.get(blob.key_id)
            plaintexts.append(decrypt_blob(blob, key, allow_a256ctr=self._allow_a256ctr))
        await self._record_releases(peer, "image-key", allowed)
        return tuple(plaintexts)

    async def keks(self, peer: AppraisedPeer, key_ids: Sequence[KeyId]) -> tuple[SecretBytes, ...]:
        """Return all the keys themselves, in order; if one fails, release none.

        Raises:
            NotFound, StorageError: error about the first key that fails.
            NotAuthorized: the release policy denies one of the keys.
        """
        allowed: _Allowed = {}
        for key_id in dict.fromkeys(key_ids):
            path = f"keys/{key_id}"
            allowed[path] = await self._require(peer, Kind.KEY, path)
        keys = [await self._keys.get(key_id) for key_id in key_ids]
        await self._record_releases(peer, "kek", allowed)
        return tuple(keys)

    async def find(
        self, peer: AppraisedPeer, path: ResourcePath, query: Mapping[str, str] = NO_QUERY
    ) -> StoredObject:
        """Return the resource at `path`, or else the key of that name, before its release.

        A guest cannot distinguish a denied resource from a missing one, or from one that cannot be
        served.

        Raises:
            NotFound: there is neither a resource nor a key.
            StorageError: the resource or key cannot be served, and the policy allows it.
            NotAuthorized: the release policy denies it.
        """
        of_resource = [(Kind.RESOURCE, str(path))]
        if path in _IMAGE_RESOURCES:
            of_resource.append((Kind.IMAGE, str(path)))
        of_key = (Kind.KEY, f"keys/{path}")
        try:
            stored = await self._stored(path)
        except NotFound:
            for kind, name in (*of_resource, of_key):
                await self._require(peer, kind, name, query)
            raise
        except StoreUnavailable:
            await self._require_one(peer, (*of_resource, of_key), query)
            raise
        except _KeyUnusable as error:
            await self._require(peer, *of_key, query)
            raise error.cause from None
        except StorageError:
            await self._require_one(peer, of_resource, query)
            raise
        is_key = stored.kind is Kind.KEY
        path_of_policy = stored.path if is_key else str(path)
        decided_by = await self._require(peer, stored.kind, path_of_policy, query)
        return replace(stored, decided_by=decided_by)

    async def _stored(self, path: ResourcePath) -> StoredObject:
        try:
            return await self._resources.get(path)
        except NotFound:
            try:
                key = await self._keys.get(KeyId(path.segments))
            except NotFound:
                raise NotFound(f"there is no resource {path}") from None
            except StoreUnavailable:
                raise
            except StorageError as error:
                raise _KeyUnusable(error) from None
            return StoredObject(Kind.KEY, f"keys/{path}", key)

    async def _require_one(
        self,
        peer: AppraisedPeer,
        objects: Sequence[tuple[Kind, str]],
        query: Mapping[str, str],
    ) -> None:
        """Require that the release policy allows one of several kinds of an unreadable object.

        Its kind is not known, and a guest that may have it must not take the failure of the broker
        as final.

        Raises:
            NotAuthorized: it denies all of them.
        """
        for kind, path in objects:
            if not await self._policy.failures(peer, kind, path, query):
                return
        await self._require(peer, *objects[0], query)

    async def release(self, peer: AppraisedPeer, stored: StoredObject) -> SecretBytes:
        """Record the release of an object that `find` returned, and return its content.

        Raises:
            StorageError: the release cannot be recorded.
        """
        await self._record_releases(peer, stored.kind, {stored.path: stored.decided_by})
        return stored.content

    async def _require(
        self, peer: AppraisedPeer, kind: Kind, path: str, query: Mapping[str, str] = NO_QUERY
    ) -> DecidedBy | None:
        """Require that the release policy allows the release; return what has decided.

        Raises:
            NotAuthorized: the policy denies it; only the id of the appraisal is disclosed.
        """
        with measured(Stage.POLICY):
            reasons = await self._policy.failures(peer, kind, path, query)
        decided_by = reasons.decided_by
        if not reasons:
            return decided_by
        new = self._sources.new_of_releases((decided_by,))
        await self._events.commit(
            *new.events,
            ReleaseRefused(
                peer=peer.address,
                appraisal=peer.appraisal_id,
                tee=peer.tee,
                what=kind,
                path=path,
                reasons=tuple(reason.text for reason in reasons),
                policy=None if decided_by is None else decided_by.policy,
                data=None if decided_by is None else decided_by.data,
            ),
        )
        self._sources.note(new)
        raise NotAuthorized(f"not released to this guest; ask about {peer.appraisal_id}")

    async def _record_releases(self, peer: AppraisedPeer, what: str, allowed: _Allowed) -> None:
        """Record what one request releases, before it leaves; the record is then on disk.

        One request is one record, so that a guest cannot make the trail grow faster than it sends.
        Only secrets that different policies allow have a record for each policy.

        Args:
            allowed: by path, the documents by which the release was allowed.

        Raises:
            StorageError: it cannot be recorded, so nothing must be released.
        """
        paths: dict[DecidedBy | None, list[str]] = {}
        for path, decided_by in allowed.items():
            paths.setdefault(decided_by, []).append(path)
        new = self._sources.new_of_releases(paths)
        await self._events.commit(
            *new.events,
            *(
                SecretReleased(
                    peer=peer.address,
                    appraisal=peer.appraisal_id,
                    tee=peer.tee,
                    what=what,
                    path=several[0],
                    paths=tuple(several) if len(several) > 1 else None,
                    policy=None if decided_by is None else decided_by.policy,
                    data=None if decided_by is None else decided_by.data,
                )
                for decided_by, several in paths.items()
            ),
        )
        self._sources.note(new)
        if self._released is not None:
            self._released(tuple(allowed))


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
