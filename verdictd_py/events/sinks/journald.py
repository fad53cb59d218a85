"""Sink for systemd's journal.

Source: systemd, "Native Journal Protocol" (systemd.io/JOURNAL_NATIVE_PROTOCOL).
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Sequence
from typing import Final

from verdictd_py.domain.events import CATALOGUE
from verdictd_py.domain.eventtypes import Level
from verdictd_py.events.sinks.datagrams import Datagrams

SOCKET: Final = "/run/systemd/journal/socket"

_NOTICE: Final = 5
_SEVERITIES: Final = {Level.DEBUG: 7, Level.INFO: _NOTICE, Level.WARNING: 4, Level.ERROR: 3}
_LEVELS: Final = {kind.spec.name: kind.spec.level for kind in CATALOGUE}
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def severity_of(event: str) -> int:
    """Return the severity of syslog for an event; notice for a normal one, or an unknown one."""
    return _SEVERITIES[_LEVELS.get(event, Level.INFO)]


def event_of(line: bytes) -> str:
    """Return the name of the event of a record."""
    return member_of(line, "event")


def member_of(line: bytes, name: str) -> str:
    """Return a text of a record: `event`, or `time`.

    A line is canonical (`events.chain`): before the event are only texts, and the time is last.
    """
    begin, (find, end) = f'"{name}":"'.encode(), _PLACES[name]
    at = find(line, begin) + len(begin)
    text = line[at : line.find(b'"', at)]
    if at >= len(begin) and b"\\" not in text and line[at + len(text) :].startswith(end):
        return text.decode("ascii")
    return str(json.loads(line)[name])


_PLACES: Final = {"event": (bytes.find, b'",'), "time": (bytes.rfind, b'"}')}
"""Where these members are searched, and what follows their text."""


class JournalSink:
    """Sends records to the journal, each as `MESSAGE`, with `VERDICTD_EVENT`."""

    def __init__(self, path: str = SOCKET) -> None:
        self._datagrams = Datagrams(path, _send_file)

    def send(self, lines: Sequence[bytes]) -> int:
        return self._datagrams.send([_entry(line) for line in lines])

    def close(self) -> None:
        self._datagrams.close()


def _send_file(to: socket.socket, entry: bytes) -> None:
    """Send an entry that is too large for a datagram as a sealed file in memory."""
    descriptor = os.memfd_create("audit", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.write(descriptor, entry)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        socket.send_fds(to, [b""], [descriptor])
    finally:
        os.close(descriptor)


def _entry(line: bytes) -> bytes:
    """Return the fields of an entry. A record is ASCII in one line, so that no field is forged."""
    event = event_of(line)
    return (
        b"MESSAGE=%b\nPRIORITY=%d\nSYSLOG_IDENTIFIER=verdictd-py-audit\nSYSLOG_FACILITY=13\n"
        b"VERDICTD_EVENT=%b\n" % (line, severity_of(event), event.encode("ascii", "replace"))
    )
