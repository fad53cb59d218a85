"""The audit trail: who was judged how and what was released, each line sealed to the last.

Every start of a broker writes a file of its own below `audit/`, so several brokers on one
directory never share one. Each line holds the digest of the line before it and of itself:
a line that was changed, removed or put in shows, and so does a file that was cut, if its
last digest is compared with the one in the ordinary log. What is not proved is that
nobody rewrote the whole file: ship the log elsewhere for that.
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

from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import ConfigError, StorageError
from verdictd_py.ports import Events, EventValue

AUDITED: Final = frozenset(
    {
        "guest.accepted",
        "guest.refused",
        "guest.not-judged",
        "secret.released",
        "release.refused",
        "image-key.wrapped",
        "image-key.unwrapped",
        "key.created",
        "key.registered",
        "key.exported",
        "key.deleted",
        "resource.exported",
        "resource.set",
        "resource.deleted",
        "policy.set",
        "reference.pinned",
        "reference.added",
        "reference.retired",
        "unsafe.option",
        "daemon.started",
        "daemon.stopped",
    }
)

MAX_STRANGERS_PER_MINUTE: Final = 600
"""Records of peers that were refused, some 700 bytes each: strangers must not fill the disk.
What goes beyond is counted, and the count recorded."""

_STRANGERS: Final = frozenset({"guest.refused", "guest.not-judged"})
_FIRST: Final = "0" * 64
_MINUTE: Final = 60.0


class AuditTrail:
    """An `Events` that keeps what must be kept and passes everything on to the log.

    A release whose record cannot be written does not happen: the error reaches the broker
    before the secret reaches the guest.

    Args:
        directory: `audit/` of the data directory.
        log: where every event goes as well.
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
        self._strangers = 0

    def open(self) -> None:
        """Begins a new file. Until then everything is only logged.

        Raises:
            ConfigError: it cannot be made.
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
        self._log.record("audit.opened", file=f"audit/{name}")

    def record(self, event: str, /, **fields: EventValue) -> None:
        """Keeps and logs one event.

        Raises:
            StorageError: it had to be kept and could not be.
        """
        if self._file is not None and event in AUDITED and self._within_bound(event):
            self._append(self._file, event, fields)
        self._log.record(event, **fields)

    def close(self) -> None:
        """Ends the file and logs the digest of its last line."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
            self._log.record("audit.closed", records=self._number, digest=self._previous)

    def _within_bound(self, event: str) -> bool:
        if event not in _STRANGERS:
            return True
        now = self._monotonic()
        if now - self._minute >= _MINUTE:
            beyond = self._strangers - MAX_STRANGERS_PER_MINUTE
            self._minute, self._strangers = now, 0
            if beyond > 0 and self._file is not None:
                self._append(self._file, "audit.not-kept", {"refusals": beyond})
        self._strangers += 1
        return self._strangers <= MAX_STRANGERS_PER_MINUTE

    def _append(self, file: int, event: str, fields: Mapping[str, EventValue]) -> None:
        line, digest = sealed(
            {
                "number": self._number,
                "time": datetime.now(UTC).isoformat(),
                "event": event,
                "fields": {name: _plain(value) for name, value in fields.items()},
            },
            self._previous,
        )
        try:
            if os.write(file, line) != len(line):
                os.ftruncate(file, self._length)  # half a line would break the chain
                raise StorageError("the audit trail cannot be written whole")
        except OSError as error:
            raise StorageError("the audit trail cannot be written") from error
        self._length += len(line)
        self._previous = digest
        self._number += 1


def sealed(members: Mapping[str, Any], previous: str) -> tuple[bytes, str]:
    """One line with its seal, and the digest to put into the next."""
    body = {**members, "previous": previous}
    digest = hashlib.sha256(_canonical(body)).hexdigest()
    return _canonical({**body, "digest": digest}) + b"\n", digest


def verify(lines: Iterator[bytes]) -> tuple[int, str]:
    """Checks a file's lines from the first.

    Returns:
        Number of records, and the digest of the last: the log's `audit.closed` has both.

    Raises:
        StorageError: the first line that does not fit, by its number.
    """
    previous, count = _FIRST, 0
    for count, line in enumerate(lines, start=1):
        try:
            members = json.loads(line)
            digest = members.pop("digest")
        except (ValueError, KeyError, AttributeError, RecursionError):
            raise StorageError(f"line {count} is no record: cut, or written over") from None
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


def _plain(value: EventValue) -> object:
    if isinstance(value, SecretBytes):
        return repr(value)
    return list(value) if isinstance(value, tuple) else value
