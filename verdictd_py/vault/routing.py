"""Stores by prefix: names below a prefix belong to its store, all others to the data directory.

A store of a prefix hides what the data directory has below it. The resources that guests read as
files of the image directory (`LEGACY_RESOURCES`) stay in the data directory, whatever the prefixes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from typing import Final, Generic, TypeVar

from verdictd_py.domain.names import LEGACY_RESOURCES, KeyId, Name, ResourcePath
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import NotAuthorized
from verdictd_py.ports import ANY, Expected, KeyStore, ResourceStore, StoredName, StoredObject

Store = TypeVar("Store")
PortStore = TypeVar("PortStore", KeyStore, ResourceStore)
Prefix = tuple[str, ...]
_LOCAL: Final = frozenset(path.segments for path in LEGACY_RESOURCES.values())


def _store_of(name: Name, stores: Mapping[Prefix, Store]) -> Store | None:
    """Return the store of the longest prefix of a name; None for the data directory."""
    if name.segments in _LOCAL:
        return None
    for length in range(len(name.segments) - 1, 0, -1):
        if (store := stores.get(name.segments[:length])) is not None:
            return store
    return None


def _may_have(beginning: str, stores: Mapping[Prefix, object]) -> bool:
    """Return whether names of a store can begin so, without a request to the store."""
    tops = ("/".join(prefix) + "/" for prefix in stores)
    return any(top.startswith(beginning) or beginning.startswith(top) for top in tops)


async def _merged(
    pages: Mapping[Prefix | None, Callable[[str, int], Awaitable[tuple[StoredName, ...]]]],
    stores: Mapping[Prefix, object],
    after: str,
    limit: int,
) -> tuple[StoredName, ...]:
    """Return a page of all stores, in which each name is that of the store that serves it."""
    names: list[StoredName] = []
    for prefix, page in pages.items():
        owner = None if prefix is None else stores[prefix]
        mine: list[StoredName] = []
        start = after
        while len(mine) < limit:
            some = await page(start, limit)
            mine += [n for n in some if _store_of(Name.parse(n.name), stores) is owner]
            if len(some) < limit:
                break
            start = some[-1].name
        names += mine
    return tuple(sorted(names, key=lambda each: each.name)[:limit])


class _Routed(Generic[PortStore]):
    """Choice of the store of a name.

    Args:
        local: store of the data directory.
    """

    def __init__(self, local: PortStore, stores: Mapping[Prefix, PortStore]) -> None:
        self._local: PortStore = local
        self._stores: dict[Prefix, PortStore] = dict(stores)

    async def has_prefix(self, prefix: str) -> bool:
        return _may_have(prefix, self._stores) or await self._local.has_prefix(prefix)

    def _of(self, name: Name) -> PortStore:
        return _store_of(name, self._stores) or self._local

    async def _page(
        self,
        page: Callable[[PortStore, str, int], Awaitable[tuple[StoredName, ...]]],
        after: str,
        limit: int,
    ) -> tuple[StoredName, ...]:
        stores: dict[Prefix | None, PortStore] = {None: self._local}
        stores.update(self._stores.items())
        pages = {prefix: partial(page, store) for prefix, store in stores.items()}
        return await _merged(pages, self._stores, after, limit)


class RoutedResources(_Routed[ResourceStore]):
    """Port `ResourceStore` of all prefixes."""

    def file_of(self, path: ResourcePath) -> str:
        return self._of(path).file_of(path)

    async def page(
        self,
        after: str,
        limit: int,
        *,
        started: int | None = None,
        types: Collection[str] | None = None,
    ) -> tuple[StoredName, ...]:
        return await self._page(
            lambda store, start, most: store.page(start, most, started=started, types=types),
            after,
            limit,
        )

    async def get(self, path: ResourcePath) -> StoredObject:
        return await self._of(path).get(path)

    async def inspect(self, path: ResourcePath) -> StoredObject:
        return await self._of(path).inspect(path)

    async def put(
        self, path: ResourcePath, content: SecretBytes, *, expected: Expected = ANY
    ) -> StoredObject:
        return await self._of(path).put(path, content, expected=expected)

    async def delete(self, path: ResourcePath, *, expected: Expected = ANY) -> None:
        await self._of(path).delete(path, expected=expected)


class RoutedKeys(_Routed[KeyStore]):
    """Port `KeyStore` of all prefixes.

    Args:
        local: store of the data directory.
        stores: store of the keys below each prefix; None if its keys are in the data directory,
            where no new ones are created, because a resource in Vault may have their name.
    """

    def __init__(self, local: KeyStore, stores: Mapping[Prefix, KeyStore | None]) -> None:
        super().__init__(local, {p: store for p, store in stores.items() if store is not None})
        self._prefixes = dict.fromkeys(stores, True)

    async def page(
        self, after: str, limit: int, *, started: int | None = None
    ) -> tuple[StoredName, ...]:
        return await self._page(
            lambda store, start, most: store.page(start, most, started=started), after, limit
        )

    async def describe(self, key_id: KeyId) -> StoredName:
        return await self._of(key_id).describe(key_id)

    async def get(self, key_id: KeyId) -> SecretBytes:
        return await self._of(key_id).get(key_id)

    async def create(self, key_id: KeyId, key: SecretBytes) -> None:
        await self._of_new(key_id).create(key_id, key)

    async def adopt(self, key_id: KeyId) -> None:
        await self._of_new(key_id).adopt(key_id)

    async def delete(self, key_id: KeyId) -> None:
        await self._of(key_id).delete(key_id)

    def _of_new(self, key_id: KeyId) -> KeyStore:
        store = self._of(key_id)
        if store is self._local and _store_of(key_id, self._prefixes) is not None:
            raise NotAuthorized(
                f"{key_id} is below the prefix of a resource_backend, whose names are in Vault: "
                "choose another name, or set transit_key in it"
            )
        return store
