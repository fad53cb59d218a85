"""Stores of keys, resources and collateral in the database: the ports, on `objects.Objects`.

Names, aliases and refusals are those of the data directory; `tests/conformance` runs one suite
against both.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from functools import partial
from typing import Final

from verdictd_py.domain.events import WarningShadowed
from verdictd_py.domain.names import KeyId, ResourcePath
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import AlreadyExists, NotFound, StorageError
from verdictd_py.formats.contents import may_be_withheld, withheld
from verdictd_py.formats.stored import (
    ALIASES,
    COLLATERAL,
    EMPTY,
    IMAGE_POLICY,
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
from verdictd_py.postgres import documents, tokenkeys
from verdictd_py.postgres.ledger import Entry
from verdictd_py.postgres.objects import Objects, State, Write
from verdictd_py.storage.digests import DigestLog
from verdictd_py.storage.documents import OPA

_KINDS: Final = {
    KEYS: Kind.KEY.value,
    RESOURCES: Kind.RESOURCE.value,
    COLLATERAL: "collateral",
    OPA: documents.KIND,
    "tokens": tokenkeys.KIND,
}


def kind_of(path: str) -> str:
    """Return the kind of the object with a canonical path, for its seal."""
    top = path.partition("/")[0]
    return _KINDS.get(top, Kind.IMAGE.value)


def _key_path(key_id: KeyId) -> str:
    return "/".join((KEYS, *key_id.segments))


def _own_path(path: ResourcePath) -> str:
    return "/".join((RESOURCES, *path.segments))


def _alias_path(path: ResourcePath) -> str | None:
    alias = ALIASES.get(path.segments)
    return None if alias is None else "/".join(alias)


def _target(path: ResourcePath) -> str:
    return "/".join(target_of(path))


def _exists(state: State, path: str) -> bool:
    entry = state.entries.get(path)
    return entry is not None and not entry.is_deleted


def _write(path: str, content: bytes | None) -> Write:
    return Write(path, kind_of(path), content)


class PostgresKeyStore:
    """Port `KeyStore`."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    async def page(
        self, after: str, limit: int, *, started: int | None = None
    ) -> tuple[StoredName, ...]:
        del started
        paths = await self._objects.paths(f"{KEYS}/")
        state = await self._objects.state()
        first = bisect_right(paths, f"{KEYS}/{after}") if after else 0
        selected = (state.entries.get(path) for path in paths[first : first + limit])
        return tuple(_described_key(entry) for entry in selected if entry is not None)

    async def has_prefix(self, prefix: str) -> bool:
        return bool(await self._objects.paths(f"{KEYS}/{prefix}"))

    async def describe(self, key_id: KeyId) -> StoredName:
        entry = (await self._objects.state()).entries.get(_key_path(key_id))
        if entry is None or entry.is_deleted:
            raise NotFound(f"there is no key {key_id}")
        return _described_key(entry)

    async def get(self, key_id: KeyId) -> SecretBytes:
        content = await self._objects.read(_key_path(key_id))
        if content is None:
            raise NotFound(f"there is no key {key_id}")
        return usable_key(key_id, content)

    async def create(self, key_id: KeyId, key: SecretBytes) -> None:
        require_key(key)
        path = _key_path(key_id)

        async def plan(state: State) -> Sequence[Write]:
            if key_id.segments in ALIASES or _exists(state, _own_path(_as_resource(key_id))):
                raise names_resource(key_id)
            if _exists(state, path):
                raise key_exists(key_id)
            return (_write(path, key.reveal()),)

        await self._objects.change(plan)

    async def adopt(self, key_id: KeyId) -> None:
        resource, key = _own_path(_as_resource(key_id)), _key_path(key_id)

        async def plan(state: State) -> Sequence[Write]:
            del state
            stored = await self._objects.read(resource)
            if stored is None:
                raise NotFound(f"there is no resource {key_id}")
            content = adoptable(key_id, stored)
            present = await self._objects.read(key)
            if present is not None and SecretBytes(present) != SecretBytes(content):
                raise AlreadyExists(
                    f"the key {key_id} exists already, with other bytes than the resource"
                )
            return (_write(key, content), _write(resource, None))

        await self._objects.change(plan)

    async def delete(self, key_id: KeyId) -> None:
        path = _key_path(key_id)

        async def plan(state: State) -> Sequence[Write]:
            if not _exists(state, path):
                raise NotFound(f"there is no key {key_id}")
            return (_write(path, None),)

        await self._objects.change(plan)


