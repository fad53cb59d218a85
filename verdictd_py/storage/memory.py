"""Stores in the memory of this process, for tests and rehearsals.

They behave like the stores on a directory: `tests/conformance` runs one suite against both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from heapq import nsmallest

from verdictd_py.domain.names import KeyId, Name, ResourcePath
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import AlreadyExists, Conflict, NotFound
from verdictd_py.formats.contents import withheld
from verdictd_py.formats.stored import (
    ALIASES,
    EMPTY,
    KEYS,
    RESOURCES,
    adoptable,
    key_exists,
    key_problem,
    names_key,
    names_resource,
    require_key,
    require_served,
    require_storable,
    resource_changed,
    target_of,
    usable_key,
)
from verdictd_py.ports import (
    ANY,
    Document,
    Expected,
    Kind,
    StoredName,
    StoredObject,
    Tees,
    has_revision,
)
from verdictd_py.storage.documents import OPA, PolicyFileNames

Files = dict[tuple[str, ...], bytes]
"""File contents by name below the root, as in a data directory; shared by keys and resources."""


class MemoryDocumentStore(PolicyFileNames):
    """Port `DocumentStore`. Every call yields to other tasks, as a directory store does."""

    def __init__(self, tees: Tees, texts: Mapping[str, str] | None = None) -> None:
        super().__init__(tees)
        self.texts = dict(texts or {})

    async def get(self, name: Name) -> Document:
        await asyncio.sleep(0)
        if str(name) not in self.texts:
            raise NotFound(f"{OPA}/{name} is missing")
        return Document.of(self.texts[str(name)])

    async def snapshot(self, names: Sequence[Name]) -> Mapping[Name, Document]:
        await asyncio.sleep(0)
        return {
            name: Document.of(self.texts[str(name)]) for name in names if str(name) in self.texts
        }

    async def put(
        self,
        name: Name,
        text: str,
        *,
        expected: Expected,
        unchanged: Mapping[Name, Expected] | None = None,
    ) -> str:
        await asyncio.sleep(0)
        self._require({**(unchanged or {}), name: expected})
        document = Document.of(text)
        self.texts[str(name)] = text
        return document.revision

    async def names(self) -> tuple[Name, ...]:
        await asyncio.sleep(0)
        return tuple(sorted(Name.parse(name) for name in self.texts))

    async def delete(
        self, name: Name, *, expected: Expected, unchanged: Mapping[Name, Expected] | None = None
    ) -> None:
        await asyncio.sleep(0)
        if str(name) not in self.texts:
            raise NotFound(f"{OPA}/{name} is missing")
        self._require({**(unchanged or {}), name: expected})
        del self.texts[str(name)]

    def _require(self, wanted: Mapping[Name, Expected]) -> None:
        for name, revision in wanted.items():
            stored = self.texts.get(str(name))
            if not has_revision(None if stored is None else stored.encode(), revision):
                raise Conflict(f"{OPA}/{name} has changed since it was read; read it again")


class MemoryKeyStore:
    """Port `KeyStore` in memory.

    Args:
        files: shared with a `MemoryResourceStore`, so that no name is both key and resource.
    """

    def __init__(self, files: Files | None = None) -> None:
        self.files = {} if files is None else files

    async def page(
        self, after: str, limit: int, *, started: int | None = None
    ) -> tuple[StoredName, ...]:
        del started
        await asyncio.sleep(0)
        keys = (file for file in self.files if file[0] == KEYS)
        return _page((self._described(file) for file in keys), after, limit)

    async def has_prefix(self, prefix: str) -> bool:
        await asyncio.sleep(0)
        keys = (file[1:] for file in self.files if file[0] == KEYS)
        return any("/".join(name).startswith(prefix) for name in keys)

    async def describe(self, key_id: KeyId) -> StoredName:
        await asyncio.sleep(0)
        file = (KEYS, *key_id.segments)
        if file not in self.files:
            raise NotFound(f"there is no key {key_id}")
        return self._described(file)

    async def get(self, key_id: KeyId) -> SecretBytes:
        await asyncio.sleep(0)
        content = self.files.get((KEYS, *key_id.segments))
        if content is None:
            raise NotFound(f"there is no key {key_id}")
        return usable_key(key_id, content)

    async def create(self, key_id: KeyId, key: SecretBytes) -> None:
        await asyncio.sleep(0)
        require_key(key)
        if key_id.segments in ALIASES or (RESOURCES, *key_id.segments) in self.files:
            raise names_resource(key_id)
        if (KEYS, *key_id.segments) in self.files:
            raise key_exists(key_id)
        self.files[(KEYS, *key_id.segments)] = key.reveal()

    async def adopt(self, key_id: KeyId) -> None:
        await asyncio.sleep(0)
        resource, key = (RESOURCES, *key_id.segments), (KEYS, *key_id.segments)
        if resource not in self.files:
            raise NotFound(f"there is no resource {key_id}")
        content = adoptable(key_id, self.files[resource])
        if self.files.get(key, content) != content:
            raise AlreadyExists(f"the key {key_id} exists already, with other bytes")
        self.files[key] = content
        del self.files[resource]

    async def delete(self, key_id: KeyId) -> None:
        await asyncio.sleep(0)
        if self.files.pop((KEYS, *key_id.segments), None) is None:
            raise NotFound(f"there is no key {key_id}")

    def _described(self, file: tuple[str, ...]) -> StoredName:
        size = len(self.files[file])
        problem = key_problem(size)
        return _stored_name(file, "/".join(file[1:]), size, problem)


class MemoryResourceStore:
    """Port `ResourceStore` in memory, including the aliases of the image directory.

    Args:
        files: shared with a `MemoryKeyStore`, so that no name is both key and resource.
    """

    def __init__(self, files: Files | None = None) -> None:
        self.files = {} if files is None else files

    def file_of(self, path: ResourcePath) -> str:
        return "/".join(target_of(path))

    async def page(
        self,
        after: str,
        limit: int,
        *,
        started: int | None = None,
        types: Collection[str] | None = None,
    ) -> tuple[StoredName, ...]:
        del started
        await asyncio.sleep(0)
        files = self._by_path().items()
        selected = ((path, file) for path, file in files if types is None or path[1] in types)
        return _page((self._described(path, file) for path, file in selected), after, limit)

    async def has_prefix(self, prefix: str) -> bool:
        await asyncio.sleep(0)
        return any("/".join(path).startswith(prefix) for path in self._by_path())

    def _by_path(self) -> dict[tuple[str, ...], tuple[str, ...]]:
        files = {file[1:]: file for file in self.files if file[0] == RESOURCES}
        for path, alias in ALIASES.items():
            if alias in self.files:
                files.setdefault(path, alias)
        return files

    async def get(self, path: ResourcePath) -> StoredObject:
        await asyncio.sleep(0)
        return self._get(path)

    async def inspect(self, path: ResourcePath) -> StoredObject:
        return await self.get(path)

    async def put(
        self, path: ResourcePath, content: SecretBytes, *, expected: Expected = ANY
    ) -> StoredObject:
        await asyncio.sleep(0)
        require_storable(path, content.reveal())
        target = target_of(path)
        self._require(path, expected)
        if target[0] == RESOURCES and (KEYS, *path.segments) in self.files:
            raise names_key(path)
        self.files[target] = content.reveal()
        kind = Kind.RESOURCE if target[0] == RESOURCES else Kind.IMAGE
        return StoredObject(kind, "/".join(target), content)

    async def delete(self, path: ResourcePath, *, expected: Expected = ANY) -> None:
        await asyncio.sleep(0)
        self._require(path, expected)
        if self.files.pop(target_of(path), None) is None:
            raise NotFound(f"there is no resource {path}")

    def _get(self, path: ResourcePath) -> StoredObject:
        own = (RESOURCES, *path.segments)
        alias = ALIASES.get(path.segments)
        file = own if own in self.files or alias is None else alias
        if file not in self.files:
            raise NotFound(f"there is no resource {path}")
        require_served(path, self.files[file])
        kind = Kind.RESOURCE if file == own else Kind.IMAGE
        return StoredObject(kind, "/".join(file), SecretBytes(self.files[file]))

    def _require(self, path: ResourcePath, expected: Expected) -> None:
        if expected is ANY:
            return
        try:
            content = self._get(path).content.reveal()
        except NotFound:
            content = None
        if not has_revision(content, expected):
            raise resource_changed(path)

    def _described(self, path: tuple[str, ...], file: tuple[str, ...]) -> StoredName:
        content = self.files[file]
        problem = withheld(path, content)
        if not content:
            problem = EMPTY
        return _stored_name(file, "/".join(path), len(content), problem)


class MemoryCollateralStore:
    """Port `CollateralStore` in memory."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}

    async def names(self) -> tuple[str, ...]:
        await asyncio.sleep(0)
        return tuple(sorted(self.contents))

    async def load(self, name: str) -> bytes | None:
        await asyncio.sleep(0)
        return self.contents.get(name)

    async def states(self, names: Sequence[str]) -> tuple[Hashable, ...]:
        await asyncio.sleep(0)
        return tuple(self.contents.get(name) for name in names)

    async def save(self, name: str, content: bytes) -> None:
        await asyncio.sleep(0)
        self.contents[name] = content

    async def update(self, name: str, change: Callable[[bytes | None], bytes | None]) -> None:
        await asyncio.sleep(0)
        content = change(self.contents.get(name))
        if content is not None:
            self.contents[name] = content


def _stored_name(file: tuple[str, ...], name: str, size: int, problem: str) -> StoredName:
    return StoredName(name, "/".join(file), size, datetime.now(UTC), problem)


def _page(names: Iterable[StoredName], after: str, limit: int) -> tuple[StoredName, ...]:
    following = (stored for stored in names if stored.name > after)
    return tuple(nsmallest(limit, following, key=lambda stored: stored.name))
