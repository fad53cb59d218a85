"""Stores of keys and resources with those of `[[resource_backend]]`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from verdictd_py.config import Settings
from verdictd_py.ports import KeyStore, ResourceStore


@dataclass(frozen=True, slots=True)
class Sources:
    """Stores that serve all names, and what closes their connections."""

    keys: KeyStore
    resources: ResourceStore
    closing: tuple[Callable[[], Awaitable[None]], ...] = ()

    async def close(self) -> None:
        """Close the connections to Vault."""
        for close in self.closing:
            await close()


def sources_of(settings: Settings, keys: KeyStore, resources: ResourceStore) -> Sources:
    """Return the stores of the settings.

    Args:
        keys, resources: stores of the data directory.

    Raises:
        ConfigError: the location of a backend cannot be used.
    """
    if not settings.resource_backend:
        return Sources(keys, resources)
    # Imported only where it is used: httpx takes a tenth of a second.
    from verdictd_py.vault.client import VaultClient  # noqa: PLC0415
    from verdictd_py.vault.entries import KvEntries  # noqa: PLC0415
    from verdictd_py.vault.keys import TransitKeyStore  # noqa: PLC0415
    from verdictd_py.vault.resources import KvResourceStore  # noqa: PLC0415
    from verdictd_py.vault.routing import RoutedKeys, RoutedResources  # noqa: PLC0415
    from verdictd_py.vault.settings import location_of  # noqa: PLC0415

    closing: list[Callable[[], Awaitable[None]]] = []
    in_vault: dict[tuple[str, ...], ResourceStore] = {}
    wrapped: dict[tuple[str, ...], KeyStore | None] = {}
    for backend in settings.resource_backend:
        location = location_of(backend)
        client = VaultClient(location)
        closing.append(client.close)
        segments, writable = backend.segments, backend.writable
        entries = KvEntries(client, location.path, backend.entries_path.split("/"))
        key_entries = None
        wrapped[segments] = None
        if backend.transit_key is not None and backend.keys_path is not None:
            key_entries = KvEntries(client, location.path, backend.keys_path.split("/"))
            wrapped[segments] = TransitKeyStore(
                client,
                key_entries,
                segments,
                backend.transit_key.split("/"),
                writable=writable,
                resources=entries,
            )
        in_vault[segments] = KvResourceStore(entries, segments, writable=writable, keys=key_entries)
    return Sources(RoutedKeys(keys, wrapped), RoutedResources(resources, in_vault), tuple(closing))
