"""Sinks of the audit trail: real sockets, and sinks that do not answer."""

from __future__ import annotations

import asyncio
import errno
import json
import re
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.events.trails import created
from tests.support.clock import until
from tests.support.events import RecordedEvents
from verdictd_py.domain.events import AuditNotDelivered, WarningSink
from verdictd_py.errors import ConfigError
from verdictd_py.events.audit import AuditTrail
from verdictd_py.events.chain import FIRST, sealed
from verdictd_py.events.sinks import choice, journald, sink
from verdictd_py.events.sinks import datagrams as datagrams_module
from verdictd_py.events.sinks.choice import deliveries, sink_of
from verdictd_py.events.sinks.journald import JournalSink
from verdictd_py.events.sinks.sink import Delivery

HEADER = re.compile(
    rb"<(\d+)>1 (\d{4}-\d\d-\d\dT\S+\+00:00) (\S+) verdictd-py (\d+) ([a-z.-]+) - (\{.*\})"
)


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a sink on a busy machine enough time at the end."""
    monkeypatch.setattr(sink, "CLOSE_SECONDS", 60)


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    directory = tmp_path / "audit"
    directory.mkdir()
    return directory


def trail_with(audit: Path, *sinks: Delivery) -> AuditTrail:
    trail = AuditTrail(audit, RecordedEvents(), sinks=sinks)
    trail.open()
    return trail


def stored(audit: Path) -> list[bytes]:
    return [line for path in audit.glob("*.jsonl") for line in path.read_bytes().splitlines()]


class Collector:
    """A sink that keeps what it receives, and may block or fail."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.fails = False
        self.released = threading.Event()
        self.released.set()
        self.called = threading.Semaphore(0)
        self.closed = False
        self.calls = 0

    def send(self, lines: Sequence[bytes]) -> int:
        self.calls += 1
        self.called.release()
        assert self.released.wait(60)
        if self.fails:
            raise OSError(errno.ENOENT, "No such file")
        self.lines += lines
        return 0

    def close(self) -> None:
        self.closed = True


async def test_a_sink_gets_every_line_of_the_trail(audit: Path) -> None:
    collector = Collector()
    trail = trail_with(audit, Delivery("test", collector))
    for number in range(5):
        await trail.commit(created(number))
    trail.close()
    assert collector.lines == stored(audit)
    assert collector.closed


async def test_a_sink_that_does_not_answer_delays_nothing_and_its_losses_are_recorded(
    audit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink, "MAX_QUEUED_BYTES", 4000)
    monkeypatch.setattr(sink, "CLOSE_SECONDS", 0.01)  # window: the sink never answers
    collector = Collector()
    collector.released.clear()
    trail = trail_with(audit, Delivery("test", collector))
    for number in range(30):
        await trail.commit(created(number))
    await asyncio.to_thread(trail.record_omitted)
    records = [json.loads(line) for line in stored(audit)]
    (fields,) = [r["fields"] for r in records if r["event"] == "audit.not-delivered"]
    assert fields["sink"] == "test"
    assert 15 < fields["records"] < 30
    collector.released.set()
    trail.close()


async def test_records_of_a_moment_are_sent_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that wakes for each record costs more than the record."""
    monkeypatch.setattr(sink, "GATHER_SECONDS", 60)  # until the end, which ends the wait
    collector = Collector()
    delivery = Delivery("test", collector)
    delivery.put(b"first\n")
    delivery.put(b"second\n")
    assert await asyncio.to_thread(delivery.close, 60) == 0
    assert collector.lines == [b"first", b"second"]
    assert collector.calls == 1


async def test_a_sink_is_tried_again(audit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink, "FIRST_PAUSE_SECONDS", 0)
    collector = Collector()
    collector.fails = True
    trail = trail_with(audit, Delivery("test", collector))
    await trail.commit(created(1))
    for _ in range(3):
        await asyncio.to_thread(collector.called.acquire)
    collector.fails = False
    trail.close()
    assert collector.lines == stored(audit)


async def test_a_sink_that_cannot_be_reached_is_reported_once_for_each_time(
    audit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its address may be mistyped: nothing is lost yet, and the trail says nothing of it."""
    monkeypatch.setattr(sink, "FIRST_PAUSE_SECONDS", 0)
    log, collector = RecordedEvents(), Collector()
    collector.fails = True
    delivery = Delivery("test", collector)
    trail = AuditTrail(audit, log, sinks=[delivery])
    trail.open()

    async def two_minutes() -> None:
        await until(lambda: bool(delivery._problem))
        for _ in range(2):
            await asyncio.to_thread(trail.record_omitted)

    await two_minutes()
    assert log.of(WarningSink) == [WarningSink(sink="test", reason="No such file", records=2)]
    collector.fails = False
    await until(lambda: not delivery._problem)
    await asyncio.to_thread(trail.record_omitted)
    assert len(log.of(WarningSink)) == 1
    collector.fails = True
    await trail.commit(created(1))
    await two_minutes()
    assert len(log.of(WarningSink)) == 2
    collector.fails = False
    trail.close()


