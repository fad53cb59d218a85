"""Numbers of documents, and the recognition of documents that are rolled back."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.support.events import RecordedEvents
from verdictd_py.errors import StorageError
from verdictd_py.ports.revisions import revision_of
from verdictd_py.storage.digests import DigestLog
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.revisions import MAX_DIGESTS, DocumentRevisions

POLICY = "opa/tdxPolicy.rego"


class Broker:
    """One process that reads documents of a data directory."""

    def __init__(self, path: Path) -> None:
        self.directory = Directory.open(path)
        self.directory.make("opa")
        self.events = RecordedEvents()
        self.log = DigestLog(self.events, DocumentRevisions(self.directory, self.events).note)

    async def read(self) -> None:
        digest = revision_of(self.directory.read(("opa", "tdxPolicy.rego")))
        await self.log.observe({POLICY: digest})

    async def write(self, content: bytes) -> None:
        self.directory.replace(("opa", "tdxPolicy.rego"), content)
        await self.read()

    @property
    def numbers(self) -> list[object]:
        return [changed.get("revision") for changed in self.events.named("file.changed")]


@pytest.fixture
def broker(tmp_path: Path) -> Broker:
    return Broker(tmp_path)


async def test_each_change_has_the_next_number(broker: Broker, tmp_path: Path) -> None:
    for content in (b"1", b"2", b"3"):
        await broker.write(content)
    assert broker.numbers == [1, 2, 3]
    again = Broker(tmp_path)
    await again.read()
    assert again.numbers == [3]
    assert not again.events.named("warning.rolled-back")


async def test_an_older_content_is_recorded_with_both_digests(broker: Broker) -> None:
    for content in (b"1", b"2", b"3"):
        await broker.write(content)
    broker.directory.replace(("opa", "tdxPolicy.rego"), b"1")
    await broker.read()
    assert broker.events.named("warning.rolled-back") == [
        {
            "file": POLICY,
            "revision": 4,
            "earlier": 1,
            "sha256": revision_of(b"1"),
            "replaced": revision_of(b"3"),
        }
    ]


async def test_a_roll_back_while_no_broker_runs_is_recorded_at_the_start(
    broker: Broker, tmp_path: Path
) -> None:
    for content in (b"old", b"new"):
        await broker.write(content)
    (tmp_path / "opa" / "tdxPolicy.rego").write_bytes(b"old")
    started = Broker(tmp_path)
    await started.read()
    (rolled_back,) = started.events.named("warning.rolled-back")
    assert (rolled_back["revision"], rolled_back["earlier"]) == (3, 1)


async def test_many_processes_that_read_one_change_number_it_once(tmp_path: Path) -> None:
    brokers = [Broker(tmp_path) for _ in range(6)]
    for number in range(10):
        brokers[number % 6].directory.replace(("opa", "tdxPolicy.rego"), f"{number}".encode())
        await asyncio.gather(*(broker.read() for broker in brokers))
    assert {tuple(broker.numbers) for broker in brokers} == {tuple(range(1, 11))}
    assert not any(broker.events.named("warning.rolled-back") for broker in brokers)


async def test_a_process_that_is_late_reports_no_roll_back(tmp_path: Path) -> None:
    """It has read a content that another process has replaced meanwhile."""
    late, current = Broker(tmp_path), Broker(tmp_path)
    await current.write(b"1")
    await current.write(b"2")
    await late.log.observe({POLICY: revision_of(b"1")})
    await late.read()
    assert not late.events.named("warning.rolled-back")
    assert late.numbers == [None, 2]


async def test_a_damaged_file_is_reported_once_and_not_replaced(
    broker: Broker, tmp_path: Path
) -> None:
    await broker.write(b"1")
    (tmp_path / "revisions" / "documents").write_bytes(b"{")
    for content in (b"2", b"3"):
        await broker.write(content)
    assert len(broker.events.named("warning.storage")) == 1
    assert (tmp_path / "revisions" / "documents").read_bytes() == b"{"
    assert broker.numbers == [1, None, None]


async def test_the_file_is_limited(broker: Broker, tmp_path: Path) -> None:
    for number in range(MAX_DIGESTS + 20):
        await broker.write(f"{number}".encode())
    documents = json.loads((tmp_path / "revisions" / "documents").read_bytes())["documents"]
    assert documents[POLICY]["revision"] == MAX_DIGESTS + 20
    assert len(documents[POLICY]["digests"]) == MAX_DIGESTS
    await broker.write(str(MAX_DIGESTS).encode())
    assert len(broker.events.named("warning.rolled-back")) == 1


async def test_other_files_have_no_number(broker: Broker, tmp_path: Path) -> None:
    await broker.log.observe({"image/policy.json": "ab" * 32, "/etc/x": None})
    assert not (tmp_path / "revisions").exists()


async def test_a_roll_back_that_cannot_be_recorded_decides_nothing_and_is_recorded_later(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for content in (b"1", b"2"):
        await broker.write(content)

    async def full(*events: object) -> None:
        raise StorageError("the audit trail cannot be written")

    with monkeypatch.context() as patched:
        patched.setattr(broker.events, "commit", full)
        with pytest.raises(StorageError, match="audit trail"):
            await broker.write(b"1")
    await broker.read()
    assert len(broker.events.named("warning.rolled-back")) == 1
