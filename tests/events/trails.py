"""Audit trails of several runs, and attackers who can write the files afterwards."""

from __future__ import annotations

import asyncio
import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.events import RecordedEvents
from verdictd_py.domain.events import KeyCreated
from verdictd_py.events.audit import AuditTrail
from verdictd_py.events.chain import FIRST, sealed
from verdictd_py.events.heads import HeadSigner, HeadVerifier
from verdictd_py.events.scan import files_of, scan_all
from verdictd_py.events.verification import Findings, verified

SIGNER = HeadSigner(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
KEY = HeadVerifier.of(SIGNER.public)


def created(number: int) -> KeyCreated:
    return KeyCreated(caller="uid 0", kid=f"key-{number}")


def opened(directory: Path, **more: Any) -> AuditTrail:
    trail = AuditTrail(directory, RecordedEvents(), **more)
    trail.open()
    return trail


def run_once(directory: Path, records: int = 3, **more: Any) -> Path:
    """Write a file, close it, and return its path."""
    trail = opened(directory, **more)
    for number in range(records):
        trail.record(created(number))
    path = directory.parent / trail.state[0].replace("audit/", f"{directory.name}/")
    trail.close()
    return path


def crash_once(directory: Path, records: int = 3, **more: Any) -> Path:
    """Write a file, and leave it as a process that was killed does."""
    trail = opened(directory, **more)
    for number in range(records):
        trail.record(created(number))
    return crash(trail)


def crash(trail: AuditTrail) -> Path:
    """Release the lock as the kernel does when it kills a process; return the file."""
    file = trail._files.current
    assert file is not None
    asyncio.run(trail.examine())  # the thread has noted what it has written
    asyncio.run(trail.examine())
    fcntl.flock(file._state._descriptor, fcntl.LOCK_UN)
    return trail._files.making.directory / Path(file.path).name


def check(directory: Path, **more: Any) -> Findings:
    """Verify a directory."""
    expected = more.get("expected", ())
    scans = scan_all(files_of(directory), expected)
    return verified(scans, complete=True, **more)


def rewrite(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change records and compute all digests again, as an attacker without the key can."""
    data, previous = b"", FIRST
    for line in file.read_bytes().splitlines():
        members = json.loads(line)
        change(members)
        if members["event"] == "audit.head":
            members["fields"]["digest"] = previous
        members = {k: v for k, v in members.items() if k not in ("digest", "previous")}
        sealed_line, previous = sealed(members, previous)
        data += sealed_line
    file.write_bytes(data)


def cut(file: Path, lines: int) -> None:
    """Remove the last lines."""
    kept = file.read_bytes().splitlines(keepends=True)[:-lines]
    file.write_bytes(b"".join(kept))
