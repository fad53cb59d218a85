"""Inspection of a data directory: a fixed number of files at the start, the rest afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.events import RecordedEvents
from tests.support.tees import PROVING
from verdictd_py.domain.events import WarningStorage
from verdictd_py.storage import inspection, layout, walks
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.inspection import Inspection
from verdictd_py.storage.layout import prepare


@pytest.fixture
def many_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Data directory with more keys than the start examines: all are readable for others."""
    prepare(tmp_path, PROVING)
    for number in range(60):
        key = tmp_path / "keys" / f"{number:02}"
        key.write_bytes(bytes(32))
        key.chmod(0o644)
    monkeypatch.setattr(layout, "EXAMINED_AT_START", 20)
    monkeypatch.setattr(inspection, "SLICE", 7)
    return tmp_path


def test_the_start_examines_a_fixed_number_of_files(
    many_keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examined: list[object] = []
    examine = walks.examine

    def counted(directory: Directory, *top: str) -> Iterator[object]:
        for item in examine(directory, *top):
            examined.append(item)
            yield item

    monkeypatch.setattr(walks, "examine", counted)
    prepare(many_keys, PROVING)
    documents = sum(len(of_tee.names) for of_tee in PROVING) + len(layout.RELEASE_FILES)
    assert len(examined) == 20 + documents  # whose permissions decide about the start


def test_the_start_examines_documents_first(many_keys: Path) -> None:
    """Directories that may have very many files do not hide the others."""
    (many_keys / "opa" / "link").symlink_to("nowhere")
    _, inspected = prepare(many_keys, PROVING)
    assert inspected.warnings[0].startswith("opa/link is a link that leads to nothing")


async def test_the_rest_is_examined_while_the_daemon_runs(many_keys: Path) -> None:
    (many_keys / "keys" / ".tmp-1").touch()
    directory, inspected = prepare(many_keys, PROVING)
    at_start = inspected.warnings
    assert not inspected.is_complete
    assert len(at_start) < 20
    events = RecordedEvents()
    await inspected.complete(events)
    assert inspected.is_complete
    assert len(inspected.warnings) == 60
    assert not (many_keys / "keys" / ".tmp-1").exists()
    recorded = [event.reason for event in events.of(WarningStorage)]
    assert sorted((*at_start, *recorded)) == sorted(inspected.warnings)
    assert Inspection(directory).warnings == ()


async def test_a_directory_that_cannot_be_read_ends_the_inspection(many_keys: Path) -> None:
    _, inspected = prepare(many_keys, PROVING)
    (many_keys / "audit").rmdir()
    events = RecordedEvents()
    await inspected.complete(events)
    (reason,) = [e.reason for e in events.of(WarningStorage) if "ended" in e.reason]
    assert "the directory audit" in reason
