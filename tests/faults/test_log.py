"""The log stalls nothing, counts what it lost, and is not flooded by peers."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import environment, port_of, running_daemon
from tests.support.events import RecordedEvents
from verdictd_py.domain.events import (
    CATALOGUE,
    ConnectionClosed,
    GuestRefused,
    RequestFailed,
    WarningStorage,
)
from verdictd_py.events import floods, writer
from verdictd_py.events.audit import AuditTrail
from verdictd_py.events.floods import LINES_PER_MINUTE, OTHERS, Floods, source_of
from verdictd_py.events.log import LogEvents
from verdictd_py.events.sinks import sink
from verdictd_py.events.writer import MAX_QUEUED_BYTES, LogWriter

LINE = "x" * 1023 + "\n"


class Pipe:
    """Pipe whose reader takes nothing until the test reads."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        fcntl.fcntl(self.writing, fcntl.F_SETPIPE_SZ, 4096)

    def lines(self, last: str) -> list[str]:
        """Read lines until one contains `last`."""
        with os.fdopen(self.reading) as stream:
            found: list[str] = []
            for line in stream:
                found.append(line)
                if last in line:
                    break
            return found


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    os.close(made.writing)


def test_a_stalled_reader_blocks_no_writer_and_lost_lines_are_reported(pipe: Pipe) -> None:
    log_writer = LogWriter(pipe.writing)
    log_writer.on_dropped = LogEvents(log_writer.write, "json").report_dropped
    number = 2 * MAX_QUEUED_BYTES // len(LINE)
    for _ in range(number):  # blocks, and so ends by pytest's timeout, if it waits for the reader
        log_writer.write(LINE)
    complete = lost = 0
    with os.fdopen(pipe.reading) as stream:
        while complete + lost < number:  # an end of the writer's thread ends the test
            line = stream.readline()
            complete += line == LINE
            lost += 0 if line == LINE else json.loads(line)["lines"]
    assert complete + lost == number
    assert lost > number // 3
    assert log_writer.close() == 0


def test_an_end_does_not_wait_for_a_stalled_reader(pipe: Pipe) -> None:
    log_writer = LogWriter(pipe.writing)
    for _ in range(100):
        log_writer.write(LINE)
    assert 90 < log_writer.close(0.1) <= 100  # returns; what it could not write is counted
    os.close(pipe.reading)
    log_writer.close(60)  # no write may follow: the next test gets the same descriptor


def test_lines_that_wait_are_written_at_the_end(pipe: Pipe) -> None:
    log_writer = LogWriter(pipe.writing)
    for number in range(200):
        log_writer.write(f"line {number}\n")
    assert log_writer.close(60) == 0
    assert pipe.lines("line 199") == [f"line {number}\n" for number in range(200)]


@pytest.mark.parametrize("is_file", [False, True])
def test_lines_of_one_moment_are_written_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_file: bool
) -> None:
    """In pieces that the kernel does not mix with lines of another process."""
    writes: list[bytes] = []
    write = os.write

    def counted(descriptor: int, data: memoryview) -> int:
        writes.append(bytes(data))
        return write(descriptor, data)

    monkeypatch.setattr(writer, "GATHER_SECONDS", 3600)
    monkeypatch.setattr(os, "write", counted)
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    reading, writing = os.pipe()
    log_writer = LogWriter(log if is_file else writing)
    for number in range(100):
        log_writer.write(f"line {number:093}\n")
    assert log_writer.close(60) == 0
    for descriptor in (log, reading, writing):
        os.close(descriptor)
    pieces = 100 * 99 // (select.PIPE_BUF // 99 * 99) + 1
    assert len(writes) == (1 if is_file else pieces)
    assert all(data.endswith(b"\n") for data in writes)
    assert is_file or all(len(data) <= select.PIPE_BUF for data in writes)


def test_two_processes_that_write_large_pieces_to_one_file_do_not_mix_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "GATHER_SECONDS", 0.0001)
    path = tmp_path / "log"
    log = os.open(path, os.O_WRONLY | os.O_CREAT)  # as a shell opens it: one for both
    program = (
        "import sys\n"
        "from verdictd_py.events.writer import LogWriter\n"
        "log = LogWriter(2)\n"
        "for number in range(3000): log.write(f'{sys.argv[1]} {number:0300}\\n')\n"
        "sys.exit(log.close(60))\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program, name], stderr=log, env=environment())
        for name in ("one", "two")
    ]
    os.close(log)
    assert [each.wait(100) for each in running] == [0, 0]
    expected = [f"{name} {number:0300}" for name in ("one", "two") for number in range(3000)]
    assert sorted(path.read_text().splitlines()) == expected


