"""A group may read the audit trail if the settings say so, whatever the umask is."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.faults.support import exfat
from tests.support.events import RecordedEvents
from tests.support.tees import PROVING
from verdictd_py.config import Settings
from verdictd_py.errors import ConfigError
from verdictd_py.events.audit import AuditTrail
from verdictd_py.storage.layout import prepare, share_audit

GROUP, GID = "adm", 4  # Debian's group of those who may read logs

root_only = pytest.mark.skipif(os.getuid() != 0, reason="only root can change groups")


def files(data: Path) -> list[tuple[int, int]]:
    """Return mode and group of each audit file."""
    statuses = [path.stat() for path in (data / "audit").glob("*.jsonl")]
    return [(stat.S_IMODE(status.st_mode), status.st_gid) for status in statuses]


@root_only
@pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o777])
def test_each_file_gets_mode_and_group(tmp_path: Path, umask: int) -> None:
    data = tmp_path / "data"
    prepare(data, PROVING)
    os.chown(data, -1, GID)
    data.chmod(0o710)
    before = os.umask(umask)
    try:
        share_audit(data, "0640", GROUP)
        for _ in range(2):  # each run has a file
            trail = AuditTrail(data / "audit", RecordedEvents(), mode=0o640)
            trail.open()
            trail.close()
    finally:
        os.umask(before)
    assert files(data) == [(0o640, GID)] * 2
    assert stat.S_IMODE((data / "audit").stat().st_mode) == 0o2750
    prepare(data, PROVING)  # and it is no directory that others may write


def test_only_the_user_reads_by_default(tmp_path: Path) -> None:
    data = tmp_path / "data"
    prepare(data, PROVING)
    settings = Settings()
    share_audit(data, settings.audit_mode, settings.audit_group)
    trail = AuditTrail(data / "audit", RecordedEvents(), mode=int(settings.audit_mode, 8))
    trail.open()
    trail.close()
    assert [mode for mode, _ in files(data)] == [0o600]
    assert stat.S_IMODE((data / "audit").stat().st_mode) == 0o700


@root_only
def test_a_group_that_cannot_reach_the_files_is_one_line(tmp_path: Path) -> None:
    data = tmp_path / "data"
    prepare(data, PROVING)
    with pytest.raises(ConfigError, match=f"run 'chgrp adm {data}' and 'chmod g\\+x {data}'"):
        share_audit(data, "0640", GROUP)


@pytest.mark.parametrize(
    ("mode", "group", "message"),
    [
        ("0600", GROUP, "add --audit-mode 0640"),
        ("0640", "no-such-group", "correct --audit-group"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, mode: str, group: str, message: str) -> None:
    prepare(tmp_path / "data", PROVING)
    with pytest.raises(ConfigError, match=message):
        share_audit(tmp_path / "data", mode, group)


@pytest.mark.parametrize("mode", ["0644", "0660", "0777", "640"])
def test_other_modes_are_refused(mode: str) -> None:
    with pytest.raises(ValueError, match="audit_mode"):
        Settings(audit_mode=mode)  # type: ignore[arg-type]  # as the command line gives it


def test_the_trail_is_written_on_exfat(tmp_path: Path) -> None:
    with exfat(tmp_path) as mounted:
        data = mounted / "data"
        prepare(data, PROVING)
        trail = AuditTrail(data / "audit", RecordedEvents())
        trail.open()
        trail.close()
        assert len(files(data)) == 1
