"""The audit trail: what is kept, what shows, and that no release goes unrecorded."""

from __future__ import annotations

import ast
import errno
import json
import os
from pathlib import Path

import pytest

from tests.support.broker import KEY, KID, Recorder, running_broker
from verdictd_py import broker
from verdictd_py import daemon as app
from verdictd_py.cli import audit as command
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import ConfigError, StorageError
from verdictd_py.events.audit import AUDITED, MAX_STRANGERS_PER_MINUTE, AuditTrail, sealed, verify
from verdictd_py.guest.connection import BrokerRefused
from verdictd_py.simulator import SimulatedPlatform


class Clock:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def trail(tmp_path: Path) -> AuditTrail:
    trail = AuditTrail(tmp_path, Recorder(), monotonic=Clock())
    trail.open()
    return trail


def lines(directory: Path) -> list[bytes]:
    (file,) = directory.glob("*.jsonl")
    return file.read_bytes().splitlines(keepends=True)


def test_records_are_kept_in_order_and_verify(trail: AuditTrail, tmp_path: Path) -> None:
    for number in range(5):
        trail.record("secret.released", path=f"keys/{number}", key=SecretBytes(KEY))
    trail.record("request.answered", command="version")
    kept = lines(tmp_path)
    assert [json.loads(line)["fields"]["path"] for line in kept] == [f"keys/{n}" for n in range(5)]
    assert b"<32 secret bytes>" in kept[0]
    assert verify(iter(kept))[0] == 5
    (file,) = tmp_path.glob("*.jsonl")
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("damage", ["change", "remove", "swap", "insert", "cut", "garbage", "deep"])
def test_every_damage_shows(trail: AuditTrail, tmp_path: Path, damage: str) -> None:
    for number in range(4):
        trail.record("secret.released", path=f"keys/{number}")
    kept = lines(tmp_path)
    match damage:
        case "change":
            kept[1] = kept[1].replace(b"keys/1", b"keys/9")
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


def test_a_line_changed_and_sealed_again_does_not_fit_the_next(
    trail: AuditTrail, tmp_path: Path
) -> None:
    """An attacker who computes a new digest must rewrite every later line too."""
    for number in range(3):
        trail.record("secret.released", path=f"keys/{number}")
    kept = lines(tmp_path)
    members = json.loads(kept[1])
    del members["digest"]
    members["fields"]["path"] = "keys/9"
    kept[1], _ = sealed(members, members["previous"])
    with pytest.raises(StorageError, match="line 3 does not follow the line before it"):
        verify(iter(kept))


def test_a_line_of_another_trail_does_not_fit(tmp_path: Path) -> None:
    """It has the right number and a good seal of its own."""
    kept = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        trail = AuditTrail(tmp_path / name, Recorder(), monotonic=Clock())
        trail.open()
        for number in range(2):
            trail.record("secret.released", path=f"keys/{name}/{number}")
        kept.append(lines(tmp_path / name))
    with pytest.raises(StorageError, match="line 2 does not follow the line before it"):
        verify(iter([kept[0][0], kept[1][1]]))


def test_the_end_cut_off_shows_against_the_log(trail: AuditTrail, tmp_path: Path) -> None:
    log = trail._log
    assert isinstance(log, Recorder)
    for number in range(3):
        trail.record("secret.released", path=f"keys/{number}")
    trail.close()
    (closed,) = log.named("audit.closed")
    assert verify(iter(lines(tmp_path))) == (closed["records"], closed["digest"])
    assert verify(iter(lines(tmp_path)[:-1])) != (closed["records"], closed["digest"])


def test_strangers_cannot_fill_the_disk(tmp_path: Path) -> None:
    clock = Clock()
    trail = AuditTrail(tmp_path, Recorder(), monotonic=clock)
    trail.open()
    for _ in range(MAX_STRANGERS_PER_MINUTE + 50):
        trail.record("guest.refused", peer="192.0.2.1:5")
    trail.record("secret.released", path="keys/x")
    assert len(lines(tmp_path)) == MAX_STRANGERS_PER_MINUTE + 1
    clock.now = 61
    trail.record("guest.refused", peer="192.0.2.1:5")
    kept = [json.loads(line) for line in lines(tmp_path)]
    assert kept[-2]["event"] == "audit.not-kept"
    assert kept[-2]["fields"] == {"refusals": 50}
    assert verify(iter(lines(tmp_path)))[0] == MAX_STRANGERS_PER_MINUTE + 3


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


def test_whatever_the_use_cases_do_is_kept() -> None:
    """All of it but what precedes something that is."""
    texts = [file.read_text() for file in Path(broker.__file__).parent.glob("*.py")]
    calls = [
        node.args[0]
        for text in texts
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "record"
    ]
    named = {
        each.value
        for call in calls
        for each in ast.walk(call)
        if isinstance(each, ast.Constant) and isinstance(each.value, str)
    }
    assert len(named) > 15
    assert named - AUDITED == {"wrap.requested", "key.read"}


def test_a_half_written_line_is_taken_back(
    trail: AuditTrail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    trail.record("secret.released", path="keys/1")
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:10]))
    with pytest.raises(StorageError):
        trail.record("secret.released", path="keys/2")
    monkeypatch.undo()
    trail.record("secret.released", path="keys/3")
    assert verify(iter(lines(tmp_path)))[0] == 2


def test_a_directory_that_is_gone_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="audit trail"):
        AuditTrail(tmp_path / "none", Recorder()).open()


def test_the_command_says_which_file_was_changed(
    trail: AuditTrail, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trail.record("secret.released", path="keys/1")
    (file,) = tmp_path.glob("*.jsonl")
    assert command.run(["verify", str(file)]) == 0
    assert "1 records, digest " in capsys.readouterr().out
    file.write_bytes(file.read_bytes().replace(b"keys/1", b"keys/2"))
    assert command.run(["verify", str(file)]) == 1
    assert "line 1 was changed" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="cannot read"):
        command.run(["verify", str(tmp_path / "none")])
