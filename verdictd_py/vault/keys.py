"""Keys that are stored in Vault, wrapped by a key of Transit.

A key of a guest's image is an entry of KV version 2 with the field `transit`: the ciphertext of its
32 bytes. The name of the key is the `associated_data`, so that an entry that is copied to another
name cannot be unwrapped. The broker unwraps a key when it is used: guests of all generations can
open what it wraps.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Final

from verdictd_py.domain.names import KeyId
from verdictd_py.domain.secrets import KEY_BYTES, SecretBytes
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import Conflict, NotFound, RequestError, StorageError
from verdictd_py.formats.stored import key_exists, names_resource, require_key
from verdictd_py.ports import StoredName
from verdictd_py.vault.client import OK, VaultClient
from verdictd_py.vault.entries import KvEntries
from verdictd_py.vault.resources import UNKNOWN, KvNames, require_writable

FIELD: Final = "transit"
_CIPHERTEXT: Final = re.compile(r"vault:v[1-9][0-9]{0,9}:[A-Za-z0-9+/]{1,4096}={0,2}")


class TransitKeyStore:
    """Port `KeyStore` below a prefix.

    Args:
        transit: segments of the mount of Transit, and the name of the key that wraps.
        writable: whether keys may be created and deleted here.
        resources: entries of the resources below the prefix: a name is a key or a resource.
    """

    def __init__(
        self,
        client: VaultClient,
        entries: KvEntries,
        prefix: Sequence[str],
        transit: Sequence[str],
        *,
        writable: bool = False,
        resources: KvEntries | None = None,
    ) -> None:
        self._resources = resources
        self._client = client
        self._entries = entries
        self._names = KvNames(entries, prefix)
        self._mount, self._name = "/".join(transit[:-1]), transit[-1]
        self._writable = writable

    async def page(
        self, after: str, limit: int, *, started: int | None = None
    ) -> tuple[StoredName, ...]:
        del started  # every page is read again
        names = await self._names.after(after, limit)
        return tuple(StoredName(name, f"keys/{name}", KEY_BYTES, UNKNOWN) for name in names)

    async def has_prefix(self, prefix: str) -> bool:
        return await self._names.any_with(prefix)

    async def describe(self, key_id: KeyId) -> StoredName:
        await self._wrapped(key_id)
        return StoredName(str(key_id), f"keys/{key_id}", KEY_BYTES, UNKNOWN)

    async def get(self, key_id: KeyId) -> SecretBytes:
        body: dict[str, JsonValue] = {"ciphertext": await self._wrapped(key_id)}
        plaintext = await self._transit("decrypt", key_id, body, "plaintext")
        try:
            key = base64.b64decode(plaintext, validate=True)
        except ValueError:  # not base64, or not even ASCII
            key = b""
        if len(key) != KEY_BYTES:
            raise StorageError(f"the key {key_id} does not have {KEY_BYTES} bytes")
        return SecretBytes(key)

    async def create(self, key_id: KeyId, key: SecretBytes) -> None:
        require_writable(self._writable, key_id)
        require_key(key)
        try:
            rest = self._names.rest(key_id)
            if self._resources is not None and await self._resources.exists(rest):
                raise names_resource(key_id)
            entry = await self._entries.read(rest)
            if entry.fields is not None:
                raise key_exists(key_id)
            body: dict[str, JsonValue] = {"plaintext": base64.b64encode(key.reveal()).decode()}
            await self._require_key()
            wrapped = await self._transit("encrypt", key_id, body, "ciphertext")
            await self._entries.write(rest, {FIELD: wrapped}, after=entry.version)
        except Conflict:
            raise key_exists(key_id) from None
        except StorageError as error:
            raise _about(key_id, error) from None

    async def adopt(self, key_id: KeyId) -> None:
        raise RequestError(
            f"{key_id} is below the prefix of a resource_backend with transit_key: resources do "
            "not become keys there; create a key"
        )

    async def delete(self, key_id: KeyId) -> None:
        require_writable(self._writable, key_id)
        await self._wrapped(key_id)
        try:
            await self._entries.delete(self._names.rest(key_id))
        except StorageError as error:
            raise _about(key_id, error) from None

    async def _wrapped(self, key_id: KeyId) -> str:
        try:
            entry = await self._entries.read(self._names.rest(key_id))
        except StorageError as error:
            raise _about(key_id, error) from None
        if entry.fields is None:
            raise NotFound(f"there is no key {key_id}")
        wrapped = entry.fields.get(FIELD)
        if not isinstance(wrapped, str) or not _CIPHERTEXT.fullmatch(wrapped):
            raise StorageError(
                f"the key {key_id} cannot be used: its entry must have the field {FIELD!r} with a "
                "ciphertext of Transit"
            )
        return wrapped

    async def _require_key(self) -> None:
        """Return if the key of Transit exists: `encrypt` would create it."""
        answer = await self._client.request("GET", f"{self._mount}/keys/{self._name}")
        if answer.status != OK:
            raise StorageError(f"Transit has no key {self._name} in {self._mount}/")

    async def _transit(
        self, action: str, key_id: KeyId, body: dict[str, JsonValue], member: str
    ) -> str:
        bound = body | {"associated_data": base64.b64encode(str(key_id).encode()).decode()}
        path = f"{self._mount}/{action}/{self._name}"
        try:
            answer = await self._client.request("POST", path, bound)
            value = answer.data.get(member) if answer.status == OK else None
        except StorageError as error:
            raise _about(key_id, error) from None
        if not isinstance(value, str):
            raise StorageError(
                f"the key {key_id} cannot be used: Transit refuses to {action} it; was it wrapped "
                "for this name?"
            )
        return value


def _about(key_id: KeyId, error: StorageError) -> StorageError:
    return StorageError(f"the key {key_id} cannot be reached: {error}")
