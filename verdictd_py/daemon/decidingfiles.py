"""Files of the settings that determine decisions: who may change them, and their digests.

The data directory has the same rules, see `storage.access` and `storage.digests`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from verdictd_py.config import Settings, Unsafe
from verdictd_py.daemon.enginefiles import engine_files
from verdictd_py.errors import ConfigError, StorageError
from verdictd_py.listeners.kbs.files import public_key_files
from verdictd_py.secretfiles import SecretFileUnusable
from verdictd_py.storage.access import problem_of_path
from verdictd_py.storage.digests import DigestLog

_PUBLIC: Final = (
    "client_api_cert",
    "client_api_ca",
    "client_api_roles",
    "kbs_tls_cert",
    "kbs_admins",
    "collateral_ca",
)
"""Settings that name a file whose digest is recorded."""

_OTHER: Final = (
    "audit_key",
    "client_api_key",
    "kbs_tls_key",
    "kbs_token_key",
    "kbs_sessions_file",
    "collateral",
    "collateral_api_key_file",
)
"""Settings that name a secret, or a file whose content is verified each time."""


class DecidingFiles:
    """Files that the settings name.

    Args:
        digests: records the changes.
    """

    def __init__(self, settings: Settings, unsafe: Unsafe, digests: DigestLog) -> None:
        self._settings = settings
        self._unsafe = unsafe
        self._digests = digests

    def require_own(self) -> None:
        """Refuse files that other users may change, and secrets of engines that they may read.

        Raises:
            ConfigError: they may; the message has the remedy.
        """
        for problem in problems(self._settings, self._unsafe):
            raise ConfigError(problem)

    async def prepare(self) -> None:
        """Do what must be done before the files are read: check them, and record their changes.

        Raises:
            ConfigError: other users may change a file, or a change could not be recorded.
        """
        await asyncio.to_thread(self.require_own)
        try:
            await self._digests.observe(await asyncio.to_thread(self._read))
        except StorageError as error:
            raise ConfigError(
                f"changed files cannot be recorded: {error}; make the audit trail writable"
            ) from error

    def _read(self) -> dict[str, str | None]:
        return {str(path): _digest(path) for path in _public(self._settings, self._unsafe)}


def problems(settings: Settings, unsafe: Unsafe) -> Iterator[str]:
    """Yield each cause for which other users may use files of the settings, with its remedy."""
    if not unsafe.unsafe_writable_files:
        yield from _writable(settings, unsafe)
    reported = set()
    for file in engine_files(settings, unsafe):
        try:
            file.require_private()
        except SecretFileUnusable as error:
            reported.add(str(error))
    yield from sorted(reported)


def _writable(settings: Settings, unsafe: Unsafe) -> Iterator[str]:
    reported = set()
    of_engines = (file.path for file in engine_files(settings, unsafe))
    for path in (*_public(settings, unsafe), *_named(settings, _OTHER), *of_engines):
        try:
            problem = problem_of_path(path)
        except OSError:
            continue  # the reader of the file reports it
        if problem is not None and problem not in reported:
            reported.add(problem)
            yield str(problem)


def _public(settings: Settings, unsafe: Unsafe) -> Iterator[Path]:
    if settings.file is not None:
        yield settings.file
    if unsafe.root_ca is not None:
        yield unsafe.root_ca
    yield from _named(settings, _PUBLIC)
    if settings.kbs_admins is not None:
        yield from public_key_files(settings.kbs_admins)


def _named(settings: Settings, names: tuple[str, ...]) -> Iterator[Path]:
    for name in names:
        path = getattr(settings, name)
        if path is not None:
            yield path


def _digest(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
