"""What operators do with keys, resources and the keyring.

Resources are the image policy and the cosign key among others, so `Right.MANAGE` is
trust, not a formality.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from verdictd_py.broker.changes import retry_on_conflict
from verdictd_py.broker.documents import DocumentAdministrator
from verdictd_py.broker.policytests import PolicyTests
from verdictd_py.broker.references import ReferenceAdministrator
from verdictd_py.broker.referencesets import SetAdministrator
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
from verdictd_py.encoding import decode_object
from verdictd_py.errors import AlreadyExists, NotFound, RequestError
from verdictd_py.formats import imagepolicy
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

MAX_PAGE: Final = 1000
"""Names in one answer, some 200 bytes each."""

IMAGE_POLICY: Final = str(LEGACY_RESOURCES["Policy"])
SIGSTORE: Final = str(LEGACY_RESOURCES["Sigstore Config"])
COSIGN_KEY: Final = str(LEGACY_RESOURCES["Cosign Key"])
CREDENTIAL: Final = str(LEGACY_RESOURCES["Credential"])
KEYRING: Final = str(LEGACY_RESOURCES["GPG Keyring"])


class KeyAdministrator:
    """Keys by name; every use case asks first whether the caller may.

    Args:
        random: so many random bytes.
    """

    def __init__(
        self,
        *,
        keys: KeyStore,
        events: Events,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._keys = keys
        self._events = events
        self._random = random

    async def page(self, caller: Caller, after: str, limit: int) -> tuple[StoredName, ...]:
        """The next keys by name; a `limit` of 0 means as many as one answer holds.

        Raises:
            NotAuthorized, StorageError: see `KeyStore.page`.
        """
        caller.require(Right.MANAGE)
        return await self._keys.page(after, min(limit or MAX_PAGE, MAX_PAGE))

    async def describe(self, caller: Caller, name: str) -> StoredName:
        """A key without its bytes.

        Raises:
            NotAuthorized, RequestError, NotFound, StorageError: see `KeyStore.describe`.
        """
        caller.require(Right.MANAGE)
        return await self._keys.describe(KeyId.parse(name))

    async def create(self, caller: Caller, name: str = "") -> KeyId:
        """A new random key of that name, or of a UUID's; never over another.

        Raises:
            NotAuthorized, RequestError, AlreadyExists, StorageError: see `KeyStore.create`.
        """
        caller.require(Right.MANAGE)
        key_id = KeyId.parse(name or str(uuid4()))
        await self._keys.create(key_id, SecretBytes(self._random(KEY_BYTES)))
        self._events.record(KeyCreated(caller=caller.name, kid=str(key_id)))
        return key_id

    async def register(self, caller: Caller, name: str, key: SecretBytes) -> KeyId:
        """Stores a key that was made elsewhere; never over another.

        The same key of the same name once more is no error: whoever sends it cannot know
        whether it arrived.

        Raises:
            NotAuthorized, RequestError, AlreadyExists, StorageError: see `KeyStore.create`.
        """
        caller.require(Right.MANAGE)
        key_id = KeyId.parse(name)
        if len(key) != KEY_BYTES:
            raise RequestError(f"a key has {KEY_BYTES} bytes, this one has {len(key)}")
        try:
            await self._keys.create(key_id, key)
        except AlreadyExists:
            with suppress(NotFound):
                if await self._keys.get(key_id) == key:
                    return key_id
            raise
        self._events.record(KeyRegistered(caller=caller.name, kid=str(key_id)))
        return key_id

    async def get(self, caller: Caller, name: str) -> SecretBytes:
        """A key's bytes: for `Right.READ_KEYS` only, and in the audit trail.

        Raises:
            NotAuthorized, RequestError, NotFound, StorageError: see `KeyStore.get`.
        """
        caller.require(Right.READ_KEYS)
        key_id = KeyId.parse(name)
        key = await self._keys.get(key_id)
        self._events.record(KeyExported(caller=caller.name, kid=str(key_id)))
        return key

    async def delete(self, caller: Caller, name: str) -> None:
        """Deletes a key; what it wrapped can never be opened again.

        Raises:
            NotAuthorized, RequestError, NotFound, StorageError: see `KeyStore.delete`.
        """
        caller.require(Right.MANAGE)
        key_id = KeyId.parse(name)
        await self._keys.delete(key_id)
        self._events.record(KeyDeleted(caller=caller.name, kid=str(key_id)))


class ResourceAdministrator:
    """Resources by path, and those of them that have a form of their own."""

    def __init__(
        self, *, resources: ResourceStore, keyrings: KeyringEditor, events: Events
    ) -> None:
        self._resources = resources
        self._keyrings = keyrings
        self._events = events

    async def page(self, caller: Caller, after: str, limit: int) -> tuple[StoredName, ...]:
        """The next resources by path; a `limit` of 0 means as many as one answer holds.

        Raises:
            NotAuthorized, StorageError: see `ResourceStore.page`.
        """
        caller.require(Right.MANAGE)
        return await self._resources.page(after, min(limit or MAX_PAGE, MAX_PAGE))

    async def get(self, caller: Caller, path: str) -> SecretBytes:
        """A resource or the file behind an alias; never a key.

        Raises:
            NotAuthorized, RequestError, NotFound, StorageError: see `ResourceStore.get`.
        """
        caller.require(Right.MANAGE)
        found = await self._resources.get(ResourcePath.parse(path))
        self._events.record(ResourceExported(caller=caller.name, path=found.path))
        return found.content

    async def set(
        self, caller: Caller, path: str, content: SecretBytes, *, force: bool = False
    ) -> tuple[str, ...]:
        """Creates or replaces a resource, or the file behind an alias.

        Args:
            force: store it although guests cannot use it; what no guest may have is
                refused all the same.

        Returns:
            What is wrong with it, a line each; nothing unless `force`.

        Raises:
            NotAuthorized, RequestError, AlreadyExists, StorageError: see
                `ResourceStore.put`; also for content that guests cannot use.
        """
        caller.require(Right.MANAGE)
        parsed = ResourcePath.parse(path)
        problems = _problems(path, content.reveal())
        if path == KEYRING:
            self._keyrings.add(b"", content.reveal())  # refuses what is no keyring
        if problems and not force:
            raise RequestError(f"guests could not use this: {'; '.join(problems)}")
        await self._put(caller, parsed, content)
        return problems

    async def delete(self, caller: Caller, path: str) -> None:
        """Deletes a resource or the file behind an alias.

        Raises:
            NotAuthorized, RequestError, NotFound, StorageError: see `ResourceStore.delete`.
        """
        caller.require(Right.MANAGE)
        await self._resources.delete(ResourcePath.parse(path))
        self._events.record(ResourceDeleted(caller=caller.name, path=path))

    async def describe_keyring(self, caller: Caller) -> str:
        """Return the keyring's certificates as text for people.

        Raises:
            NotAuthorized, StorageError: see `KeyringEditor.describe`.
        """
        keyring = await self.keyring(caller)
        return self._keyrings.describe(keyring)

    async def keyring(self, caller: Caller) -> bytes:
        """Return the keyring as guests get it; empty if there is none.

        Raises:
            NotAuthorized, StorageError: see `ResourceStore.get`.
        """
        caller.require(Right.MANAGE)
        return (await self._stored_keyring())[0]

    async def import_certificates(self, caller: Caller, certificates: bytes) -> None:
        """Add OpenPGP certificates to the keyring.

        Raises:
            NotAuthorized, RequestError, StorageError: see `KeyringEditor.add`.
            Conflict: others kept changing the keyring.
        """
        caller.require(Right.MANAGE)
        await self._change_keyring(
            caller, lambda keyring: self._keyrings.add(keyring, certificates)
        )

    async def delete_certificate(self, caller: Caller, which: str) -> None:
        """Remove one certificate from the keyring.

        Raises:
            NotAuthorized, NotFound, RequestError, StorageError: see `KeyringEditor.remove`.
            Conflict: others kept changing the keyring.
        """
        caller.require(Right.MANAGE)
        await self._change_keyring(caller, lambda keyring: self._keyrings.remove(keyring, which))

    async def _change_keyring(self, caller: Caller, edit: Callable[[bytes], bytes]) -> None:
        """Edit the keyring by compare-and-swap, again while others change it."""
        path = ResourcePath.parse(KEYRING)

        async def attempt() -> None:
            keyring, expected = await self._stored_keyring()
            changed = edit(keyring)
            if changed:
                await self._put(caller, path, SecretBytes(changed), expected)
            else:
                await self._resources.delete(path, expected=expected)
                self._events.record(ResourceDeleted(caller=caller.name, path=KEYRING))

        await retry_on_conflict(attempt)

    async def _stored_keyring(self) -> tuple[bytes, Expected]:
        """Return the keyring, empty if there is none, and its revision."""
        try:
            found = await self._resources.get(ResourcePath.parse(KEYRING))
        except NotFound:
            return b"", ABSENT
        return found.content.reveal(), found.revision

    async def _put(
        self, caller: Caller, path: ResourcePath, content: SecretBytes, expected: Expected = ANY
    ) -> None:
        stored = await self._resources.put(path, content, expected=expected)
        self._events.record(ResourceSet(caller=caller.name, path=stored.path, content=content))


def _problems(path: str, content: bytes) -> tuple[str, ...]:
    """Why guests could not use `content`, a line each."""
    if path == IMAGE_POLICY:
        return imagepolicy.problems(content)
    if path == COSIGN_KEY and not _is_public_key(content):
        return ("it is no PEM public key; store cosign.pub, not a certificate or a private key",)
    if path == CREDENTIAL:
        try:
            decode_object(content, "the credential")
        except RequestError as error:
            return (f"{error}; store an auth.json, as podman login writes it",)
    return ()


def _is_public_key(content: bytes) -> bool:
    """Whether it is what `cosign generate-key-pair` writes as cosign.pub (RFC 7468, 13)."""
    try:
        load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        return False
    return True


@dataclass(frozen=True, slots=True)
class Administration:
    """What operators may do, as the services of both packages need it."""

    keys: KeyAdministrator
    resources: ResourceAdministrator
    documents: DocumentAdministrator
    references: ReferenceAdministrator
    sets: SetAdministrator
    policy_tests: PolicyTests
