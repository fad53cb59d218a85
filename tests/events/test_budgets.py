"""Budgets of the classes of events, and the space that is reserved for the trail."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.events.test_audit import REFUSED, Clock, released
from tests.events.trails import check, created, opened
from tests.support.events import RecordedEvents
from verdictd_py.domain.events import (
    CollateralUsed,
    GuestDisconnected,
    GuestNotJudged,
    GuestRefused,
    ImageKeyUnwrapped,
    ImageKeyWrapped,
    ReleaseRefused,
    WarningAudit,
)
from verdictd_py.domain.eventtypes import Event
from verdictd_py.errors import StorageError
from verdictd_py.events.audit import AuditTrail
from verdictd_py.events.budgets import (
    MAX_LIMITED_PER_MINUTE,
    REFUSALS_BYTES,
    RELEASES_BYTES,
    WRAPS_BYTES,
    Budgets,
    Class,
    class_of,
)
from verdictd_py.events.reserve import FILE, Reserve

GENUINE = GuestRefused(
    peer="192.0.2.1:5",
    appraisal="a2",
    code="policy-refused",
    tee="tdx",
    form="test",
    tcb_status="UpToDate",
    evidence="e" * 64,
    reasons=(),
)
DENIED = ReleaseRefused(
    peer="192.0.2.1:5", appraisal="a1", tee="tdx", what="key", path="keys/x", reasons=()
)
WRAPPED = ImageKeyWrapped(caller="uid 1000", kid="key", algorithm="AES_256_GCM")


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    directory = tmp_path / "audit"
    directory.mkdir()
    return directory


def events(directory: Path) -> list[str]:
    decoded = [
        json.loads(line)
        for path in directory.glob("*.jsonl")
        for line in path.read_bytes().splitlines()
    ]
    return [record["event"] for record in decoded]


@pytest.mark.parametrize("flood", [REFUSED, GENUINE, DENIED])
def test_a_flood_of_one_class_leaves_the_others_in_the_trail(audit: Path, flood: Event) -> None:
    """600 handshakes a minute without evidence must not hide that a guest was refused."""
    trail = opened(audit, monotonic=Clock())
    for _ in range(MAX_LIMITED_PER_MINUTE + 10):
        trail.record(flood)
    before = len(events(audit))
    others = [e for e in (REFUSED, GENUINE, DENIED, released("keys/x"), WRAPPED) if e is not flood]
    for other in others:
        trail.record(other)
    assert len(events(audit)) == before + len(others)
    trail.record_omitted()
    (line,) = [
        json.loads(line)["fields"]
        for path in audit.glob("*.jsonl")
        for line in path.read_bytes().splitlines()
        if b"audit.not-kept" in line
    ]
    counted = {name: value for name, value in line.items() if value}
    expected: dict[Event, dict[str, int]] = {
        REFUSED: {"refusals": 10, "unauthenticated": 10},
        GENUINE: {"refusals": 10},
        DENIED: {"denials": 10},
    }
    assert counted == expected[flood]


@dataclass
class Disk:
    """A disk with some free space, and optionally without any for files."""

    free: int
    size: int = 2**30

    def statvfs(self, path: object) -> Any:
        class Space:
            f_blocks, f_frsize = self.size, 1
            f_bavail = self.free

        return Space


GUEST: dict[str, Any] = {"peer": "192.0.2.1:5", "appraisal": "a1"}


@pytest.mark.parametrize(
    ("event", "of"),
    [
        (GuestNotJudged(**GUEST, code="x", reason="x"), Class.UNAUTHENTICATED),
        (REFUSED, Class.UNAUTHENTICATED),
        (GENUINE, Class.REFUSALS),
        (CollateralUsed(tee="tdx", sha256="0"), Class.REFUSALS),
        (DENIED, Class.DENIALS),
        (WRAPPED, Class.WRAPS),
        (ImageKeyUnwrapped(caller="uid 1000", kid="key"), Class.WRAPS),
        (released("keys/x"), Class.RELEASES),
        (GuestDisconnected(**GUEST, guest="a0", reason="x"), Class.RELEASES),
        (created(1), Class.OTHER),
    ],
    ids=lambda value: value.spec.name if isinstance(value, Event) else str(value),
)
def test_events_that_guests_and_wrappers_cause_have_the_budget_of_their_class(
    event: Event, of: Class
) -> None:
    """An event that is missing there would take the space of the operators."""
    assert class_of(event) is of


@pytest.mark.parametrize(
    ("free", "recorded"),
    [
        (REFUSALS_BYTES, {"guest.refused", "image-key.wrapped", "secret.released", "key.created"}),
        (REFUSALS_BYTES - 1, {"image-key.wrapped", "secret.released", "key.created"}),
        (WRAPS_BYTES - 1, {"secret.released", "key.created"}),
        (RELEASES_BYTES - 1, {"key.created"}),
    ],
)
def test_callers_with_few_rights_cannot_use_the_last_space(
    audit: Path, monkeypatch: pytest.MonkeyPatch, free: int, recorded: set[str]
) -> None:
    """Wraps and releases then do not happen; changes by operators do."""
    monkeypatch.setattr(os, "statvfs", Disk(free).statvfs)
    trail = opened(audit)
    refused = set()
    for event in (GENUINE, WRAPPED, released("keys/x"), created(1)):
        try:
            trail.record(event)
        except StorageError:
            refused.add(event.spec.name)
    assert set(events(audit)) - {"audit.began", "audit.head"} == recorded
    assert refused == {"image-key.wrapped", "secret.released"} - recorded
    trail.close()


@pytest.mark.parametrize(("free", "recorded"), [(2**18, True), (2**18 - 1, False)])
def test_a_small_volume_can_be_used(
    audit: Path, monkeypatch: pytest.MonkeyPatch, free: int, recorded: bool
) -> None:
    """One of 4 MiB needs a sixteenth for releases, not 8 MiB."""
    monkeypatch.setattr(os, "statvfs", Disk(free, size=2**22).statvfs)
    trail = opened(audit)
    if recorded:
        trail.record(released("keys/x"))
    else:
        with pytest.raises(StorageError, match="too little space"):
            trail.record(released("keys/x"))
    trail.close()


async def test_space_that_is_free_again_is_noticed(
    audit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although nothing was written meanwhile."""
    disk, clock = Disk(0), Clock()
    monkeypatch.setattr(os, "statvfs", disk.statvfs)
    trail = opened(audit, monotonic=clock)
    with pytest.raises(StorageError, match="too little space"):
        await trail.commit(released("keys/x"))
    disk.free, clock.now = 2**30, 1
    await trail.examine()
    await trail.examine()  # the thread has measured the space after the first one
    await trail.commit(released("keys/x"))
    trail.close()


