"""Checks of the engines that the settings name: packages, URLs and files. No engine is contacted.

`contradictions` reports a URL that the start refuses.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from verdictd_py.config import Settings, Unsafe
from verdictd_py.daemon.database import database_address
from verdictd_py.daemon.diagnosis.finding import Finding, Result, summary
from verdictd_py.errors import ConfigError, StorageError
from verdictd_py.valkey.sessions import ValkeySessionStore
from verdictd_py.vault.settings import ResourceBackend, location_of

_OK: Final = "it can be used; nothing was contacted"


async def engines(settings: Settings, unsafe: Unsafe) -> list[Finding]:
    """Check each database, server of sessions and Vault that the settings name."""
    found = [*_database(settings, unsafe, "store", settings.store)]
    found += _database(settings, unsafe, "sessions", settings.kbs_sessions_database)
    found += await _valkey(settings)
    for backend in settings.resource_backend:
        found += await _backend(backend)
    return found


def _database(settings: Settings, unsafe: Unsafe, check: str, url: str | None) -> Iterator[Finding]:
    if url is None:
        return
    option = "--store" if check == "store" else "--kbs-sessions"

    def problems() -> Iterator[Finding]:
        try:
            address = database_address(settings, unsafe, url)
            address.password()
        except (ConfigError, StorageError) as error:
            yield Finding(check, option, Result.FAILURE, str(error))
            return
        for file in address.files:
            if cause := _unreadable(file.path):
                text = f"cannot read {file.path}: {cause}; correct {file.parameter}= of {option}"
                yield Finding(check, option, Result.FAILURE, text)

    yield from summary(check, option, problems(), _OK)


def _unreadable(path: Path) -> str:
    """Return why a file cannot be read; empty if it can be."""
    try:
        path.open("rb").close()
    except OSError as error:
        return (error.strerror or "").lower()
    return ""


async def _valkey(settings: Settings) -> list[Finding]:
    url = settings.kbs_sessions_url
    if url is None:
        return []
    found = []
    try:
        store = ValkeySessionStore.open(url)
        await store.close()
        url.password()
    except (ConfigError, StorageError) as error:
        found.append(Finding("sessions", "--kbs-sessions", Result.FAILURE, str(error)))
    return list(summary("sessions", "--kbs-sessions", found, _OK))


async def _backend(backend: ResourceBackend) -> list[Finding]:
    from verdictd_py.vault.client import VaultClient  # noqa: PLC0415  # httpx is slow to import

    subject = f"resource_backend {backend.prefix}"
    found = []
    try:
        location = location_of(backend)
        await VaultClient(location).close()
        location.login.begin()
    except (ConfigError, StorageError) as error:
        found.append(Finding("backends", subject, Result.FAILURE, str(error)))
    return list(summary("backends", subject, found, _OK))
