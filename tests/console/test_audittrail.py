"""Search in the audit trail: only what is displayed stays in memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from verdictd_py.console import audittrail
from verdictd_py.console.audittrail import AuditSearch, search


def write(directory: Path, name: str, numbers: range) -> None:
    records = (
        {
            "number": n,
            "time": f"2026-11-27T{n:06}",
            "event": "key.created",
            "digest": "",
            "fields": {},
        }
        for n in numbers
    )
    (directory / name).write_text("".join(json.dumps(record) + "\n" for record in records))


def test_the_newest_records_of_all_files_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audittrail, "MAX_RECORDS", 3)
    write(tmp_path, "1.jsonl", range(0, 100, 2))
    write(tmp_path, "2.jsonl", range(1, 100, 2))
    found = search(tmp_path, AuditSearch())
    assert [record.number for record in found.records] == [99, 98, 97]
    assert found.complete


def test_records_that_are_not_displayed_are_not_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trail of 16 MiB has tens of thousands of records, with all their fields."""
    made = most = 0

    class Counted(audittrail.AuditRecord):
        def __new__(cls, *_: object) -> Counted:
            nonlocal made
            made += 1
            return super().__new__(cls)

        def __del__(self) -> None:
            nonlocal made, most
            most, made = max(most, made), made - 1

    monkeypatch.setattr(audittrail, "AuditRecord", Counted)
    write(tmp_path, "1.jsonl", range(5000))
    search(tmp_path, AuditSearch())
    assert most <= audittrail.MAX_RECORDS + 2


def test_a_line_that_is_not_a_record_is_displayed(tmp_path: Path) -> None:
    """It may be what is left of a record that was changed."""
    write(tmp_path, "1.jsonl", range(1))
    with (tmp_path / "1.jsonl").open("a") as stream:
        stream.write("{not a record\n")
    found = search(tmp_path, AuditSearch())
    assert [record.event for record in found.records] == ["key.created", "unreadable"]


def test_a_compressed_file_is_listed_and_makes_the_view_incomplete(tmp_path: Path) -> None:
    write(tmp_path, "2.jsonl", range(1))
    (tmp_path / "1.jsonl.gz").write_bytes(b"")
    found = search(tmp_path, AuditSearch(event="key.*"))
    assert [name for name, _ in found.files] == ["2.jsonl", "1.jsonl.gz"]
    assert (len(found.records), found.complete) == (1, False)
    assert search(tmp_path, AuditSearch(event="guest.*")).records == ()
    assert search(tmp_path, AuditSearch(until="2026-11-27T000000")).records == ()
