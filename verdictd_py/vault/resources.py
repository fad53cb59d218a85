"""Resources from entries of KV version 2.

An entry has exactly one of two fields: `value`, text that guests get in UTF-8, or `base64`, base64
of the bytes. Other fields are ignored; both, or neither, are refused.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from verdictd_py.domain.names import Name, ResourcePath
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import (
    Conflict,
    NotAuthorized,
    NotFound,
    RequestError,
    StorageError,
)
from verdictd_py.formats.stored import (
    names_key,
    require_served,
    require_storable,
    resource_changed,
)
from verdictd_py.offload import offload
from verdictd_py.ports import ANY, Expected, Kind, StoredName, StoredObject, has_revision
from verdictd_py.vault.entries import Entry, KvEntries

TEXT: Final = "value"
BINARY: Final = "base64"
UNKNOWN: Final = datetime.fromtimestamp(0, UTC)
"""Time of the last change in lists: Vault's lists have names only."""


class KvNames:
    """Names below a prefix, read folder by folder.

    Args:
        prefix: one or two first segments of the names.
    """

    def __init__(self, entries: KvEntries, prefix: Sequence[str]) -> None:
        self._entries = entries
        self.prefix = tuple(prefix)

    def rest(self, name: Name) -> tuple[str, ...]:
        """Return the segments of the entry of a name."""
        return name.segments[len(self.prefix) :]

    async def after(
        self, after: str, limit: int, types: Collection[str] | None = None
    ) -> list[str]:
        """Return the first `limit` names that follow `after`, sorted."""
        names: list[str] = []
        async for name in self._sorted(after, types):
            if name > after:
                names.append(name)
            if len(names) >= limit:
                break
        return names

    async def any_with(self, beginning: str) -> bool:
        """Tell whether a name begins so."""
        async for name in self._sorted("", None):
            if name.startswith(beginning):
                return True
        return False

    async def _sorted(self, after: str, types: Collection[str] | None) -> AsyncIterator[str]:
        if len(self.prefix) == 2:
            folders = [self.prefix[1] + "/"]
        else:
            folders = sorted(name for name in await self._entries.names(()) if name.endswith("/"))
        for folder in folders:
            kind = folder.removesuffix("/")
            top = f"{self.prefix[0]}/{folder}"
            earlier = top < after and not after.startswith(top)
            if earlier or (types is not None and kind not in types) or not _is_name(f"a/b/{kind}"):
                continue
            inner = (kind,) if len(self.prefix) == 1 else ()
            for name in sorted(await self._entries.names(inner)):
                if _is_name(top + name):
                    yield top + name


class KvResourceStore:
    """Port `ResourceStore` below a prefix; without aliases.

    Args:
        writable: whether the management API may change entries.
        keys: entries of the keys below the prefix: a name is a key or a resource.
    """

    def __init__(
        self,
        entries: KvEntries,
        prefix: Sequence[str],
        *,
        writable: bool = False,
        keys: KvEntries | None = None,
    ) -> None:
        self._keys = keys
        self._entries = entries
        self._names = KvNames(entries, prefix)
        self._writable = writable

    def file_of(self, path: ResourcePath) -> str:
        return f"resources/{path}"

    async def page(
        self,
        after: str,
        limit: int,
        *,
        started: int | None = None,
        types: Collection[str] | None = None,
    ) -> tuple[StoredName, ...]:
        del started  # every page is read again
        names = await self._names.after(after, limit, types)
        return tuple(StoredName(name, f"resources/{name}", 0, UNKNOWN) for name in names)

    async def has_prefix(self, prefix: str) -> bool:
        return await self._names.any_with(prefix)

    async def get(self, path: ResourcePath) -> StoredObject:
        return await self._object(path, await self._read(path))

    async def inspect(self, path: ResourcePath) -> StoredObject:
        return await self.get(path)

    async def put(
        self, path: ResourcePath, content: SecretBytes, *, expected: Expected = ANY
    ) -> StoredObject:
        require_writable(self._writable, path)
        await offload(len(content), partial(require_storable, path, content.reveal()))
        try:
            is_key = self._keys is not None and await self._keys.exists(self._names.rest(path))
        except StorageError as error:
            raise _about(path, error) from None
        if is_key:
            raise names_key(path)
        await self._write(path, _fields(content.reveal()), expected)
        return StoredObject(Kind.RESOURCE, self.file_of(path), content)

    async def delete(self, path: ResourcePath, *, expected: Expected = ANY) -> None:
        require_writable(self._writable, path)
        if expected is ANY:
            if (await self._read(path)).fields is None:
                raise NotFound(f"there is no resource {path}")
        else:
            # KV version 2 has no `cas` for a deletion: an empty version is written with one before.
            # See docs/vault.md for what happens to a version that is written in between.
            await self._write(path, {}, expected)
        try:
            await self._entries.delete(self._names.rest(path))
        except StorageError as error:
            raise _about(path, error) from None

    async def _write(
        self, path: ResourcePath, fields: Mapping[str, JsonValue], expected: Expected
    ) -> None:
        after = None
        if expected is not ANY:
            entry = await self._read(path)
            content = None
            if entry.fields is not None:
                content = (await self._object(path, entry)).content.reveal()
            if not has_revision(content, expected):
                raise resource_changed(path)
            if content is None and not fields:
                raise NotFound(f"there is no resource {path}")
            after = entry.version
        try:
            await self._entries.write(self._names.rest(path), fields, after=after)
        except Conflict:
            raise resource_changed(path) from None
        except StorageError as error:
            raise _about(path, error) from None

    async def _read(self, path: ResourcePath) -> Entry:
        try:
            return await self._entries.read(self._names.rest(path))
        except StorageError as error:
            raise _about(path, error) from None

    async def _object(self, path: ResourcePath, entry: Entry) -> StoredObject:
        if entry.fields is None:
            raise NotFound(f"there is no resource {path}")
        try:
            content = _content(entry.fields)
        except ValueError as error:
            raise StorageError(f"the resource {path} cannot be served: {error}") from None
        await offload(len(content), partial(require_served, path, content))
        return StoredObject(Kind.RESOURCE, self.file_of(path), SecretBytes(content))


def require_writable(writable: bool, name: Name) -> None:
    """Return if entries may be changed.

    Raises:
        NotAuthorized: they are read only.
    """
    if not writable:
        raise NotAuthorized(
            f"{name} is in Vault, which is read only here: change it in Vault, or set writable = "
            "true in its resource_backend"
        )


def _is_name(text: str) -> bool:
    try:
        ResourcePath.parse(text)
    except RequestError:
        return False
    return True


def _content(fields: Mapping[str, Any]) -> bytes:
    """Return the content of an entry.

    Raises:
        ValueError: it has none; the message has the remedy, and no value.
    """
    present = [name for name in (TEXT, BINARY) if name in fields]
    if len(present) != 1:
        raise ValueError(f"its entry must have one field of {TEXT!r} (text) and {BINARY!r}")
    value = fields[present[0]]
    if not isinstance(value, str) or not value:
        raise ValueError(f"the field {present[0]!r} of its entry is empty, or no text")
    try:
        if present[0] == TEXT:
            return value.encode()
        return base64.b64decode("".join(value.split()), validate=True)
    except ValueError:  # not base64, or no characters
        raise ValueError(f"the field {present[0]!r} of its entry cannot be decoded") from None


def _fields(content: bytes) -> dict[str, JsonValue]:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return {BINARY: base64.b64encode(content).decode()}
    return {TEXT: text}


def _about(path: ResourcePath, error: StorageError) -> StorageError:
    return StorageError(f"the resource {path} cannot be reached: {error}")
