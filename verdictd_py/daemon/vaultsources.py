"""Stores of keys and resources with those of `[[resource_backend]]`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from verdictd_py.config import Settings
from verdictd_py.ports import KeyStore, ResourceStore
from verdictd_py.vault.settings import ResourceBackend, location_of


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
    from verdictd_py.vault.routing import RoutedKeys, RoutedResources  # noqa: PLC0415  # see below

    backends = [_Backend.of(backend) for backend in settings.resource_backend]
    return Sources(
        RoutedKeys(keys, {backend.prefix: backend.keys for backend in backends}),
        RoutedResources(resources, {backend.prefix: backend.resources for backend in backends}),
        tuple(backend.close for backend in backends),
    )


@dataclass(frozen=True, slots=True)
class _Backend:
    """Stores below a prefix; no keys are stored there without a key of Transit."""

    prefix: tuple[str, ...]
    resources: ResourceStore
    keys: KeyStore | None
    close: Callable[[], Awaitable[None]]

    @classmethod
    def of(cls, settings: ResourceBackend) -> _Backend:
        # Imported only where it is used: httpx takes a tenth of a second.
        from verdictd_py.vault.client import VaultClient  # noqa: PLC0415
        from verdictd_py.vault.entries import KvEntries  # noqa: PLC0415
        from verdictd_py.vault.keys import TransitKeyStore  # noqa: PLC0415
        from verdictd_py.vault.resources import KvResourceStore  # noqa: PLC0415

        location = location_of(settings)
        client = VaultClient(location)
        segments, writable = settings.segments, settings.writable
        entries = KvEntries(client, location.path, settings.entries_path.split("/"))
        key_entries, keys = None, None
        if settings.transit_key is not None and settings.keys_path is not None:
            key_entries = KvEntries(client, location.path, settings.keys_path.split("/"))
            keys = TransitKeyStore(
                client,
                key_entries,
                segments,
                settings.transit_key.split("/"),
                writable=writable,
                resources=entries,
            )
        resources = KvResourceStore(entries, segments, writable=writable, keys=key_entries)
        return cls(segments, resources, keys, client.close)
