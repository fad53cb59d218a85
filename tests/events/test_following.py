"""Records are followed while files are rotated, pruned, replaced and compressed."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from tests.events.trails import created, opened
from verdictd_py.events.following import Follower
from verdictd_py.events.reading import AuditRecord, merged
from verdictd_py.events.retention import Retention, Rotation
from verdictd_py.events.scan import files_of


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    (tmp_path / "audit").mkdir()
    return tmp_path / "audit"


def kids(records: list[AuditRecord]) -> list[str]:
    return [record.fields["kid"] for record in records if record.event == "key.created"]


def test_records_of_rotated_and_pruned_files_are_read_once(audit: Path) -> None:
    rotation, retention = Rotation(size=4096), Retention(size=8192)
    trail = opened(audit, rotation=rotation, retention=retention)
    for number in range(3):
        trail.record(created(number))
    follower = Follower(lambda: files_of(audit))
    read = list(follower.before(merged(files_of(audit))))
    for number in range(3, 60):
        trail.record(created(number))
        read += follower.new()
        if number % 20 == 0:
            trail.prune()
    trail.close()
    read += follower.new()
    assert kids(read) == [f"key-{number}" for number in range(60)]
    assert len(follower._positions) == len(files_of(audit)) < 5


def test_files_that_were_begun_in_one_second_are_read_in_the_order_of_their_records(
    audit: Path,
) -> None:
    """Their names end with a random number."""
    trail = opened(audit, rotation=Rotation(size=4096))
    for number in range(60):
        trail.record(created(number))
    trail.close()
    paths = files_of(audit)
    assert len(paths) > 2
    for order in (paths, paths[::-1], [*paths[1::2], *paths[::2]]):
        assert kids(list(Follower(lambda order=order: order).new())) == [  # type: ignore[misc]
            f"key-{number}" for number in range(60)
        ]


def test_a_file_that_is_removed_between_its_listing_and_its_reading(audit: Path) -> None:
    trail = opened(audit)
    trail.record(created(1))
    follower = Follower(lambda: [audit / "removed.jsonl", *files_of(audit)])
    assert kids(list(follower.new())) == ["key-1"]
    trail.close()


def test_a_file_that_was_replaced_is_read_from_its_beginning(audit: Path) -> None:
    trail = opened(audit)
    trail.record(created(1))
    (file,) = files_of(audit)
    follower = Follower(lambda: [file])
    list(follower.new())
    other = audit / "other"
    other.write_bytes(file.read_bytes())
    other.replace(file)
    assert kids(list(follower.new())) == ["key-1"]
    trail.close()


def test_a_line_without_its_end_and_a_compressed_file_wait(audit: Path) -> None:
    trail = opened(audit)
    trail.record(created(1))
    trail.close()
    (file,) = files_of(audit)
    (audit / "old.jsonl.gz").write_bytes(gzip.compress(file.read_bytes()))
    data = file.read_bytes()
    file.write_bytes(data[:-5])
    follower = Follower(lambda: files_of(audit))
    before = list(follower.before(merged([file])))
    assert before[-1].event == "unreadable"
    assert list(follower.new()) == []
    file.write_bytes(data)
    assert [record.event for record in follower.new()] == ["audit.head"]
    assert kids(before) == ["key-1"]