def test_the_reserve_is_used_when_the_disk_is_full(
    audit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RecordedEvents()
    trail = AuditTrail(audit, log, reserve_bytes=65536)
    trail.open()
    reserve = audit / FILE
    assert reserve.stat().st_blocks * 512 >= 65536
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        if reserve.stat().st_size:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    trail.record(created(1))
    assert events(audit)[-1] == "key.created"
    assert len(log.of(WarningAudit)) == 1
    monkeypatch.undo()
    trail.record_head()
    assert reserve.stat().st_size == 65536  # as soon as there is space again
    trail.close()
    assert check(audit).problems == ()


def test_a_link_in_the_place_of_the_reserve_is_not_followed(audit: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"content")
    (audit / FILE).symlink_to(other)
    reserve = Reserve(audit, 65536)
    reserve.fill()
    assert not reserve.release()
    assert other.read_bytes() == b"content"


def test_a_file_of_the_trail_in_the_place_of_the_reserve_is_not_emptied(audit: Path) -> None:
    """A second name of it, with which a full disk would have it truncated."""
    trail = opened(audit)
    trail.record(created(1))
    trail.close()
    (file,) = audit.glob("*.jsonl")
    content = file.read_bytes()
    (audit / FILE).hardlink_to(file)
    reserve = Reserve(audit, 65536)
    reserve.fill()
    assert not reserve.release()
    assert file.read_bytes() == content


def test_without_a_reserve_a_full_disk_prevents_the_change(
    audit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trail = opened(audit)

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageError, match="cannot be written"):
        trail.record(created(1))
    assert not (audit / FILE).exists()


def test_counts_that_could_not_be_recorded_are_counted_again(
    audit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", Disk(0).statvfs)
    budgets = Budgets(audit, Clock())
    budgets.measure()
    for number, event in enumerate((REFUSED, GENUINE, DENIED, WRAPPED, released("keys/x")), 1):
        assert [budgets.admits(event) for _ in range(number)] == [False] * number
    assert budgets.counts == (1, 3, 3, 4, 5)
    counts = budgets.take()
    assert counts is not None
    assert budgets.counts == (0, 0, 0, 0, 0)
    assert budgets.take() is None
    budgets.put_back(counts)
    assert budgets.counts == (1, 3, 3, 4, 5)