def test_the_text_of_an_exception_of_a_plug_in_is_withheld() -> None:
    assert sink._cause(ValueError("password=hunter2")) == "ValueError"


def test_what_is_lost_at_the_end_is_logged(audit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, collector = RecordedEvents(), Collector()
    collector.fails = True
    trail = AuditTrail(audit, log, sinks=[Delivery("test", collector)])
    trail.open()
    trail.close()
    assert log.of(AuditNotDelivered) == [AuditNotDelivered(sink="test", records=3)]


def received(server: socket.socket, count: int) -> list[bytes]:
    server.settimeout(60)
    return [server.recv(200_000) for _ in range(count)]


@pytest.fixture
def datagrams(tmp_path: Path) -> Iterator[tuple[Path, socket.socket]]:
    path = tmp_path / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        yield path, server


def test_syslog_over_a_unix_socket(audit: Path, datagrams: tuple[Path, socket.socket]) -> None:
    path, server = datagrams
    trail = trail_with(audit, *deliveries([f"syslog:{path}"]))
    trail.record(created(1))
    messages = received(server, 3)
    for line, text in zip(stored(audit), messages, strict=True):
        match = HEADER.fullmatch(text)
        assert match is not None
        assert int(match[1]) == 13 * 8 + 5
        assert match[5].decode() == json.loads(line)["event"]
        assert match[6] == line
    trail.close()


def counted(stream: Any) -> Iterator[bytes]:
    """Yield the messages of a stream with octet counting."""
    while digits := stream.read(1):
        while not digits.endswith(b" "):
            digits += stream.read(1)
        yield stream.read(int(digits))


@pytest.mark.parametrize("kind", ["tcp", "tls"])
def test_syslog_over_a_connection(audit: Path, tmp_path: Path, kind: str) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    messages: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)

        def serve() -> None:
            connection, _ = server.accept()
            if kind == "tls":
                connection = context.wrap_socket(connection, server_side=True)
            with connection, connection.makefile("rb") as stream:
                messages.extend(counted(stream))

        thread = threading.Thread(target=serve)
        thread.start()
        more = f"?ca={tmp_path / 'ca.pem'}" if kind == "tls" else ""
        port = server.getsockname()[1]
        trail = trail_with(audit, *deliveries([f"syslog+{kind}://127.0.0.1:{port}{more}"]))
        for number in range(20):
            trail.record(created(number))
        trail.close()
        thread.join(60)
    assert [text.partition(b" - ")[2] for text in messages] == stored(audit)


