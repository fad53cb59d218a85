"""Reload without a signal: files of the settings are compared, and a change requests a reload.

For files that another program replaces and that no program can signal afterwards, such as a Secret
that the kubelet updates. Files are compared by what `stat` returns, so that no secret is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from verdictd_py.config import Settings, Unsafe
from verdictd_py.listeners.kbs.files import public_key_files

PERIOD_SECONDS: Final = 5.0
"""Pause between two comparisons."""

_WRITTEN: Final = frozenset({"data_dir", "kbs_sessions"})
"""Settings that name what the broker itself writes."""

State = frozenset[tuple[str, int, int, int, int]]
"""Path, inode, size, and times of the last changes of each file, in nanoseconds."""


class WatchedFiles:
    """Files that the settings name, the file of the settings, and public keys of administrators."""

    def __init__(self, settings: Settings, unsafe: Unsafe) -> None:
        self._settings = settings
        self._unsafe = unsafe

    async def watch(self, request: Callable[[], object]) -> None:
        """Request a reload after each change, once no file has changed for a period.

        Two files that belong together (certificate and key) may be replaced one after the other.
        """
        before = in_force = await asyncio.to_thread(self.state)
        while True:
            await asyncio.sleep(PERIOD_SECONDS)
            now = await asyncio.to_thread(self.state)
            if now == before != in_force:
                in_force = now
                request()
            before = now

    def state(self) -> State:
        """Return the state of the files that exist."""
        return frozenset(_states(self._paths()))

    def _paths(self) -> Iterator[Path]:
        for name in type(self._settings).model_fields:
            value = getattr(self._settings, name)
            if isinstance(value, Path) and name not in _WRITTEN:
                yield value
        for file in (self._settings.file, self._unsafe.root_ca):
            if file is not None:
                yield file
        if self._settings.kbs_admins is not None:
            yield from public_key_files(self._settings.kbs_admins)


def _states(paths: Iterator[Path]) -> Iterator[tuple[str, int, int, int, int]]:
    for path in paths:
        try:
            files = sorted(path.iterdir()) if path.is_dir() else [path]
        except OSError:
            continue
        for file in files:
            try:
                status = file.stat()
            except OSError:  # missing: another state than present
                continue
            times = (status.st_mtime_ns, status.st_ctime_ns)
            yield str(file), status.st_ino, status.st_size, *times
