"""What operators do through the management API: keys and resources.

Resources are the image policy and the cosign key among others, so `Right.MANAGE` is
trust, not a formality.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from uuid import uuid4

from verdictd_py.domain.callers import Caller, Right
from verdictd_py.domain.names import KeyId, ResourcePath
from verdictd_py.domain.ports import Events, KeyStore, ResourceStore
from verdictd_py.domain.secrets import KEY_BYTES, SecretBytes


class Administrator:
    """The management API's use cases; every one asks first whether the caller may.

    Args:
        random: so many random bytes.
    """

    def __init__(
        self,
        *,
        keys: KeyStore,
        resources: ResourceStore,
        events: Events,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._keys = keys
        self._resources = resources
        self._events = events
        self._random = random

    async def create_key(self, caller: Caller, name: str = "") -> KeyId:
        """A new random key of that name, or of a UUID's; never over another.

        Raises:
            NotAuthorized, RequestError, AlreadyExists, StorageError: see `KeyStore.create`.
        """
        caller.require(Right.MANAGE)
        key_id = KeyId.parse(name or str(uuid4()))
        await self._keys.create(key_id, SecretBytes(self._random(KEY_BYTES)))
        self._events.record("key.created", caller=caller.name, kid=str(key_id))
        return key_id

    async def get_key(self, caller: Caller, name: str) -> SecretBytes:
        """A key's bytes: for `Right.READ_KEYS` only, and in the audit trail.

        Raises:
            NotAuthorized, RequestError, NotFound, StorageError: see `KeyStore.get`.
        """
        caller.require(Right.READ_KEYS)
        key_id = KeyId.parse(name)
        key = await self._keys.get(key_id)
        self._events.record("key.exported", caller=caller.name, kid=str(key_id))
        return key

    async def delete_key(self, caller: Caller, name: str) -> None:
        """Deletes a key; what it wrapped can never be opened again.

        Raises:
            NotAuthorized, RequestError, NotFound, StorageError: see `KeyStore.delete`.
        """
        caller.require(Right.MANAGE)
        key_id = KeyId.parse(name)
        await self._keys.delete(key_id)
        self._events.record("key.deleted", caller=caller.name, kid=str(key_id))

    async def get_resource(self, caller: Caller, path: ResourcePath) -> SecretBytes:
        """A resource or the file behind an alias; never a key.

        Raises:
            NotAuthorized, NotFound, StorageError: see `ResourceStore.get`.
        """
        caller.require(Right.MANAGE)
        found = await self._resources.get(path)
        self._events.record("resource.exported", caller=caller.name, path=found.path)
        return found.content

    async def set_resource(self, caller: Caller, path: ResourcePath, content: SecretBytes) -> None:
        """Creates or replaces a resource, or the file behind an alias.

        Raises:
            NotAuthorized, RequestError, AlreadyExists, StorageError: see `ResourceStore.put`.
        """
        caller.require(Right.MANAGE)
        stored = await self._resources.put(path, content)
        self._events.record("resource.set", caller=caller.name, path=stored.path, content=content)
