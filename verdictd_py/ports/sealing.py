"""Sealing: encryption of stored objects under a key that is not stored with them.

Every sealed object has a data key of its own. A key-encryption key (KEK) wraps the data key, and
the envelope stores the wrapped data key and the id of the KEK's version. A KEK can be rotated:
its provider unwraps with every version that it still has, and wraps with the newest.

Stores use a `Sealer`; a store without one has plain objects. Providers (a key file, a PKCS#11
token, Vault) implement `KeyEncryptionKey` and pass `tests/conformance/sealing.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import StorageError

DATA_KEY_BYTES: Final = 32
"""Size of every data key: AES-256."""

MAX_VERSION_BYTES: Final = 255
"""Size limit of the id of a KEK's version, in UTF-8."""

MAX_WRAPPED_BYTES: Final = 4096
"""Size limit of a wrapped data key. RSA-4096 and Transit's text need less than 1 KiB."""


class SealBroken(StorageError):
    """The sealed object was altered, swapped, replaced by an older one, or is not sealed."""

    code = "seal-broken"


class SealUnavailable(StorageError):
    """The provider of the KEK does not answer or denies access, so nothing is sealed or unsealed.

    The message has the cause. It says nothing about the object.
    """

    code = "seal-unavailable"


@dataclass(frozen=True, slots=True)
class SealedName:
    """Name that an object is sealed under: an envelope is valid for exactly one name.

    Attributes:
        kind: type of the object, such as `key`, `resource`, `image`, `document`, `token-key`.
        path: canonical path, as in `StoredObject` (`keys/default/key/1`).
        revision: number of the object's revision, 1 or more; 0 if the store has no revisions.
    """

    kind: str
    path: str
    revision: int = 0


class Sealer(Protocol):
    """Seals and unseals whole objects. Stores use it."""

    async def seal(self, name: SealedName, content: bytes) -> bytes:
        """Return the content, sealed under a new data key and the newest version of the KEK.

        Raises:
            SealUnavailable: the provider of the KEK does not answer; the message has the cause.
        """
        ...

    async def unseal(self, name: SealedName, sealed: bytes) -> bytes:
        """Return the content of a sealed object.

        Raises:
            SealBroken: the bytes are not sealed, were altered, or were sealed under another
                name, revision or KEK. The message names the object.
            SealUnavailable: the provider of the KEK does not answer; the message has the cause.
        """
        ...


class KeyEncryptionKey(Protocol):
    """Key-encryption key in its provider. The entry point group is `verdictd_py.seals`.

    All methods may be called concurrently. `wrap` and `unwrap` never block the event loop, and
    end within a time limit of the provider's own.
    """

    @property
    def current(self) -> str:
        """Id of the newest version: 1 to 255 bytes of printable ASCII, without spaces.

        Empty before the first call of another method. It stays valid for the same key material in
        every process and on every machine, and is not secret. It may change at any time, when the
        KEK is rotated.
        """
        ...

    async def wrap(self, data_key: SecretBytes, context: bytes) -> bytes:
        """Wrap a data key of 32 bytes under the newest version; return at most 4,096 bytes.

        When it returns, `current` is the version that was used, unless another call has changed
        it since: callers compare `current` before and after, and wrap again if it differs.

        Args:
            context: bytes that must be the same when the key is unwrapped.

        Raises:
            SealUnavailable: the provider does not answer or denies access.
        """
        ...

    async def unwrap(self, version: str, wrapped: bytes, context: bytes) -> SecretBytes:
        """Unwrap a data key.

        Args:
            version: id of the version that wrapped it.

        Raises:
            SealBroken: the wrapped key or the context was altered, or the version is unknown.
            SealUnavailable: the provider does not answer or denies access.
        """
        ...

    async def check(self) -> None:
        """Verify that the KEK can be used now, for readiness. Also refreshes `current`.

        Raises:
            SealUnavailable: the provider does not answer or denies access, with the cause.
        """
        ...

    async def close(self) -> None:
        """Release sessions and connections. The KEK is not used afterwards."""
        ...


class OpenKey(Protocol):
    """Opens a KEK. The value of an entry point of the group `verdictd_py.seals` is one.

    The name of the entry point is the scheme of `--seal`: `acme` for `--seal acme:...`.
    """

    def __call__(self, location: str) -> KeyEncryptionKey:
        """Return the KEK at a location; connect to nothing before it is used.

        Args:
            location: the whole value of `--seal`, with its scheme. It has no secrets: a PIN or a
                token is in a file that it names.

        Raises:
            ConfigError: the location cannot be used; the message has the cause and the remedy.
        """
        ...
