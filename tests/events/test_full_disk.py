"""The audit trail on a file system that is really full; root mounts one of 4 MiB in memory."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.events.test_audit import REFUSED
from tests.events.trails import check, created, opened
from tests.support.events import RecordedEvents
from verdictd_py.domain.events import ImageKeyWrapped, SecretReleased
from verdictd_py.errors import StorageError
from verdictd_py.events.audit import AuditTrail

SIZE = 4 * 1024 * 1024
RELEASED = SecretReleased(
    peer="192.0.2.1:5", appraisal="a" * 32, tee="tdx", what="key", path="keys/default/key/1"
)
WRAPPED = ImageKeyWrapped(caller="uid 0", kid="a", algorithm="AES_256_GCM")


@pytest.fixture
def audit(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "audit"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=700", "none", str(directory)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"this user may not mount: {mounted.stderr.strip()}")
    yield directory
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


def later() -> Callable[[], float]:
    """A clock by which the space is measured again after each record."""
    now = [0.0]

    def monotonic() -> float:
        now[0] += 2.0
        return now[0]

    return monotonic


def fill(directory: Path, *, free: int) -> Path:
    """Fill the file system until so many bytes are free; whole pages count."""
    file = directory / "other"
    with file.open("ab", buffering=0) as stream:
        while (space := os.statvfs(directory)).f_bavail * space.f_frsize > free:
            try:
                if not stream.write(bytes(4096)):
                    break
            except OSError:
                break
    return file


def is_recorded(trail: AuditTrail, event: object) -> bool:
    try:
        trail.record(event)  # type: ignore[arg-type]  # an event
    except StorageError:
        return False
    return True


def measure(trail: AuditTrail) -> None:
    """Have the free space measured: the thread does so after a record, before the next one."""
    for number in range(2):
        is_recorded(trail, created(number))


def test_a_release_that_cannot_be_recorded_does_not_happen_and_space_ends_that(
    audit: Path,
) -> None:
    log = RecordedEvents()
    trail = AuditTrail(audit, log, monotonic=later())
    trail.open()
    assert is_recorded(trail, RELEASED)
    other = fill(audit, free=0)
    while is_recorded(trail, created(1)):  # the rest of a page
        pass
    releases = len(log.of(SecretReleased))
    assert not is_recorded(trail, RELEASED)
    assert len(log.of(SecretReleased)) == releases
    other.unlink()
    measure(trail)
    assert is_recorded(trail, RELEASED)
    trail.close()
    assert check(audit).problems == ()


def test_callers_with_fewer_rights_are_refused_first(audit: Path) -> None:
    trail = opened(audit, monotonic=later())
    results = {}
    for name, free in (("eighth", SIZE // 7), ("less", SIZE // 12), ("sixteenth", SIZE // 20)):
        fill(audit, free=free)
        measure(trail)
        omitted = list[str]()
        trail.watch_omitted(omitted.append)
        results[name] = (
            is_recorded(trail, REFUSED) and not omitted,
            is_recorded(trail, WRAPPED),
            is_recorded(trail, RELEASED),
            is_recorded(trail, created(1)),
        )
    trail.close()
    assert results == {
        "eighth": (False, True, True, True),
        "less": (False, False, True, True),
        "sixteenth": (False, False, False, True),
    }
    assert check(audit).problems == ()


def test_the_reserve_is_used_when_another_program_has_filled_the_disk(audit: Path) -> None:
    log = RecordedEvents()
    trail = AuditTrail(audit, log, monotonic=later(), reserve_bytes=256 * 1024)
    (audit / ".reserve").write_bytes(bytes(256 * 1024))
    trail.open()
    fill(audit, free=0)
    for number in range(50):
        trail.record(created(number))
    assert (audit / ".reserve").stat().st_size == 0
    assert "the disk of the audit trail is full" in log.text
    trail.close()
    assert check(audit).problems == ()
