"""Stores of keys and resources, and the editor of keyrings."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from verdictd_py.domain.appraisal import DecidedBy
from verdictd_py.domain.names import KeyId, ResourcePath
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.ports.revisions import ANY, Expected, revision_of


class Kind(StrEnum):
    """Type of a stored object, in the release policy's input and in the audit trail."""

    KEY = "key"
    RESOURCE = "resource"
    IMAGE = "image"


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A stored object with its canonical path (`keys/default/key/1`, `image/policy.json`).

    Attributes:
        decided_by: the documents by which its release was allowed; None before that.
    """

    kind: Kind
    path: str
    content: SecretBytes
    decided_by: DecidedBy | None = field(default=None, compare=False)

    @property
    def revision(self) -> str:
        """Revision of the content, for `expected`. It identifies the content: never log it."""
        return revision_of(self.content.reveal())


@dataclass(frozen=True, slots=True)
class StoredName:
    """Description of a stored object, without its content.

    Attributes:
        name: name of the key, or path of the resource.
        file: canonical path, as in `StoredObject`.
        size: size in bytes.
        changed: time of the last change, aware.
        problem: why the object cannot be used; empty if it can.
    """

    name: str
    file: str
    size: int
    changed: datetime
    problem: str = ""


class KeyStore(Protocol):
    """Store of keys of exactly 32 bytes."""

    async def page(
        self, after: str, limit: int, *, started: int | None = None
    ) -> tuple[StoredName, ...]:
        """Return the first `limit` keys whose names follow `after`, sorted by name.

        Args:
            started: value of `time.monotonic_ns` before the first page of the same list was
                requested: keys created since then may be missing. None: every key of now.

        Raises:
            StorageError: the keys cannot be listed.
        """
        ...

    async def has_prefix(self, prefix: str) -> bool:
        """Return whether the name of a key begins with `prefix`; also if that takes too long.

        Raises:
            StorageError: the keys cannot be listed.
        """
        ...

    async def describe(self, key_id: KeyId) -> StoredName:
        """Describe a key, without its bytes.

        Raises:
            NotFound, StorageError: see `get`; but a wrong size is not an error here.
        """
        ...

    async def get(self, key_id: KeyId) -> SecretBytes:
        """Return the bytes of a key.

        Raises:
            NotFound: there is no such key.
            StorageError: the stored key has a wrong size, or cannot be read.
        """
        ...

    async def create(self, key_id: KeyId, key: SecretBytes) -> None:
        """Store a new key.

        Raises:
            AlreadyExists: a key, a resource or an alias has that name.
            StorageError: the key does not have 32 bytes, or could not be written.
        """
        ...

    async def adopt(self, key_id: KeyId) -> None:
        """Make the resource of that path a key of that name, with the same bytes, in one step.

        If the process ends within the step, the resource and the key have the same bytes, and
        the step can be repeated.

        Raises:
            NotFound: there is no resource of that path.
            RequestError: the resource does not have 32 bytes, or is a file behind an alias.
            AlreadyExists: another key has that name.
            StorageError: it could not be read or written.
        """
        ...

    async def delete(self, key_id: KeyId) -> None:
        """Delete a key.

        Raises:
            NotFound: there is no such key.
            StorageError: it could not be deleted.
        """
        ...


class ResourceStore(Protocol):
    """Store of resources, including the aliases of the image directory (storage.md)."""

    def file_of(self, path: ResourcePath) -> str:
        """Return the canonical path of what `put` stores, as in `StoredObject`."""
        ...

    async def page(
        self,
        after: str,
        limit: int,
        *,
        started: int | None = None,
        types: Collection[str] | None = None,
    ) -> tuple[StoredName, ...]:
        """Return the first `limit` resources whose paths follow `after`, sorted by path.

        Args:
            started: as for `KeyStore.page`.
            types: second segments of the paths to list; None for all.

        Raises:
            StorageError: the resources cannot be listed.
        """
        ...

    async def has_prefix(self, prefix: str) -> bool:
        """Return whether the path of a resource begins with `prefix`; also if that takes too long.

        Raises:
            StorageError: the resources cannot be listed.
        """
        ...

    async def get(self, path: ResourcePath) -> StoredObject:
        """Return the resource, or the file behind the alias; never a key.

        Raises:
            NotFound: there is neither a resource nor an alias of that path.
            StorageError: it cannot be served; the message has the reason, without a path.
        """
        ...

    async def inspect(self, path: ResourcePath) -> StoredObject:
        """Return what `get` returns, for a check; no use of the content is recorded.

        Raises:
            NotFound, StorageError: see `get`.
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
            Conflict: the stored content has changed; the caller reads it again.
            RequestError: the content is empty (no guest could fetch it).
            AlreadyExists: a key has that name.
            StorageError: it could not be written.
        """
        ...

    async def delete(self, path: ResourcePath, *, expected: Expected = ANY) -> None:
        """Delete a resource or the file behind an alias.

        Args:
            expected: as for `put`.

        Raises:
            Conflict: the stored content has changed; the caller reads it again.
            NotFound: there is neither a resource nor an alias of that path.
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
