"""Stores of keys, resources and collateral in the data directory (storage.md)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from heapq import merge
from itertools import islice
from typing import Final

from verdictd_py.domain.events import WarningShadowed
from verdictd_py.domain.names import KeyId, ResourcePath
from verdictd_py.domain.secrets import KEY_BYTES, SecretBytes
from verdictd_py.errors import AlreadyExists, NotFound, StorageError
from verdictd_py.formats.contents import may_be_withheld, withheld
from verdictd_py.formats.sealed import is_sealed
from verdictd_py.formats.stored import (
    ALIASES,
    COLLATERAL,
    EMPTY,
    IMAGE_POLICY,
    KEYS,
    RESOURCES,
    adoptable,
    key_problem,
    require_key,
    require_served,
    require_storable,
    resource_changed,
    target_of,
    usable_key,
)
from verdictd_py.offload import offload
from verdictd_py.ports import (
    ANY,
    Events,
    Expected,
    Kind,
    StoredName,
    StoredObject,
    has_revision,
)
from verdictd_py.storage import pools, walks
from verdictd_py.storage.digests import DigestLog
from verdictd_py.storage.directory import Directory, Entry, Segments
from verdictd_py.storage.exclusive import exclusively
from verdictd_py.storage.files import Steps
from verdictd_py.storage.listing import SortedFiles
from verdictd_py.storage.objects import (
    Found,
    Objects,
    PlainObjects,
    require_same,
    stored_bytes,
    until_unchanged,
)
from verdictd_py.storage.resident import NotResident

README: Final = "README.md"
"""File that a checkout used as a data directory has among its keys; it is not a key."""

MAX_EXAMINED: Final = 100_000
"""Names after which the search for a prefix ends, about a tenth of a second."""


class DirectoryKeyStore:
    """Port `KeyStore`: one file per key, below `keys/`.

    Args:
        objects: reads and writes the files; None for plain ones.
    """

    def __init__(self, directory: Directory, objects: Objects | None = None) -> None:
        self._directory = directory
        self._objects = objects or PlainObjects(directory)
        self._files = SortedFiles(directory, KEYS)

    async def page(
        self, after: str, limit: int, *, started: int | None = None
    ) -> tuple[StoredName, ...]:
        def page() -> tuple[StoredName, ...]:
            files = self._files.after(after, started=started, expected=limit)
            keys = (self._described(entry) for entry in files if _is_key(entry))
            return tuple(islice(keys, limit))

        return await pools.walk(page)

    async def has_prefix(self, prefix: str) -> bool:
        return await pools.walk(self._files.any_with_prefix, prefix, MAX_EXAMINED)

    async def describe(self, key_id: KeyId) -> StoredName:
        try:
            entry = await pools.walk(self._directory.entry, (KEYS, *key_id.segments))
        except NotFound:
            raise NotFound(f"there is no key {key_id}") from None
        except StorageError as error:
            raise StorageError(f"the key {key_id} {error}") from None
        return await pools.walk(self._described, entry)

    def _described(self, entry: Entry) -> StoredName:
        size = KEY_BYTES if entry.size == KEY_BYTES else self._objects.size_of(entry)
        return _named(replace(entry, size=size), "/".join(entry.segments[1:]), key_problem(size))

    async def get(self, key_id: KeyId) -> SecretBytes:
        file = (KEYS, *key_id.segments)
        try:
            content = (await self._objects.read(file)).content
        except NotFound:
            raise NotFound(f"there is no key {key_id}") from None
        except StorageError as error:
            raise type(error)(f"the key {key_id} {error}") from None
        return usable_key(key_id, content)

    async def create(self, key_id: KeyId, key: SecretBytes) -> None:
        require_key(key)
        resource, file = (RESOURCES, *key_id.segments), (KEYS, *key_id.segments)

        def change() -> Steps[None]:
            if key_id.segments in ALIASES or self._directory.exists(resource):
                raise AlreadyExists("names a resource, not a key")
            yield from self._objects.changing(
                {file: prepared}, lambda: self._directory.creating(file, prepared.stored)
            )

        try:
            await self._objects.ready()
            prepared = await self._objects.prepare(file, key.reveal())
            # Exclusively: otherwise another process stores a resource of that name meanwhile.
            await exclusively(self._directory, change)
        except (AlreadyExists, StorageError) as error:
            raise type(error)(f"the key {key_id} {error}") from None

    async def adopt(self, key_id: KeyId) -> None:
        resource, key = (RESOURCES, *key_id.segments), (KEYS, *key_id.segments)

        async def attempt() -> None:
            found = await self._objects.read(resource)
            content = adoptable(key_id, found.content)
            present = await _found_or_none(self._objects, key)
            if present is not None and present.content != content:
                raise AlreadyExists("exists already, with other bytes than the resource")
            prepared = await self._objects.prepare(key, content)

            def change() -> Steps[None]:
                require_same(self._directory, resource, found)
                require_same(self._directory, key, present)
                if present is None:
                    yield from self._objects.changing(
                        {key: prepared}, lambda: self._directory.creating(key, prepared.stored)
                    )
                yield from self._objects.changing(
                    {resource: None}, lambda: self._directory.deleting(resource)
                )

            await exclusively(self._directory, change)

        try:
            await self._objects.ready()
            await until_unchanged(attempt)
        except NotFound:
            raise NotFound(f"there is no resource {key_id}") from None
        except (AlreadyExists, StorageError) as error:
            raise type(error)(f"the key {key_id} {error}") from None

    async def delete(self, key_id: KeyId) -> None:
        file = (KEYS, *key_id.segments)

        def change() -> Steps[None]:
            yield from self._objects.changing({file: None}, lambda: self._directory.deleting(file))

        try:
            await self._objects.ready()
            if self._objects.locks:
                await exclusively(self._directory, change)
            else:
                await pools.write(change())
        except NotFound:
            raise NotFound(f"there is no key {key_id}") from None
        except StorageError as error:
            raise type(error)(f"the key {key_id} {error}") from None


class DirectoryResourceStore:
    """Port `ResourceStore`: files below `resources/`, and the files behind the aliases.

    Args:
        digests: records each change of the keys and policies of images before they are returned.
        objects: reads and writes the files; None for plain ones.
    """

    def __init__(
        self,
        directory: Directory,
        *,
        events: Events,
        digests: DigestLog,
        objects: Objects | None = None,
    ) -> None:
        self._directory = directory
        self._objects = objects or PlainObjects(directory)
        self._files = SortedFiles(directory, RESOURCES)
        self._events = events
        self._digests = digests

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
        def page() -> tuple[StoredName, ...]:
            files = self._files.after(
                after,
                started=started,
                select=lambda top: types is None or len(top) < 3 or top[2] in types,
                expected=limit,
            )
            named = ((entry.segments[1:], entry) for entry in files if len(entry.segments) == 4)
            merged = merge(named, self._behind_aliases(after, types), key=_path_of)
            return tuple(self._described(entry, path) for path, entry in islice(merged, limit))

        return await pools.walk(page)

    async def has_prefix(self, prefix: str) -> bool:
        def any_alias() -> bool:
            return any("/".join(path).startswith(prefix) for path, _ in self._behind_aliases(""))

        return await pools.walk(
            lambda: any_alias() or self._files.any_with_prefix(prefix, MAX_EXAMINED)
        )

    def _behind_aliases(
        self, after: str, types: Collection[str] | None = None
    ) -> Iterator[tuple[Segments, Entry]]:
        """Yield the files behind aliases, by path.

        A file below `resources/` takes precedence over an alias.
        """
        for path, alias in sorted(ALIASES.items(), key=_path_of):
            if _path_of((path, alias)) <= after or (types is not None and path[1] not in types):
                continue
            if not walks.entries(self._directory, (RESOURCES, *path[:-1]), path[-1:]):
                for entry in walks.entries(self._directory, alias[:-1], alias[-1:]):
                    yield path, entry

    def _described(self, entry: Entry, path: tuple[str, ...]) -> StoredName:
        problem = ""
        size = self._objects.size_of(entry)
        if not size:
            problem = EMPTY
        elif may_be_withheld(path):
            try:
                problem = self._withheld(path, entry)
            except (NotFound, StorageError) as error:
                problem = f"it {error}"
        return _named(replace(entry, size=size), "/".join(path), problem)

    def _withheld(self, path: tuple[str, ...], entry: Entry) -> str:
        """Return why a plain file is not served; `get` and `put` check the sealed ones."""
        content = self._directory.read(entry.segments)
        return "" if is_sealed(content) else withheld(path, content)

    async def get(self, path: ResourcePath) -> StoredObject:
        found = await self.inspect(path)
        if path in IMAGE_POLICY:
            await self._digests.observe({found.path: found.revision})
        return found

    async def inspect(self, path: ResourcePath) -> StoredObject:
        segments, found = await self._find(path)
        await offload(len(found.content), partial(require_served, path, found.content))
        kind = Kind.RESOURCE if segments[0] == RESOURCES else Kind.IMAGE
        return StoredObject(kind, "/".join(segments), SecretBytes(found.content))

    async def _find(self, path: ResourcePath) -> tuple[Segments, Found]:
        """Return the file that is served for a path, and its name.

        Raises:
            NotFound, StorageError: see `get`.
        """
        own = (RESOURCES, *path.segments)
        alias = ALIASES.get(path.segments)
        for segments in (own,) if alias is None else (own, alias):
            try:
                return segments, await self._objects.read(segments)
            except NotFound:
                continue
            except StorageError as error:
                raise type(error)(f"the resource {path} {error}") from None
        raise NotFound(f"there is no resource {path}")

    async def put(
        self, path: ResourcePath, content: SecretBytes, *, expected: Expected = ANY
    ) -> StoredObject:
        await offload(len(content), partial(require_storable, path, content.reveal()))
        target = target_of(path)

        async def attempt() -> None:
            require = await self._expecting(path, expected)
            prepared = await self._objects.prepare(target, content.reveal())

            def change() -> Steps[None]:
                require()
                if target[0] == RESOURCES and self._directory.exists((KEYS, *path.segments)):
                    raise AlreadyExists("names a key, not a resource")
                yield from self._objects.changing(
                    {target: prepared}, lambda: self._directory.replacing(target, prepared.stored)
                )

            await exclusively(self._directory, change)

        try:
            await self._objects.ready()
            await until_unchanged(attempt)
        except (AlreadyExists, StorageError) as error:
            raise type(error)(f"the resource {path} {error}") from None
        await pools.walk(self._warn_if_shadowed, path)
        kind = Kind.RESOURCE if target[0] == RESOURCES else Kind.IMAGE
        return StoredObject(kind, "/".join(target), content)

    async def delete(self, path: ResourcePath, *, expected: Expected = ANY) -> None:
        target = target_of(path)

        async def attempt() -> None:
            require = await self._expecting(path, expected)

            def change() -> Steps[None]:
                require()
                yield from self._objects.changing(
                    {target: None}, lambda: self._directory.deleting(target)
                )

            await exclusively(self._directory, change)

        try:
            await self._objects.ready()
            await until_unchanged(attempt)
        except NotFound:
            raise NotFound(f"there is no resource {path}") from None
        except StorageError as error:
            raise type(error)(f"the resource {path} {error}") from None

    async def _expecting(self, path: ResourcePath, expected: Expected) -> Callable[[], None]:
        """Compare the stored revision with what the caller expects.

        Returns:
            A function for the moment of the change, when no other process changes the directory:
            it raises `Changed` if the stored bytes are others than those that were compared.

        Raises:
            Conflict: another revision is stored.
        """
        if expected is ANY:
            return lambda: None
        try:
            segments, found = await self._find(path)
        except NotFound:
            segments, found = target_of(path), None
        if not has_revision(None if found is None else found.content, expected):
            raise resource_changed(path)
        return partial(require_same, self._directory, segments, found)

    def _warn_if_shadowed(self, path: ResourcePath) -> None:
        own = (RESOURCES, *path.segments)
        if target_of(path) != own and self._directory.exists(own):
            self._events.record(WarningShadowed(resource=str(path), by="/".join(own)))


class DirectoryCollateralStore:
    """Port `CollateralStore`: one file per platform type, below `collateral/`."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    async def names(self) -> tuple[str, ...]:
        entries = await pools.walk(lambda: tuple(self._directory.walk(COLLATERAL)))
        return tuple(entry.segments[1] for entry in entries if len(entry.segments) == 2)

    async def load(self, name: str) -> bytes | None:
        try:
            return await stored_bytes(self._directory, (COLLATERAL, name))
        except NotFound:
            return None
        except StorageError as error:
            raise StorageError(f"{COLLATERAL}/{name} {error}") from None

    async def states(self, names: Sequence[str]) -> tuple[Hashable, ...]:
        try:
            return self._directory.entries_resident((COLLATERAL,), names)
        except NotResident:
            return await pools.read(lambda: tuple(map(self._state, names)))

    def _state(self, name: str) -> Hashable:
        try:
            return self._directory.entry((COLLATERAL, name))
        except NotFound:
            return None
        except StorageError as error:
            return str(error)

    async def save(self, name: str, content: bytes) -> None:
        try:
            await pools.write(self._directory.replacing((COLLATERAL, name), content))
        except (AlreadyExists, StorageError) as error:
            raise StorageError(f"{COLLATERAL}/{name} {error}") from None

    async def update(self, name: str, change: Callable[[bytes | None], bytes | None]) -> None:
        file = (COLLATERAL, name)

        def replace() -> Steps[None]:
            present = None
            with suppress(NotFound):
                present = self._directory.read(file)
            content = change(present)
            if content is not None:
                yield from self._directory.replacing(file, content)

        try:
            await exclusively(self._directory, replace)
        except (AlreadyExists, StorageError) as error:
            raise StorageError(f"{COLLATERAL}/{name} {error}") from None


async def _found_or_none(objects: Objects, segments: Segments) -> Found | None:
    """Return an object, None if there is none."""
    try:
        return await objects.read(segments)
    except NotFound:
        return None


def _named(entry: Entry, name: str, problem: str) -> StoredName:
    changed = datetime.fromtimestamp(entry.modified_ns / 1e9, UTC)
    return StoredName(name, "/".join(entry.segments), entry.size, changed, problem)


def _is_key(entry: Entry) -> bool:
    return entry.segments[-1] != README and len(entry.segments) in (2, 4)


def _path_of(item: tuple[Segments, object]) -> str:
    return "/".join(item[0])
