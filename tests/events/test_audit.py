"""The audit trail: what is kept, what shows, and that no release goes unrecorded."""

from __future__ import annotations

import errno
import hashlib
import importlib
import json
import os
import pkgutil
import re
from pathlib import Path
from typing import Annotated, Any

import pytest

from tests.support.broker import KEY, KID, running_broker
from tests.support.events import RecordedEvents
from verdictd_py import broker
from verdictd_py import daemon as app
from verdictd_py.cli import audit as command
from verdictd_py.domain.events import (
    AuditClosed,
    AuditNotKept,
    AuditOpened,
    GuestRefused,
    KeyRead,
    RequestAnswered,
    ResourceSet,
    SecretReleased,
    WarningAudit,
    WarningBug,
    WrapRefused,
    WrapRequested,
)
from verdictd_py.domain.eventtypes import Audit, Event, FieldInfo, Level, event
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import ConfigError, StorageError
from verdictd_py.events.audit import AuditTrail
from verdictd_py.events.budgets import MAX_LIMITED_PER_MINUTE
from verdictd_py.events.chain import sealed, verify
from verdictd_py.guest.connection import BrokerRefused
from verdictd_py.simulator import SimulatedPlatform


class Clock:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


REFUSED = GuestRefused(
    peer="192.0.2.1:5",
    appraisal="a1",
    code="policy-refused",
    tee=None,
    form="test",
    tcb_status=None,
    evidence=None,
    reasons=("r1", "r2"),
)


def released(path: str) -> SecretReleased:
    return SecretReleased(peer="192.0.2.1:5", appraisal="a1", tee="tdx", what="key", path=path)


@pytest.fixture
def log() -> RecordedEvents:
    return RecordedEvents()


@pytest.fixture
def trail(tmp_path: Path, log: RecordedEvents) -> AuditTrail:
    trail = AuditTrail(tmp_path, log, monotonic=Clock())
    trail.open()
    return trail


def lines(directory: Path) -> list[bytes]:
    (file,) = directory.glob("*.jsonl")
    return file.read_bytes().splitlines(keepends=True)


OWN = 2
"""Records that the trail writes about itself at the beginning of a file: `audit.began`, a head."""


def records(directory: Path) -> list[dict[str, Any]]:
    """Return the records of events that others cause."""
    decoded = [json.loads(line) for line in lines(directory)]
    return [line for line in decoded if line["event"] not in ("audit.began", "audit.head")]


def test_records_are_kept_in_order_and_verify(trail: AuditTrail, tmp_path: Path) -> None:
    for number in range(5):
        trail.record(released(f"keys/{number}"))
    trail.record(RequestAnswered(peer="192.0.2.1:5", command="version", answer_bytes=2))
    kept = [record["fields"]["path"] for record in records(tmp_path)]
    assert kept == [f"keys/{number}" for number in range(5)]
    assert verify(iter(lines(tmp_path)))[0] == OWN + 5
    (file,) = tmp_path.glob("*.jsonl")
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("damage", ["change", "remove", "swap", "insert", "cut", "garbage", "deep"])
def test_every_damage_shows(trail: AuditTrail, tmp_path: Path, damage: str) -> None:
    for number in range(4):
        trail.record(released(f"keys/{number}"))
    kept = lines(tmp_path)
    match damage:
        case "change":
            kept[3] = kept[3].replace(b"keys/1", b"keys/9")
        case "remove":
            del kept[1]
        case "swap":
            kept[1], kept[2] = kept[2], kept[1]
        case "insert":
            kept.insert(1, kept[1])
        case "cut":
            kept[-1] = kept[-1][:-1]
        case "garbage":
            kept[2] = b"\xff\n"
        case "deep":
            kept[2] = b"[" * 100_000 + b"\n"
    with pytest.raises(StorageError, match="line "):
        verify(iter(kept))


@pytest.mark.parametrize(
    ("written", "forged"),
    [
        (b'{"digest"', b'{"event":"guest.refused","digest"'),
        (b'"path":"keys/1"', b'"path":"keys/9","path":"keys/1"'),
        (b'"keys/1"', b'"keys\\u002f1"'),
        (b'"event":', b'"event": '),
    ],
)
def test_another_spelling_of_a_record_shows(
    trail: AuditTrail, tmp_path: Path, written: bytes, forged: bytes
) -> None:
    """Its digest is the same, but programs that search for text find something else."""
    for number in range(4):
        trail.record(released(f"keys/{number}"))
    kept = lines(tmp_path)
    assert written in kept[3]
    kept[3] = kept[3].replace(written, forged)
    with pytest.raises(StorageError, match="line 4 was changed after it was written"):
        verify(iter(kept))


