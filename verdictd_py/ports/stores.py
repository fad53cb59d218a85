"""Where keys and resources are kept, and keyrings as bytes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from verdictd_py.domain.names import KeyId, ResourcePath
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.ports.revisions import ANY, Expected, revision_of


class Kind(StrEnum):
    """Kind of a stored object, as the release policy and the audit trail see it."""

    KEY = "key"
    RESOURCE = "resource"
    IMAGE = "image"


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A stored object with its canonical path (`keys/default/key/1`, `image/policy.json`)."""

    kind: Kind
    path: str
    content: SecretBytes

    @property
    def revision(self) -> str:
        """Revision of the content, for `expected`. It identifies the content: never log it."""
        return revision_of(self.content.reveal())


@dataclass(frozen=True, slots=True)
class StoredName:
    """What can be said of a stored object without its content.

    Attributes:
        name: of the key, or path of the resource.
        file: canonical path, as in `StoredObject`.
        size: bytes.
        changed: when it was written last, with a time zone.
        problem: why it cannot be used; empty where it can.
    """

    name: str
    file: str
    size: int
    changed: datetime
    problem: str = ""


class KeyStore(Protocol):
    """Keys of exactly 32 bytes."""

    async def page(self, after: str, limit: int) -> tuple[StoredName, ...]:
        """The first `limit` keys by name behind the name `after`.

        Raises:
            StorageError: they cannot be listed.
        """
        ...

    async def describe(self, key_id: KeyId) -> StoredName:
        """A key without its bytes.

        Raises:
            NotFound, StorageError: as `get`; a wrong size is no error here.
        """
        ...

    async def get(self, key_id: KeyId) -> SecretBytes:
        """The key's bytes.

        Raises:
            NotFound: no such key.
            StorageError: stored with a wrong size, or unreadable.
        """
        ...

    async def create(self, key_id: KeyId, key: SecretBytes) -> None:
        """Stores a new key.

        Raises:
            AlreadyExists: a key, a resource or an alias has that name.
            StorageError: not 32 bytes, or it could not be written.
        """
        ...

    async def delete(self, key_id: KeyId) -> None:
        """Deletes a key.

        Raises:
            NotFound: no such key.
            StorageError: it could not be deleted.
        """
        ...


class ResourceStore(Protocol):
    """Resources, the aliases of the image directory among them (storage.md)."""

    async def page(self, after: str, limit: int) -> tuple[StoredName, ...]:
        """The first `limit` resources by path behind the path `after`.

        Raises:
            StorageError: they cannot be listed.
        """
        ...

    async def get(self, path: ResourcePath) -> StoredObject:
        """The resource, or the file behind the alias; never a key.

        Raises:
            NotFound: neither.
            StorageError: it cannot be served; the message says why, without a path.
        """
        ...

    async def put(
        self, path: ResourcePath, content: SecretBytes, *, expected: Expected = ANY
    ) -> StoredObject:
        """Create or replace a resource or the file behind an alias, atomically.

        Args:
            expected: revision of what `get` returned, `ABSENT` or `ANY`. Comparison and
                replacement are one step for every process that uses the store.

        Raises:
            Conflict: something else is stored by now; the caller reads it again.
            RequestError: empty content (no guest could fetch it).
            AlreadyExists: a key has that name.
            StorageError: it could not be written.
        """
        ...

    async def delete(self, path: ResourcePath, *, expected: Expected = ANY) -> None:
        """Delete a resource or the file behind an alias.

        Args:
            expected: as for `put`.

        Raises:
            Conflict: something else is stored by now; the caller reads it again.
            NotFound: neither.
            StorageError: it could not be deleted.
        """
        ...


class KeyringEditor(Protocol):
    """Editor of OpenPGP keyrings: concatenated binary public certificates."""

    def add(self, keyring: bytes, certificates: bytes) -> bytes:
        """Return the keyring with more certificates, armoured or binary.

        Raises:
            RequestError: the certificates are damaged, or contain a secret key.
            StorageError: the keyring cannot be read.
        """
        ...

    def remove(self, keyring: bytes, which: str) -> bytes:
        """Return the keyring without one certificate, named by fingerprint, key id or e-mail.

        Raises:
            NotFound: no certificate matches.
            RequestError: several certificates match.
            StorageError: the keyring cannot be read.
        """
        ...

    def describe(self, keyring: bytes) -> str:
        """Return text for the operator: fingerprints, user ids, creation and expiry dates.

        Raises:
            StorageError: the keyring cannot be read.
        """
        ...
