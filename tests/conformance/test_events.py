"""Conformance of the port `Events`: the log, the audit trail, and the recorder of the tests."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.events import RecordedEvents
from verdictd_py.domain.events import DaemonStopping, KeyCreated, ResourceSet, WarningStorage
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.events.audit import AuditTrail
from verdictd_py.events.log import LogEvents
from verdictd_py.ports import Events


class EventsSuite(ABC):
    """Subclasses define `events`, and `written`: everything that the receiver has stored."""

    @pytest.fixture
    @abstractmethod
    def events(self) -> Events:
        """A receiver that has received nothing."""

    @abstractmethod
    def written(self, events: Events) -> str:
        """Return what it has stored, as text."""

    def test_an_audited_event_is_stored_with_its_fields(self, events: Events) -> None:
        events.record(KeyCreated(caller="uid 7", kid="default/key/1"))
        for text in ("key.created", "uid 7", "default/key/1"):
            assert text in self.written(events)

    def test_events_are_stored_in_their_order(self, events: Events) -> None:
        for number in range(5):
            events.record(KeyCreated(caller="uid 0", kid=f"key-{number}"))
        positions = [self.written(events).index(f"key-{number}") for number in range(5)]
        assert positions == sorted(positions)

    def test_a_secret_is_never_stored(self, events: Events) -> None:
        secret = SecretBytes(b"a secret of 24 bytes ...")
        events.record(ResourceSet(caller="uid 0", path="a/b/c", content=secret))
        assert "resource.set" in self.written(events)
        assert "a secret" not in self.written(events)
        assert secret.reveal().hex() not in self.written(events)

    def test_no_field_forges_a_line(self, events: Events) -> None:
        events.record(KeyCreated(caller='x"\n{"event": "key.deleted"}\n', kid="k"))
        assert not [
            line
            for line in self.written(events).splitlines()
            if line.startswith('{"event": "key.deleted"')
        ]

    def test_events_that_are_not_audited_are_accepted_as_well(self, events: Events) -> None:
        events.record(DaemonStopping())
        events.record(WarningStorage(reason="x" * 100_000))


class TestLogAsText(EventsSuite):
    @pytest.fixture
    def events(self) -> Events:
        self.stream = io.StringIO()
        return LogEvents(self.stream.write, "text")

    def written(self, events: Events) -> str:
        return self.stream.getvalue()


class TestLogAsJson(TestLogAsText):
    @pytest.fixture
    def events(self) -> Events:
        self.stream = io.StringIO()
        return LogEvents(self.stream.write, "json")


class TestAuditTrail(EventsSuite):
    @pytest.fixture
    def events(self, tmp_path: Path) -> Iterator[Events]:
        self.directory = tmp_path
        trail = AuditTrail(tmp_path, RecordedEvents())
        trail.open()
        yield trail
        trail.close()

    def written(self, events: Events) -> str:
        (file,) = self.directory.glob("*.jsonl")
        return file.read_text()


class TestRecorder(EventsSuite):
    @pytest.fixture
    def events(self) -> Events:
        return RecordedEvents()

    def written(self, events: Events) -> str:
        assert isinstance(events, RecordedEvents)
        return events.logged