def test_a_line_changed_and_sealed_again_does_not_fit_the_next(
    trail: AuditTrail, tmp_path: Path
) -> None:
    """An attacker who computes a new digest must rewrite every later line too."""
    for number in range(3):
        trail.record(released(f"keys/{number}"))
    kept = lines(tmp_path)
    members = json.loads(kept[3])
    del members["digest"]
    members["fields"]["path"] = "keys/9"
    kept[3], _ = sealed(members, members["previous"])
    with pytest.raises(StorageError, match="line 5 does not follow the line before it"):
        verify(iter(kept))


def test_a_line_of_another_trail_does_not_fit(tmp_path: Path) -> None:
    """It has the right number and a good seal of its own."""
    kept = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        trail = AuditTrail(tmp_path / name, RecordedEvents(), monotonic=Clock())
        trail.open()
        for number in range(2):
            trail.record(released(f"keys/{name}/{number}"))
        kept.append(lines(tmp_path / name))
    with pytest.raises(StorageError, match="line 2 does not follow the line before it"):
        verify(iter([kept[0][0], kept[1][1]]))


def test_the_end_cut_off_shows_against_the_log(
    trail: AuditTrail, log: RecordedEvents, tmp_path: Path
) -> None:
    for number in range(3):
        trail.record(released(f"keys/{number}"))
    trail.close()
    (closed,) = log.of(AuditClosed)
    assert verify(iter(lines(tmp_path))) == (closed.records, closed.digest)
    assert verify(iter(lines(tmp_path)[:-1])) != (closed.records, closed.digest)


def test_unauthenticated_peers_cannot_fill_the_disk(tmp_path: Path) -> None:
    clock = Clock()
    log = RecordedEvents()
    trail = AuditTrail(tmp_path, log, monotonic=clock)
    trail.open()
    for _ in range(MAX_LIMITED_PER_MINUTE + 50):
        trail.record(REFUSED)
    trail.record(released("keys/x"))
    assert len(records(tmp_path)) == MAX_LIMITED_PER_MINUTE + 1
    clock.now = 61
    trail.record_omitted()
    trail.record_omitted()
    trail.record(REFUSED)
    kept = records(tmp_path)
    assert [line["event"] for line in kept[-2:]] == ["audit.not-kept", "guest.refused"]
    assert kept[-2]["fields"] == {"refusals": 50, "failed": 0, "unauthenticated": 50}
    assert log.of(AuditNotKept) == [AuditNotKept(refusals=50, failed=0, unauthenticated=50)]
    assert len(kept) == MAX_LIMITED_PER_MINUTE + 3
    verify(iter(lines(tmp_path)))


async def test_what_cannot_be_recorded_is_not_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = SimulatedPlatform.create(now=app.utc_now())
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        if b'"secret.released"' in data:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)

    async with running_broker(tmp_path, platform) as broker, broker.guest() as guest:
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(BrokerRefused, match="audit trail cannot be written"):
            await guest.keks([KID])
        monkeypatch.undo()
        assert (await guest.keks([KID]))[KID].reveal() == KEY


def test_all_events_of_the_use_cases_are_audited() -> None:
    """Except those that precede one that is, refusals that a local user can cause, and warnings."""
    modules = [
        importlib.import_module(module.name)
        for module in pkgutil.iter_modules(broker.__path__, f"{broker.__name__}.")
    ]
    used = {
        kind
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event
    }
    assert len(used) > 15
    assert {kind for kind in used if kind.spec.audit is Audit.NO} == {
        WrapRequested,
        WrapRefused,
        WarningAudit,
        WarningBug,
        KeyRead,
    }


class Watched(RecordedEvents):
    """A log that notes how many lines the audit trail has when an event reaches the log."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory
        self.counts: list[int] = []

    def record(self, event: Event) -> None:
        super().record(event)
        self.counts.append(len(lines(self.directory)))


def test_an_event_is_audited_before_it_is_logged(tmp_path: Path) -> None:
    log = Watched(tmp_path)
    trail = AuditTrail(tmp_path, log)
    trail.open()
    trail.record(released("keys/1"))
    trail.record(REFUSED)
    assert log.names == ["audit.opened", "audit.head", "secret.released", "guest.refused"]
    assert log.counts == [0, OWN, OWN + 1, OWN + 2]


def test_an_event_that_cannot_be_audited_is_not_logged(
    trail: AuditTrail, log: RecordedEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its caller then does not do what the log would report."""

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageError):
        trail.record(released("keys/1"))
    monkeypatch.undo()
    assert log.names == ["audit.opened", "audit.head"]


