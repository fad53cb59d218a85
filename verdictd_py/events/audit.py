"""Audit trail: appraisals, releases and changes, in a chain of digests.

Each start of the daemon writes a new file below `audit/`, so that several daemons on one
directory never share a file. Each line contains its own digest and that of the line before it.
`verify` therefore detects a line that was changed, removed or inserted. It also detects a file
that was cut, if its last digest is compared with the one in the log. The chain cannot prove that
the whole file was not rewritten: for that, store the log on another machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from verdictd_py.domain.events import AuditClosed, AuditNotKept, AuditOpened
from verdictd_py.domain.eventtypes import Audit, Event
from verdictd_py.errors import ConfigError, StorageError
from verdictd_py.ports import Events

MAX_LIMITED_PER_MINUTE: Final = 600
"""Maximum number of `Audit.LIMITED` records in a minute, some 700 bytes each.

Unauthenticated peers cause them and must not fill the disk. The trail records how many more
there were.
"""

_FIRST: Final = "0" * 64
_MINUTE: Final = 60.0


class AuditTrail:
    """Receiver of events that writes those to be audited to the trail, and then all to the log.

    A secret whose release cannot be recorded is not released: the error reaches the broker
    before the secret reaches the guest.

    Args:
        directory: `audit/` of the data directory.
        log: receives every event, after the trail.
        monotonic: clock for the limit of records per minute, in seconds.
    """

    def __init__(
        self,
        directory: Path,
        log: Events,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._log = log
        self._monotonic = monotonic
        self._file: int | None = None
        self._length = 0
        self._previous = _FIRST
        self._number = 0
        self._minute = monotonic()
        self._limited = 0

    def open(self) -> None:
        """Create a new file. Before that, events are only logged.

        Raises:
            ConfigError: the file cannot be created.
        """
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid4().hex[:8]}.jsonl"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        try:
            self._file = os.open(self._directory / name, flags, 0o600)
        except OSError as error:
            raise ConfigError(
                f"cannot write the audit trail in {self._directory}: {error.strerror}; "
                "make the directory writable for this user"
            ) from error
        self._log.record(AuditOpened(file=f"audit/{name}"))

    def record(self, event: Event) -> None:
        """Write one event to the trail if it is to be audited, then to the log.

        The order matters: the log must not report what the error then prevents.

        Raises:
            StorageError: the event must be audited, and the trail cannot be written.
        """
        if self._file is not None and self._is_audited(event.spec.audit):
            self._append(self._file, event)
        self._log.record(event)

    def close(self) -> None:
        """Close the file, and log the digest of its last line."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
            self._log.record(AuditClosed(records=self._number, digest=self._previous))

    def _is_audited(self, audit: Audit) -> bool:
        if audit is Audit.LIMITED:
            return self._is_within_limit()
        return audit is Audit.YES

    def _is_within_limit(self) -> bool:
        now = self._monotonic()
        if now - self._minute >= _MINUTE:
            omitted = self._limited - MAX_LIMITED_PER_MINUTE
            self._minute, self._limited = now, 0
            if omitted > 0:
                self.record(AuditNotKept(refusals=omitted))
        self._limited += 1
        return self._limited <= MAX_LIMITED_PER_MINUTE

    def _append(self, file: int, event: Event) -> None:
        line, digest = sealed(
            {
                "number": self._number,
                "time": datetime.now(UTC).isoformat(),
                "event": event.spec.name,
                "fields": event.rendered(),
            },
            self._previous,
        )
        try:
            if os.write(file, line) != len(line):
                os.ftruncate(file, self._length)  # a partial line would break the chain
                raise StorageError("a record of the audit trail cannot be written completely")
        except OSError as error:
            raise StorageError("the audit trail cannot be written") from error
        self._length += len(line)
        self._previous = digest
        self._number += 1


def sealed(members: Mapping[str, Any], previous: str) -> tuple[bytes, str]:
    """Return one line with its digest, and this digest for the next line's `previous`."""
    body = {**members, "previous": previous}
    digest = hashlib.sha256(_canonical(body)).hexdigest()
    return _canonical({**body, "digest": digest}) + b"\n", digest


def verify(lines: Iterator[bytes]) -> tuple[int, str]:
    """Check the chain of a file's lines, from the first line.

    Returns:
        The number of records and the digest of the last one, as in the event `AuditClosed`.

    Raises:
        StorageError: the chain is broken; the text names the first such line by its number.
    """
    previous, count = _FIRST, 0
    for count, line in enumerate(lines, start=1):
        try:
            members = json.loads(line)
            digest = members.pop("digest")
        except (ValueError, KeyError, AttributeError, RecursionError):
            raise StorageError(f"line {count} is not a record: it was cut or overwritten") from None
        if members.get("previous") != previous or members.get("number") != count - 1:
            raise StorageError(f"line {count} does not follow the line before it")
        if hashlib.sha256(_canonical(members)).hexdigest() != digest:
            raise StorageError(f"line {count} was changed after it was written")
        if not line.endswith(b"\n"):
            raise StorageError(f"line {count} has no end: the file was cut")
        previous = digest
    return count, previous


def _canonical(members: Mapping[str, Any]) -> bytes:
    return json.dumps(members, sort_keys=True, separators=(",", ":")).encode()
