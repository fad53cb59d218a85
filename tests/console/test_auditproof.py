"""The console verifies and exports the newest part of the audit trail, and says what it omitted."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import threading
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.events.trails import SIGNER, run_once
from tests.support.broker import RunningBroker
from tests.support.console import person, pin_good_guest
from verdictd_py.console import auditproof
from verdictd_py.console.auditproof import TYPES
from verdictd_py.console.audittrail import AuditSearch
from verdictd_py.daemon import consolelistener
from verdictd_py.events.heads import HeadSigner


async def trail(broker: RunningBroker) -> Path:
    (file,) = [each for each in (broker.data / "audit").iterdir() if each.suffix == ".jsonl"]
    return file


@pytest.mark.broker(console="127.0.0.1:0")
async def test_a_trail_is_verified_on_the_page(broker: RunningBroker) -> None:
    await pin_good_guest(broker)
    async with person(broker) as someone:
        page = await someone.text("/audit")
        assert "No verified record was changed" not in page
        page = await someone.text("/audit?verify=1")
        assert "No verified record was changed after it was written." in page
        file = await trail(broker)
        lines = file.read_bytes().split(b"\n")
        lines[1] = lines[1].replace(b'"time"', b' "time"')
        file.write_bytes(b"\n".join(lines))
        page = await someone.text("/audit?verify=1")
        assert "The trail was changed after it was written" in page
        assert file.name in page[page.index('id="verify"') :]


@pytest.mark.broker(console="127.0.0.1:0")
@pytest.mark.parametrize("form", TYPES)
async def test_records_are_exported(broker: RunningBroker, form: str) -> None:
    await pin_good_guest(broker)
    async with person(broker) as someone:
        page = await someone.text("/audit?event=guest.*")
        paths = map(unescape, re.findall(r'href="(/audit/export[^"]*)"', page))
        answer = await someone.get(next(path for path in paths if path.endswith(form)))
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == TYPES[form]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    disposition = answer.headers["Content-Disposition"]
    assert re.fullmatch(rf'attachment; filename="audit-\d+T\d+Z\.{form}"', disposition)
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(answer.text)))
        assert {row["event"] for row in rows} == {"guest.accepted"}
    if form == "jsonl":
        events = [json.loads(line)["event"] for line in answer.text.splitlines()]
        assert set(events) == {"guest.accepted"}


@pytest.mark.broker(console="127.0.0.1:0")
@pytest.mark.parametrize(
    ("name", "path"),
    [("search", "/audit"), ("verify", "/audit?verify=1"), ("export", "/audit/export?form=csv")],
)
async def test_files_are_read_in_a_thread(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch, name: str, path: str
) -> None:
    """To verify 32 MiB takes two seconds, in which the event loop serves guests."""
    read, threads = getattr(consolelistener, name), []

    def noted(*values: Any) -> Any:
        threads.append(threading.current_thread())
        return read(*values)

    monkeypatch.setattr(consolelistener, name, noted)
    async with person(broker) as someone:
        await someone.text(path)
    assert threads
    assert threading.main_thread() not in threads


@pytest.mark.broker(console="127.0.0.1:0")
async def test_an_export_of_another_form_is_refused(broker: RunningBroker) -> None:
    async with person(broker) as someone:
        assert (await someone.get("/audit/export?form=html")).status_code == 400
        assert (await someone.get("/audit/export")).status_code == 400


def records(directory: Path, name: str, number: int) -> None:
    """Write records without a chain."""
    record = {"number": 1, "event": "key.created", "digest": "", "fields": {"kid": "=1+1"}}
    lines = (json.dumps({**record, "time": f"2026-11-27T{n:06}"}) for n in range(number))
    (directory / name).write_text("\n".join(lines) + "\n")


def test_an_export_is_bounded_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records(tmp_path, "a.jsonl", 10)
    whole = auditproof.export(tmp_path, AuditSearch(), "jsonl")
    assert (whole.number, whole.complete) == (10, True)
    monkeypatch.setattr(auditproof, "MAX_EXPORTED", 3)
    part = auditproof.export(tmp_path, AuditSearch(), "jsonl")
    times = [json.loads(line)["time"] for line in part.text.splitlines()]
    assert times == [f"2026-11-27T{n:06}" for n in (7, 8, 9)]
    assert not part.complete
    monkeypatch.setattr(auditproof, "MAX_EXPORT_BYTES", 200)
    short = auditproof.export(tmp_path, AuditSearch(), "csv")
    assert len(short.text) <= 200
    assert not short.complete


def test_a_verification_is_bounded_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records(tmp_path, "20260101.jsonl", 10)
    records(tmp_path, "20260102.jsonl", 10)
    assert auditproof.verify(tmp_path).complete
    size = (tmp_path / "20260102.jsonl").stat().st_size
    monkeypatch.setattr(auditproof, "MAX_VERIFIED_BYTES", size)
    proof = auditproof.verify(tmp_path)
    assert (proof.files, proof.complete) == (1, False)
    assert proof.problems
    assert all("20260102.jsonl" in each for each in proof.problems), "the newest is verified"


def test_a_compressed_file_counts_for_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a small file would occupy a thread for minutes."""
    records(tmp_path, "1.jsonl", 100)
    compressed = gzip.compress((tmp_path / "1.jsonl").read_bytes())
    (tmp_path / "1.jsonl").unlink()
    (tmp_path / "1.jsonl.gz").write_bytes(compressed)
    monkeypatch.setattr(auditproof, "MAX_VERIFIED_BYTES", 10 * len(compressed))
    assert auditproof.verify(tmp_path).files == 1
    monkeypatch.setattr(auditproof, "MAX_VERIFIED_BYTES", 10 * len(compressed) - 1)
    assert auditproof.verify(tmp_path).files == 0


def test_the_signatures_of_the_broker_are_verified(tmp_path: Path) -> None:
    (tmp_path / "audit").mkdir()
    run_once(tmp_path / "audit", signer=SIGNER)
    unsigned = auditproof.verify(tmp_path / "audit")
    assert unsigned.signed is None
    proof = auditproof.verify(tmp_path / "audit", [SIGNER.public])
    assert proof.problems == ()
    assert proof.signed is not None
    assert proof.records - 1 <= proof.signed <= proof.records
    other = HeadSigner(Ed25519PrivateKey.generate())
    foreign = auditproof.verify(tmp_path / "audit", [other.public])
    assert "is not signed with the given key" in foreign.problems[0]
    assert foreign.signed == 0


@pytest.fixture
def broker_settings(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Path]:
    """A key of the audit trail, for the test of it."""
    if "own_key" not in request.node.name:
        return {}
    key = Ed25519PrivateKey.generate()
    path = tmp_path / "audit.key"
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return {"audit_key": path}


@pytest.mark.broker(console="127.0.0.1:0")
async def test_a_trail_is_verified_with_the_own_key(broker: RunningBroker) -> None:
    async with person(broker) as someone:
        page = await someone.text("/audit?verify=1")
    assert re.search(r"\d+ records? (is|are) covered by signatures of the broker.s own key", page)