class PostgresResourceStore:
    """Port `ResourceStore`, including the aliases of the image directory.

    Args:
        digests: records each change of the keys and policies of images before they are returned.
    """

    def __init__(self, objects: Objects, *, events: Events, digests: DigestLog) -> None:
        self._objects = objects
        self._events = events
        self._digests = digests

    def file_of(self, path: ResourcePath) -> str:
        return _target(path)

    async def page(
        self,
        after: str,
        limit: int,
        *,
        started: int | None = None,
        types: Collection[str] | None = None,
    ) -> tuple[StoredName, ...]:
        del started
        state = await self._objects.state()
        by_name = await self._by_name()
        names = sorted(
            name
            for name in by_name
            if name > after and (types is None or name.split("/")[1] in types)
        )
        return tuple(
            [await self._described(name, state.entries[by_name[name]]) for name in names[:limit]]
        )

    async def has_prefix(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name in await self._by_name())

    async def _by_name(self) -> Mapping[str, str]:
        """Return the paths of all resources by name; a resource takes precedence over an alias."""
        length = len(RESOURCES) + 1
        files = {path[length:]: path for path in await self._objects.paths(f"{RESOURCES}/")}
        state = await self._objects.state()
        for segments, alias in ALIASES.items():
            if _exists(state, "/".join(alias)):
                files.setdefault("/".join(segments), "/".join(alias))
        return {name: path for name, path in files.items() if path in state.entries}

    async def get(self, path: ResourcePath) -> StoredObject:
        found = await self.inspect(path)
        if path in IMAGE_POLICY:
            await self._digests.observe({found.path: found.revision})
        return found

    async def inspect(self, path: ResourcePath) -> StoredObject:
        for place in filter(None, (_own_path(path), _alias_path(path))):
            content = await self._objects.read(place)
            if content is None:
                continue
            await offload(len(content), partial(require_served, path, content))
            return StoredObject(Kind(kind_of(place)), place, SecretBytes(content))
        raise NotFound(f"there is no resource {path}")

    async def put(
        self, path: ResourcePath, content: SecretBytes, *, expected: Expected = ANY
    ) -> StoredObject:
        await offload(len(content), partial(require_storable, path, content.reveal()))
        target = _target(path)

        async def plan(state: State) -> Sequence[Write]:
            await self._require(path, expected)
            if target == _own_path(path) and _exists(state, _key_path(KeyId(path.segments))):
                raise names_key(path)
            return (_write(target, content.reveal()),)

        state = await self._objects.change(plan)
        own = _own_path(path)
        if target != own and _exists(state, own):
            self._events.record(WarningShadowed(resource=str(path), by=own))
        return StoredObject(Kind(kind_of(target)), target, content)

    async def delete(self, path: ResourcePath, *, expected: Expected = ANY) -> None:
        target = _target(path)

        async def plan(state: State) -> Sequence[Write]:
            await self._require(path, expected)
            if not _exists(state, target):
                raise NotFound(f"there is no resource {path}")
            return (_write(target, None),)

        await self._objects.change(plan)

    async def _require(self, path: ResourcePath, expected: Expected) -> None:
        """Return if the stored content has the revision that the caller expects.

        Raises:
            Conflict: another revision.
        """
        if expected is ANY:
            return
        try:
            content = (await self.inspect(path)).content.reveal()
        except NotFound:
            content = None
        if not has_revision(content, expected):
            raise resource_changed(path)

    async def _described(self, name: str, entry: Entry) -> StoredName:
        path, problem = tuple(name.split("/")), ""
        if not entry.size:
            problem = EMPTY
        elif may_be_withheld(path):
            try:
                content = await self._objects.read(entry.path)
                problem = "" if content is None else withheld(path, content)
            except StorageError as error:
                problem = f"it cannot be read: {error}"
        return StoredName(name, entry.path, entry.size, entry.time, problem)


class PostgresCollateralStore:
    """Port `CollateralStore`."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    async def names(self) -> tuple[str, ...]:
        paths = await self._objects.paths(f"{COLLATERAL}/")
        return tuple(path.partition("/")[2] for path in paths)

    async def load(self, name: str) -> bytes | None:
        return await self._objects.read(f"{COLLATERAL}/{name}")

    async def states(self, names: Sequence[str]) -> tuple[Hashable, ...]:
        entries = self._objects.known
        found = (entries.get(f"{COLLATERAL}/{name}") for name in names)
        return tuple(None if entry is None else entry.revision for entry in found)

    async def save(self, name: str, content: bytes) -> None:
        await self._objects.put(_write(f"{COLLATERAL}/{name}", content))

    async def update(self, name: str, change: Callable[[bytes | None], bytes | None]) -> None:
        path = f"{COLLATERAL}/{name}"

        async def plan(state: State) -> Sequence[Write]:
            del state
            present = await self._objects.read(path)
            size = 0 if present is None else len(present)
            content = await offload(size, partial(change, present))
            return () if content is None else (_write(path, content),)

        await self._objects.change(plan)


def _as_resource(key_id: KeyId) -> ResourcePath:
    return ResourcePath(key_id.segments)


def _described_key(entry: Entry) -> StoredName:
    name, problem = entry.path.partition("/")[2], key_problem(entry.size)
    return StoredName(name, entry.path, entry.size, entry.time, problem)
