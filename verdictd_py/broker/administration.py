"""Administration of keys, resources and the keyring.

Resources include the image policy and the cosign key: give `Right.MANAGE` only to callers that may
decide which images guests run.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final
from uuid import uuid4

from verdictd_py.broker.changes import retry_on_conflict
from verdictd_py.broker.contents import StoredContents
from verdictd_py.broker.documents import DocumentAdministrator
from verdictd_py.broker.listings import Page, Pages
from verdictd_py.broker.policytests import PolicyTests
from verdictd_py.broker.recording import record_and_change
from verdictd_py.broker.references import ReferenceAdministrator
from verdictd_py.broker.referencesets import SetAdministrator
from verdictd_py.broker.revisions import Revisions
from verdictd_py.domain.callers import Caller, Right
from verdictd_py.domain.events import (
    KeyCreated,
    KeyDeleted,
    KeyExported,
    KeyRegistered,
    ResourceDeleted,
    ResourceExported,
    ResourceSet,
)
from verdictd_py.domain.names import LEGACY_RESOURCES, KeyId, ResourcePath
from verdictd_py.domain.secrets import KEY_BYTES, SecretBytes
from verdictd_py.errors import AlreadyExists, NotFound, RequestError, StorageError
from verdictd_py.formats.contents import Findings
from verdictd_py.offload import offload
from verdictd_py.ports import (
    ABSENT,
    ANY,
    Events,
    Expected,
    KeyringEditor,
    KeyStore,
    ResourceStore,
    StoredName,
)

IMAGE_POLICY: Final = str(LEGACY_RESOURCES["Policy"])
SIGSTORE: Final = str(LEGACY_RESOURCES["Sigstore Config"])
COSIGN_KEY: Final = str(LEGACY_RESOURCES["Cosign Key"])
CREDENTIAL: Final = str(LEGACY_RESOURCES["Credential"])
KEYRING: Final = str(LEGACY_RESOURCES["GPG Keyring"])


class KeyAdministrator:
    """Use cases for keys by name; every method first checks the caller's right.

    Args:
        random: returns a number of random bytes.
    """

    def __init__(
        self,
        *,
        keys: KeyStore,
        events: Events,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._keys = keys
        self._pages = Pages(lambda after, limit, at: keys.page(after, limit, started=at))
        self._events = events
        self._random = random

    async def page(self, caller: Caller, token: str, limit: int) -> Page:
        """Return the keys of a page by name (`Pages.page`).

        Raises:
            NotAuthorized, RequestError, StorageError: see `Pages.page`.
        """
        caller.require(Right.MANAGE)
        return await self._pages.page(token, limit)

    async def describe(self, caller: Caller, name: str) -> StoredName:
        """Describe a key, without its bytes.

        Raises:
            NotAuthorized, RequestError, NotFound, StorageError: see `KeyStore.describe`.
        """
        caller.require(Right.MANAGE)
        return await self._keys.describe(KeyId.parse(name))

    async def create(self, caller: Caller, name: str = "") -> KeyId:
        """Create a random key with that name, or with a random UUID; never replace a key.

        Raises:
            NotAuthorized, RequestError, AlreadyExists, StorageError: see `KeyStore.create`.
        """
        caller.require(Right.MANAGE)
        key_id = KeyId.parse(name or str(uuid4()))
        with suppress(NotFound, StorageError):
            await self._keys.describe(key_id)
            raise AlreadyExists(f"the key {key_id} exists already")
        key = SecretBytes(self._random(KEY_BYTES))
        created = KeyCreated(caller=caller.name, kid=str(key_id))
        await record_and_change(
            self._events, caller, str(key_id), (created,), lambda: self._keys.create(key_id, key)
        )
        return key_id

    async def register(self, caller: Caller, name: str, key: SecretBytes) -> KeyId:
        """Store a key that the caller provides; never replace a different key.

        Storing the same key under the same name again succeeds, so that a client can repeat a
        request whose response it did not receive.

        Raises:
            NotAuthorized, RequestError, AlreadyExists, StorageError: see `KeyStore.create`.
        """
        caller.require(Right.MANAGE)
        key_id = KeyId.parse(name)
        if len(key) != KEY_BYTES:
            raise RequestError(f"a key must have {KEY_BYTES} bytes, this one has {len(key)}")
        if await self._is_registered(key_id, key):
            return key_id
        registered = KeyRegistered(caller=caller.name, kid=str(key_id))
        try:
            await record_and_change(
                self._events,
                caller,
                str(key_id),
                (registered,),
                lambda: self._keys.create(key_id, key),
            )
        except AlreadyExists:  # it was created meanwhile
            if not await self._is_registered(key_id, key):
                raise
        return key_id

    async def adopt(self, caller: Caller, path: str) -> KeyId:
        """Make a resource of 32 bytes a key of the same name, with which images can be wrapped.

        Guests that fetch the resource then fetch the key, under the same path.

        Raises:
            NotAuthorized, RequestError, NotFound, AlreadyExists, StorageError: see
                `KeyStore.adopt`.
        """
        caller.require(Right.MANAGE)
        key_id = KeyId(ResourcePath.parse(path).segments)
        announced = (
            KeyRegistered(caller=caller.name, kid=str(key_id)),
            ResourceDeleted(caller=caller.name, path=f"resources/{key_id}"),
        )
        await record_and_change(
            self._events, caller, str(key_id), announced, lambda: self._keys.adopt(key_id)
        )
        return key_id

    async def _is_registered(self, key_id: KeyId, key: SecretBytes) -> bool:
        """Return whether exactly this key is stored under this name; False if none is.

        Raises:
            AlreadyExists: another key has this name.
            StorageError: see `KeyStore.get`.
        """
        try:
            stored = await self._keys.get(key_id)
        except NotFound:
            return False
        if stored != key:
            raise AlreadyExists(f"the key {key_id} exists already")
        return True

    async def get(self, caller: Caller, name: str) -> SecretBytes:
        """Return a key's bytes. This needs `Right.READ_KEYS` and is audited.

        Raises:
            NotAuthorized, RequestError, NotFound, StorageError: see `KeyStore.get`.
        """
        caller.require(Right.READ_KEYS)
        key_id = KeyId.parse(name)
        key = await self._keys.get(key_id)
        await self._events.commit(KeyExported(caller=caller.name, kid=str(key_id)))
        return key

    async def delete(self, caller: Caller, name: str) -> None:
        """Delete a key; layer keys that it wrapped can never be unwrapped again.

        Raises:
            NotAuthorized, RequestError, NotFound, StorageError: see `KeyStore.delete`.
        """
        caller.require(Right.MANAGE)
        key_id = KeyId.parse(name)
        await self._keys.describe(key_id)
        deleted = KeyDeleted(caller=caller.name, kid=str(key_id))
        await record_and_change(
            self._events, caller, str(key_id), (deleted,), lambda: self._keys.delete(key_id)
        )


class ResourceAdministrator:
    """Use cases for resources by path; some resources are checked, and the keyring is edited."""

    def __init__(
        self, *, resources: ResourceStore, keyrings: KeyringEditor, events: Events
    ) -> None:
        self._resources = resources
        self._pages = Pages(lambda after, limit, at: resources.page(after, limit, started=at))
        self._contents = StoredContents(resources)
        self._keyrings = keyrings
        self._events = events

    async def page(self, caller: Caller, token: str, limit: int) -> Page:
        """Return the resources of a page by path (`Pages.page`).

        Raises:
            NotAuthorized, RequestError, StorageError: see `Pages.page`.
        """
        caller.require(Right.MANAGE)
        return await self._pages.page(token, limit)

    def released_as(self, name: str) -> str:
        """Return the path that releases of a listed resource are recorded with; empty if none is.

        Args:
            name: a name of `page`, which may be one that no guest can request.
        """
        try:
            return self._resources.file_of(ResourcePath.parse(name))
        except RequestError:
            return ""

    async def get(self, caller: Caller, path: str) -> SecretBytes:
        """Return a resource or the file behind an alias; never a key.

        Raises:
            NotAuthorized, RequestError, NotFound, StorageError: see `ResourceStore.get`.
        """
        caller.require(Right.MANAGE)
        resource = await self._resources.get(ResourcePath.parse(path))
        await self._events.commit(ResourceExported(caller=caller.name, path=resource.path))
        return resource.content

    async def set(
        self, caller: Caller, path: str, content: SecretBytes, *, force: bool = False
    ) -> Findings:
        """Create or replace a resource, or the file behind an alias.

        Contents that guests read are checked by the type of the resource (`formats.contents`).

        Args:
            force: store the content although no guest can use it. A secret key at the place of a
                public one is refused nevertheless.

        Returns:
            What was found about the stored content; problems only with `force`.

        Raises:
            NotAuthorized, RequestError, AlreadyExists, StorageError: see
                `ResourceStore.put`; also for content that no guest can use.
        """
        caller.require(Right.MANAGE)
        parsed = ResourcePath.parse(path)
        findings = await self._contents.check(parsed, content.reveal())
        if findings.problems and not force:
            raise RequestError(f"no guest could use this: {'; '.join(findings.problems)}")
        await self._put(caller, parsed, content)
        return findings

    async def delete(self, caller: Caller, path: str) -> None:
        """Delete a resource or the file behind an alias.

        Raises:
            NotAuthorized, RequestError, NotFound, StorageError: see `ResourceStore.delete`.
        """
        caller.require(Right.MANAGE)
        parsed = ResourcePath.parse(path)
        with suppress(StorageError):  # what cannot be served can be deleted
            await self._resources.get(parsed)
        await self._delete(caller, parsed)

    async def describe_keyring(self, caller: Caller) -> str:
        """Return a text about the keyring's certificates, for operators.

        Raises:
            NotAuthorized, StorageError: see `KeyringEditor.describe`.
        """
        keyring = await self.keyring(caller)
        return await offload(len(keyring), partial(self._keyrings.describe, keyring))

    async def keyring(self, caller: Caller) -> bytes:
        """Return the keyring that guests receive; empty if there is none.

        Raises:
            NotAuthorized, StorageError: see `ResourceStore.get`.
        """
        caller.require(Right.MANAGE)
        return (await self._stored_keyring())[0]

    async def import_certificates(self, caller: Caller, certificates: bytes) -> None:
        """Add OpenPGP certificates to the keyring.

        Raises:
            NotAuthorized, RequestError, StorageError: see `KeyringEditor.add`.
            Conflict: the keyring changed during every attempt.
        """
        caller.require(Right.MANAGE)
        await self._change_keyring(
            caller, lambda keyring: self._keyrings.add(keyring, certificates), len(certificates)
        )

    async def delete_certificate(self, caller: Caller, which: str) -> None:
        """Remove one certificate from the keyring.

        Raises:
            NotAuthorized, NotFound, RequestError, StorageError: see `KeyringEditor.remove`.
            Conflict: the keyring changed during every attempt.
        """
        caller.require(Right.MANAGE)
        await self._change_keyring(caller, lambda keyring: self._keyrings.remove(keyring, which))

    async def _change_keyring(
        self, caller: Caller, edit: Callable[[bytes], bytes], added: int = 0
    ) -> None:
        """Edit the keyring by compare-and-swap; retry while others change it.

        Args:
            added: number of bytes that `edit` reads in addition to the keyring.
        """
        path = ResourcePath.parse(KEYRING)

        async def attempt() -> None:
            keyring, expected = await self._stored_keyring()
            changed = await offload(added + len(keyring), partial(edit, keyring))
            if changed:
                await self._put(caller, path, SecretBytes(changed), expected)
            else:
                await self._delete(caller, path, expected)

        await retry_on_conflict(attempt)

    async def _stored_keyring(self) -> tuple[bytes, Expected]:
        """Return the keyring, empty if there is none, and its revision."""
        try:
            keyring = await self._resources.get(ResourcePath.parse(KEYRING))
        except NotFound:
            return b"", ABSENT
        return keyring.content.reveal(), keyring.revision

    async def _put(
        self, caller: Caller, path: ResourcePath, content: SecretBytes, expected: Expected = ANY
    ) -> None:
        file = self._resources.file_of(path)
        stored = ResourceSet(caller=caller.name, path=file, content=content)
        await record_and_change(
            self._events,
            caller,
            str(path),
            (stored,),
            lambda: self._resources.put(path, content, expected=expected),
        )

    async def _delete(self, caller: Caller, path: ResourcePath, expected: Expected = ANY) -> None:
        deleted = ResourceDeleted(caller=caller.name, path=str(path))
        await record_and_change(
            self._events,
            caller,
            str(path),
            (deleted,),
            lambda: self._resources.delete(path, expected=expected),
        )


@dataclass(frozen=True, slots=True)
class Administration:
    """Use cases of operators, for the services of both packages of the management API."""

    keys: KeyAdministrator
    resources: ResourceAdministrator
    documents: DocumentAdministrator
    references: ReferenceAdministrator
    sets: SetAdministrator
    policy_tests: PolicyTests
    revisions: Revisions
