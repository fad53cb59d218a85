"""Entries of a KV version 2 mount, below one path of it.

Vault answers 404 for an entry that is missing or deleted, and also for a path that no mount has.
Only the first means that there is no entry; everything unexpected is an outage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from verdictd_py.encoding import JsonValue
from verdictd_py.errors import Conflict, StorageError
from verdictd_py.vault.client import (
    BAD_REQUEST,
    NO_CONTENT,
    NOT_FOUND,
    OK,
    Answer,
    VaultClient,
    is_number,
)

MAX_NAMES: Final = 100_000
"""Maximum number of names in one folder; more are an error, not a shorter list."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry as it was read.

    Attributes:
        fields: its fields; None if it does not exist or was deleted.
        version: number of its newest version, 0 if it never existed.
    """

    fields: Mapping[str, Any] | None = field(repr=False)
    version: int


class KvEntries:
    """Entries below a path of a mount.

    Args:
        mount: segments of the mount.
        base: segments of the path, may be empty.
    """

    def __init__(self, client: VaultClient, mount: Sequence[str], base: Sequence[str]) -> None:
        self._client = client
        self._mount = "/".join(mount)
        self._base = tuple(base)

    async def read(self, segments: Sequence[str]) -> Entry:
        """Read an entry.

        Raises:
            StorageError: Vault does not answer, denies access, or answers nonsense.
        """
        answer = await self._client.request("GET", self._path("data", segments))
        if answer.status == NOT_FOUND and "data" not in answer.body:
            _require_no_errors(answer)
            return Entry(None, 0)
        if answer.status not in (OK, NOT_FOUND):
            raise _unexpected(answer)
        fields, metadata = answer.data.get("data"), answer.data.get("metadata")
        version = metadata.get("version") if isinstance(metadata, dict) else None
        if not is_number(version):
            raise StorageError("Vault's answer is none of KV version 2; is the mount of that type?")
        if fields is None and answer.status == NOT_FOUND:
            return Entry(None, version)
        if answer.status != OK or not isinstance(fields, dict):
            raise _unexpected(answer)
        return Entry(fields, version)

    async def exists(self, segments: Sequence[str]) -> bool:
        """Tell whether there is an entry.

        Raises:
            StorageError: see `read`.
        """
        return (await self.read(segments)).fields is not None

    async def write(
        self, segments: Sequence[str], fields: Mapping[str, JsonValue], *, after: int | None
    ) -> int:
        """Write a new version of an entry; return its number.

        Args:
            after: number of the newest version, 0 for none; None for any.

        Raises:
            Conflict: the entry has another newest version.
            StorageError: Vault does not answer, denies access, or answers nonsense.
        """
        body: dict[str, JsonValue] = {"data": dict(fields)}
        if after is not None:
            body["options"] = {"cas": after}
        answer = await self._client.request("POST", self._path("data", segments), body)
        compared = answer.status == BAD_REQUEST and after is not None
        if compared and (await self.read(segments)).version != after:
            raise Conflict("the entry has changed since it was read; read it again")
        if answer.status != OK:
            raise _unexpected(answer)
        version = answer.data.get("version")
        if not is_number(version):
            raise _unexpected(answer)
        return version

    async def delete(self, segments: Sequence[str]) -> None:
        """Delete the newest version of an entry; Vault retains it until it is destroyed.

        Raises:
            StorageError: Vault does not answer, denies access, or answers nonsense.
        """
        answer = await self._client.request("DELETE", self._path("data", segments))
        if answer.status not in (OK, NO_CONTENT):
            raise _unexpected(answer)

    async def names(self, segments: Sequence[str]) -> list[str]:
        """Return the names in a folder, unsorted; the names of folders end with `/`.

        Raises:
            StorageError: Vault does not answer, denies access, or answers nonsense.
        """
        answer = await self._client.request("LIST", self._path("metadata", segments))
        if answer.status == NOT_FOUND and "data" not in answer.body:
            _require_no_errors(answer)
            return []
        names = answer.data.get("keys") if answer.status == OK else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise _unexpected(answer)
        if len(names) > MAX_NAMES:
            raise StorageError(f"a folder in Vault has more than {MAX_NAMES} names")
        return names

    def _path(self, action: str, segments: Sequence[str]) -> str:
        return "/".join((self._mount, action, *self._base, *segments))


def _require_no_errors(answer: Answer) -> None:
    """Return if the answer says that an entry is missing: its list of errors is empty.

    Raises:
        StorageError: there are errors, for example that no mount has the path.
    """
    if answer.body.get("errors") != []:
        raise StorageError("Vault has no KV version 2 mount at this path; correct the URL")


def _unexpected(answer: Answer) -> StorageError:
    return StorageError(f"Vault refuses the request, or answers nonsense (status {answer.status})")
