"""Audit trail of a command that changes the data directory without a daemon."""

from __future__ import annotations

import stat
from pathlib import Path

from verdictd_py.cli.parsing import Silent
from verdictd_py.domain.eventtypes import Audit, Event
from verdictd_py.events.audit import AuditTrail
from verdictd_py.events.heads import HeadSigner


class CommandTrail:
    """Port `Events`: the audit trail of the data directory; other events are discarded.

    The file of this process is created with its first record, so that a refusal leaves none.
    Files are readable for a group if the daemon's are (`--audit-mode`).

    Args:
        key: file with the key that signs the heads, as for the daemon; None for unsigned heads.

    Raises:
        ConfigError: the key cannot be used.
    """

    def __init__(self, directory: Path, key: Path | None) -> None:
        status = directory.stat()
        signer = None if key is None else HeadSigner.read(key)
        shared = status.st_mode & stat.S_ISGID and status.st_mode & stat.S_IRGRP
        mode = 0o640 if shared else 0o600
        self._trail = AuditTrail(directory, Silent(), mode=mode, signer=signer)
        self._is_open = False

    def record(self, event: Event) -> None:
        if self._is_audited(event):
            self._trail.record(event)

    async def commit(self, *events: Event) -> None:
        if any(self._is_audited(event) for event in events):
            await self._trail.commit(*events)

    def close(self) -> None:
        self._trail.close()

    def _is_audited(self, event: Event) -> bool:
        """Return whether the trail must have this event, and open the trail if so.

        Raises:
            ConfigError: the trail cannot be written.
        """
        if event.spec.audit is not Audit.YES:
            return False
        if not self._is_open:
            self._trail.open()
            self._is_open = True
        return True