def test_a_line_is_written_without_another_one(pipe: Pipe) -> None:
    log_writer = LogWriter(pipe.writing)
    for number in range(3):
        log_writer.write(f"line {number}\n")
        with os.fdopen(os.dup(pipe.reading)) as stream:
            assert stream.readline() == f"line {number}\n"
    assert log_writer.close(60) == 0


def test_a_person_who_follows_the_log_or_a_sink_does_not_notice_the_gathering() -> None:
    assert 0.01 <= writer.GATHER_SECONDS <= 0.1
    assert 0.01 <= sink.GATHER_SECONDS <= 0.1


def test_many_lines_do_not_wait(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "GATHER_SECONDS", 3600)
    log_writer = LogWriter(pipe.writing)
    for number in range(writer.WAKE_BYTES // 98):
        log_writer.write(f"line {number:093}\n")
    assert pipe.lines(f"{1:093}")
    log_writer.close(60)


def test_lines_after_one_that_cannot_be_written_are_written(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def failing(descriptor: int, data: memoryview) -> int:
        """Write up to the third line, and a part of that, and then fail once."""
        if (at := bytes(data).find(b"line 3")) < 0:
            return write(descriptor, data)
        if at == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[:at])

    monkeypatch.setattr(writer, "GATHER_SECONDS", 3600)
    monkeypatch.setattr(os, "write", failing)
    reports: list[int] = []
    log_writer = LogWriter(pipe.writing, on_dropped=reports.append)
    for number in range(6):
        log_writer.write(f"line {number}\n")
    assert log_writer.close(60) == 0
    assert reports == [1]
    assert pipe.lines("line 5") == [f"line {number}\n" for number in (0, 1, 2, 4, 5)]


def test_a_descriptor_that_does_not_block_loses_nothing(pipe: Pipe) -> None:
    """Another process that shares the descriptor can make it so."""
    os.set_blocking(pipe.writing, False)
    log_writer = LogWriter(pipe.writing)
    for number in range(1000):
        log_writer.write(f"line {number} {LINE}")
    assert len(pipe.lines("line 999")) == 1000
    assert log_writer.close() == 0


def test_lines_that_a_full_disk_refuses_are_counted_and_reported(tmp_path: Path) -> None:
    reports: list[int] = []
    reported = threading.Event()

    def on_dropped(lines: int) -> None:
        reports.append(lines)
        reported.set()

    log = os.open("/dev/full", os.O_WRONLY)
    log_writer = LogWriter(log, on_dropped=on_dropped)
    for _ in range(5):
        log_writer.write(LINE)
    while log_writer._dropped < 5:
        time.sleep(0)
    with (tmp_path / "log").open("wb") as file:
        os.dup2(file.fileno(), log)
    log_writer.write(LINE)
    assert reported.wait(60)
    assert reports == [5]
    assert (tmp_path / "log").read_text() == LINE
    os.close(log)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_broker_whose_log_nobody_reads_serves_and_stops(tmp_path: Path, number: int) -> None:
    """Each unknown path is a line. They fill the pipe and the queue many times."""
    arguments = ("--data-dir", str(tmp_path / "data"), "--listen", "127.0.0.1:0")
    more = ("--client-api", f"unix:{tmp_path}/api", "--kbs-http", "127.0.0.1:0")
    with running_daemon(*arguments, *more, "--collateral-url", "") as daemon:
        assert daemon.process.stderr is not None
        fcntl.fcntl(daemon.process.stderr, fcntl.F_SETPIPE_SZ, 4096)
        port = port_of(daemon.wait_for("daemon.started")["kbs_http"])
        for _ in range(LINES_PER_MINUTE):
            assert _status(port, "/unknown") == b"404"
        assert _status(port, "/healthz") == b"200"
        daemon.send(number)
        assert daemon.process.wait(60) == 0


def _status(port: int, path: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(f"GET {path} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
        return client.makefile("rb").readline().split()[1]


class TestFloods:
    def test_a_flood_is_a_line_with_a_count_for_each_source_and_minute(self) -> None:
        written: list[str] = []
        log = LogEvents(written.append, "json")
        for number in range(1000):
            log.record(ConnectionClosed(peer=f"192.0.2.1:{number}"))
            log.record(RequestFailed(peer=f"192.0.2.1:{number}", code="request", reason="x"))
        log.record(ConnectionClosed(peer="192.0.2.2:1"))
        assert len(written) == 2 * LINES_PER_MINUTE + 1
        del written[:]
        log.end_minute()
        found = [json.loads(line) for line in written]
        assert [(each["event"], each["type"], each["source"], each["lines"]) for each in found] == [
            ("log.flood", name, "192.0.2.1", 1000 - LINES_PER_MINUTE)
            for name in ("connection.closed", "request.failed")
        ]
        del written[:]
        log.end_minute()
        assert written == []
        log.record(ConnectionClosed(peer="192.0.2.1:1"))
        assert len(written) == 1

    def test_sources_are_bounded(self) -> None:
        counted = Floods()
        admitted = sum(
            counted.admits(ConnectionClosed(peer=f"10.{high}.{low}.1:1"))
            for high in range(40)
            for low in range(250)
        )
        assert admitted == floods.MAX_SOURCES + LINES_PER_MINUTE
        (flood,) = counted.end_minute()
        assert (flood.source, flood.lines) == (OTHERS, 10_000 - admitted)

    def test_a_flood_of_many_sources_is_bounded(self) -> None:
        """Five hundred addresses, whose lines together are too many."""
        counted = Floods()
        events = 20 * floods.MAX_SOURCES
        admitted = sum(
            counted.admits(ConnectionClosed(peer=f"10.0.{number % 250}.{number % 4}:1"))
            for number in range(events)
        )
        assert admitted == floods.LINES_OF_ALL
        ended = counted.end_minute()
        assert len(ended) == floods.MAX_FLOODS + 1
        assert ended[-1].source == OTHERS
        assert sum(flood.lines for flood in ended) == events - admitted
        assert counted.admits(ConnectionClosed(peer="10.0.0.0:1"))
        assert counted.end_minute() == []

    @pytest.mark.parametrize(
        ("peer", "source"),
        [
            ("192.0.2.1:40000", "192.0.2.1"),
            ("[::ffff:192.0.2.1]:40000", "192.0.2.1"),
            ("[2001:db8:1:2:3:4:5:6]:1", "2001:db8:1:2::/64"),
            ("[fe80::1%eth0]:1", "fe80::/64"),
            ("unknown at ipv4:192.0.2.1:5", "unknown at ipv4:192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("2001:db8:1:2::a", "2001:db8:1:2::/64"),
            ("192.0.2.1", "192.0.2.1"),
            ("uid 1000", "uid 1000"),
            ("", "unknown"),
        ],
    )
    def test_a_source_is_an_address_or_a_caller(self, peer: str, source: str) -> None:
        assert source_of(ConnectionClosed(peer=peer)) == source
        assert source_of(RequestFailed(caller=peer, code="x", reason="x")) == source

    def test_what_no_peer_can_cause_is_never_omitted(self) -> None:
        counted = Floods()
        assert all(counted.admits(WarningStorage(reason="x")) for _ in range(10_000))

    def test_the_audit_trail_is_complete(self, tmp_path: Path) -> None:
        log = RecordedEvents()
        trail = AuditTrail(tmp_path, LogEvents(lambda line: None))
        trail.open()
        refused = GuestRefused(
            peer="192.0.2.1:1",
            appraisal="x",
            code="x",
            tee=None,
            form="x",
            tcb_status=None,
            evidence=None,
            reasons=(),
        )
        for _ in range(10 * LINES_PER_MINUTE):
            trail.record(refused)
        trail.close()
        (file,) = tmp_path.glob("*.jsonl")
        assert file.read_text().count('"guest.refused"') == 10 * LINES_PER_MINUTE
        assert not log.events

    def test_the_events_of_unauthenticated_peers_are_known(self) -> None:
        """Recorded before, or without, an authentication of the peer."""
        assert {kind.spec.name for kind in CATALOGUE if kind.spec.by_peers} == {
            "connection.closed",
            "connection.failed",
            "connection.probed",
            "connection.refused",
            "connection.timeout",
            "console.refused",
            "guest.not-judged",
            "guest.refused",
            "request.answered",
            "request.failed",
            "request.received",
            "request.unattested",
            "warning.bug",
            "wrap.refused",
            "wrap.requested",
        }


def test_the_queue_has_a_limit_of_some_megabytes() -> None:
    assert 1024 * 1024 <= writer.MAX_QUEUED_BYTES <= 16 * 1024 * 1024


def test_long_lines_of_several_processes_are_not_mixed() -> None:
    """A pipe takes 4 KiB at once; the processes of a broker have the same standard error."""
    program = (
        "import sys\n"
        "from verdictd_py.events.writer import LogWriter\n"
        "sys.stdin.readline()\n"
        "writer = LogWriter(2)\n"
        "for _ in range(20): writer.write(sys.argv[1] * 200_000 + '\\n')\n"
        "assert writer.close(100) == 0\n"
    )
    receive, send = os.pipe()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, name],
            stdin=subprocess.PIPE,
            stderr=send,
            env=environment(),
        )
        for name in "abc"
    ]
    os.close(send)
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    with os.fdopen(receive, "rb") as stream:
        lines = stream.read().splitlines()
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    assert Counter(lines) == {name * 200_000: 20 for name in (b"a", b"b", b"c")}