def test_a_server_with_another_certificate_gets_nothing(audit: Path, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with socket.create_server(("127.0.0.1", 0)) as server:
        tested = sink_of(
            f"syslog+tls://127.0.0.1:{server.getsockname()[1]}?ca={tmp_path / 'ca.pem'}"
        )

        def serve() -> None:
            connection, _ = server.accept()
            with pytest.raises(OSError), connection:  # noqa: PT011  # the client's alert
                context.wrap_socket(connection, server_side=True).read()

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(ssl.SSLCertVerificationError):
            tested.send([b'{"event":"x","time":"t"}'])
        thread.join(60)
        tested.close()


def numbered(count: int) -> list[bytes]:
    return [b'{"event":"key.created","number":%d,"time":"t"}' % each for each in range(count)]


def test_a_socket_gets_all_records_although_it_has_room_for_few(
    datagrams: tuple[Path, socket.socket],
) -> None:
    """The queue of a unix socket has 10 datagrams by default (net.unix.max_dgram_qlen)."""
    path, server = datagrams
    tested, lines = sink_of(f"syslog:{path}"), numbered(1000)
    with ThreadPoolExecutor() as pool:
        sending = pool.submit(tested.send, lines)
        messages = received(server, len(lines))
        assert sending.result(60) == 0
    assert [text.partition(b" - ")[2] for text in messages] == lines
    tested.close()


def test_a_socket_whose_reader_takes_nothing_is_reported(
    datagrams: tuple[Path, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datagrams_module, "SECONDS", 0.01)  # window: the reader takes nothing
    path, server = datagrams
    tested, lines = sink_of(f"syslog:{path}"), numbered(1000)
    with pytest.raises(TimeoutError):
        tested.send(lines)
    server.close()
    with pytest.raises(ConnectionRefusedError):
        tested.send(lines)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        tested.send(lines)


def test_a_record_that_is_too_large_for_a_socket_is_counted(
    datagrams: tuple[Path, socket.socket],
) -> None:
    path, server = datagrams
    first, last = numbered(2)
    large = b'{"event":"key.created","more":"' + b"x" * 1_000_000 + b'","time":"t"}'
    tested = sink_of(f"syslog:{path}")
    assert tested.send([first, large, large, last]) == 2
    assert [text.partition(b" - ")[2] for text in received(server, 2)] == [first, last]
    tested.close()


@pytest.mark.parametrize("event", ["a b", "a\x00b", "a\x7fb", "aé b"])
def test_no_record_forges_a_header(datagrams: tuple[Path, socket.socket], event: str) -> None:
    path, server = datagrams
    line = json.dumps({"event": event, "time": f"t {event}"}, separators=(",", ":")).encode()
    tested = sink_of(f"syslog:{path}")
    tested.send([line])
    header, _, text = received(server, 1)[0].partition(b" - ")
    assert text == line
    assert header.split(b" ")[5:] == [b"ab"]
    assert header.split(b" ")[1] == b"tab"
    tested.close()


def test_the_journal_gets_the_fields_of_a_record(datagrams: tuple[Path, socket.socket]) -> None:
    path, server = datagrams
    line = b'{"event":"guest.refused","time":"t"}'
    tested = JournalSink(str(path))
    tested.send([line])
    tested.close()
    assert received(server, 1) == [
        b"MESSAGE=" + line + b"\nPRIORITY=4\nSYSLOG_IDENTIFIER=verdictd-py-audit\n"
        b"SYSLOG_FACILITY=13\nVERDICTD_EVENT=guest.refused\n"
    ]


def test_the_journal_gets_a_large_record_as_a_file(datagrams: tuple[Path, socket.socket]) -> None:
    path, server = datagrams
    line = b'{"event":"guest.refused","more":"' + b"x" * 1_000_000 + b'"}'
    tested = JournalSink(str(path))
    tested.send([line])
    server.settimeout(60)
    _, (descriptor,), _, _ = socket.recv_fds(server, 10, 1)
    with open(descriptor, "rb") as stream:  # noqa: PTH123  # a descriptor
        stream.seek(0)
        assert b"MESSAGE=" + line in stream.read()
    tested.close()


@pytest.mark.parametrize(
    "text",
    [
        *("", "journal", "syslog", "syslog:relative", "syslog+tcp://", "syslog+tls://h?ca=/none"),
        *("syslog+tls://h?x=1", "syslog+tcp://h:99999", "http://h"),
    ],
)
def test_a_text_that_names_no_sink_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="write journald, syslog:"):
        sink_of(text)


def collector_of(text: str) -> Collector:
    return Collector()


def test_a_plug_in_brings_a_sink(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("vendor", f"{__name__}:collector_of", choice.GROUP)
    monkeypatch.setattr(choice, "entry_points", lambda group, name: [point] * (name == "vendor"))
    assert isinstance(sink_of("vendor:x?token=secret"), Collector)
    for text in ("vendor:x?token=secret", "vendor://u:secret@h/x", "vendor:x#secret"):
        (delivery,) = deliveries([text])
        assert "secret" not in delivery.name
    with pytest.raises(ConfigError) as refused:
        sink_of("unknown://u:secret@h/x?token=secret")
    assert "secret" not in str(refused.value)
    delivery.close()


async def test_all_sinks_end_at_the_same_time(audit: Path) -> None:
    """Each would otherwise add a second to the stop, on the event loop."""
    first, second = Collector(), Collector()
    first.released.clear()
    second.close = first.released.set  # type: ignore[method-assign]  # not before the second ends
    trail = trail_with(audit, Delivery("first", first), Delivery("second", second))
    await trail.commit(created(1))
    trail.close()
    assert first.lines == stored(audit)
    assert second.lines == stored(audit)


def test_the_stop_waits_for_sinks_once(audit: Path) -> None:
    none = AuditTrail(audit, RecordedEvents())
    two = AuditTrail(
        audit, RecordedEvents(), sinks=[Delivery(name, Collector()) for name in ("a", "b")]
    )
    assert (none.sinks_close_seconds, two.sinks_close_seconds) == (0.0, 1.0)


@pytest.mark.parametrize("event", ["secret.released", 'a"b', "back\\slash", "é", ""])
@pytest.mark.parametrize("more", [{}, {"connection": '","event":"forged"'}])
def test_members_of_a_line_are_those_of_its_json(event: str, more: dict[str, Any]) -> None:
    members = {"time": "2026-01-01T00:00:00+00:00", "event": event, "number": 0, **more}
    line, _ = sealed({**members, "fields": {"event": "y", "time": "z"}}, FIRST)
    for name in ("event", "time"):
        assert journald.member_of(line.rstrip(b"\n"), name) == json.loads(line)[name]


def test_records_of_a_moment_are_delivered_together() -> None:
    collecting = Collecting()
    delivery = Delivery("test", collecting)
    for number in range(5):
        delivery.put(b"%d\n" % number)
    assert delivery.close(60) == 0
    assert b"".join(line for batch in collecting.batches for line in batch) == b"01234"
    assert len(collecting.batches) < 5


class Collecting:
    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []

    def send(self, lines: Sequence[bytes]) -> int:
        self.batches.append(list(lines))
        return 0

    def close(self) -> None:
        pass