def test_the_form_of_a_line_is_unchanged(trail: AuditTrail, tmp_path: Path) -> None:
    """Existing files and the tools that read them depend on each byte."""
    trail.record(ResourceSet(caller="uid 0", path="resources/a/b/\u00fc", content=SecretBytes(KEY)))
    trail.record(REFUSED)
    first, second = lines(tmp_path)[OWN:]
    time = r'"time":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+\+00:00"'
    digest = r'"digest":"([0-9a-f]{64})"'
    match = re.fullmatch(
        r"\{" + digest + r',"event":"resource.set","fields":'
        r'\{"caller":"uid 0","content":"<32 secret bytes>","path":"resources/a/b/\\u00fc"\},'
        r'"number":2,"previous":"[0-9a-f]{64}",' + time + r"\}\n",
        first.decode("ascii"),
    )
    assert match is not None
    expected = (
        r"\{" + digest + r',"event":"guest.refused","fields":\{"appraisal":"a1",'
        r'"code":"policy-refused","evidence":null,"form":"test","peer":"192.0.2.1:5",'
        r'"reasons":\["r1","r2"\],"tcb_status":null,"tee":null\},'
        r'"number":3,"previous":"' + match[1] + '",' + time + r"\}\n"
    )
    assert re.fullmatch(expected, second.decode("ascii"))


def test_a_file_of_an_earlier_version_verifies() -> None:
    """A line whose fields are not those of the catalogue."""
    earlier = (
        b'{"digest":"DIGEST","event":"secret.released","fields":{"path":"keys/x"},'
        b'"number":0,"previous":"' + b"0" * 64 + b'","time":"2026-11-24T12:00:00+00:00"}'
    )
    body = earlier.replace(b'"digest":"DIGEST",', b"")
    digest = hashlib.sha256(body).hexdigest()
    assert verify(iter([earlier.replace(b"DIGEST", digest.encode()) + b"\n"])) == (1, digest)


@event("vendor.rebooted", level=Level.WARNING, audit=Audit.YES)
class VendorRebooted(Event):
    """A plug-in's event."""

    host: Annotated[str, FieldInfo("Name of the host.", characters=8)]


def test_an_event_of_a_plug_in_is_audited(trail: AuditTrail, tmp_path: Path) -> None:
    trail.record(VendorRebooted(host="a-long-host-name"))
    (record,) = records(tmp_path)
    assert record["event"] == "vendor.rebooted"
    assert record["fields"] == {"host": "a-long-h...[8 more characters]"}


def test_a_half_written_line_is_taken_back(
    trail: AuditTrail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    for number in range(2):
        trail.record(released(f"keys/{number}"))
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:10]))
    with pytest.raises(StorageError):
        trail.record(released("keys/2"))
    monkeypatch.undo()
    trail.record(released("keys/3"))
    assert verify(iter(lines(tmp_path)))[0] == OWN + 3


def test_a_directory_that_is_gone_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="audit trail"):
        AuditTrail(tmp_path / "none", RecordedEvents()).open()


def test_the_command_says_which_file_was_changed(
    trail: AuditTrail, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trail.record(released("keys/1"))
    (file,) = tmp_path.glob("*.jsonl")
    assert command.run(["verify", str(file)]) == 0
    assert "3 records, digest " in capsys.readouterr().out
    file.write_bytes(file.read_bytes().replace(b"keys/1", b"keys/2"))
    assert command.run(["verify", str(file)]) == 1
    assert "line 3 was changed" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="cannot read"):
        command.run(["verify", str(tmp_path / "none")])


def test_the_limit_starts_again_after_each_minute(tmp_path: Path) -> None:
    """Every minute has its own full count, and only a minute with omissions records them."""
    clock = Clock()
    trail = AuditTrail(tmp_path, RecordedEvents(), monotonic=clock)
    trail.open()
    expected = []
    for minute, extra in enumerate((0, 1, 2, 0)):
        clock.now = 60.0 * minute
        for _ in range(MAX_LIMITED_PER_MINUTE + extra):
            trail.record(REFUSED)
        trail.record_omitted()
        expected += [extra] if extra else []
    trail.record(released("keys/x"))
    kept = records(tmp_path)
    omitted = [line["fields"]["refusals"] for line in kept if line["event"] == "audit.not-kept"]
    assert omitted == expected
    assert len(kept) == 4 * MAX_LIMITED_PER_MINUTE + len(expected) + 1


def test_nothing_verifies_as_no_record() -> None:
    assert verify(iter([])) == (0, "0" * 64)


def test_the_log_names_the_file(trail: AuditTrail, log: RecordedEvents, tmp_path: Path) -> None:
    (file,) = tmp_path.glob("*.jsonl")
    (opened,) = log.of(AuditOpened)
    assert opened.file == f"audit/{file.name}"


def test_a_closed_trail_only_logs(trail: AuditTrail, log: RecordedEvents, tmp_path: Path) -> None:
    trail.close()
    trail.record(released("keys/x"))
    assert records(tmp_path) == []
    assert log.of(SecretReleased)
