"""What observability costs: sessions with everything on against everything off, and a scrape."""

from __future__ import annotations

import http.client
import socket
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from benchmarks.bench import Bench, address_of
from benchmarks.processes import BenchmarkFailed, Peer
from benchmarks.rounds import ROUNDS, Measurement, Sample, alternate, cost

SCRAPE_SECONDS: Final = 5.0
"""Pause between two scrapes, a third of what Prometheus does by default."""

MAX_INTERVAL: Final = 0.1
"""Largest interval of the ratio with which a difference of 5 % can be measured."""

FLOOD_SCRAPES: Final = 10
"""Scrapes of a round."""

_TIMEOUT_SECONDS: Final = 30.0
_PAUSE_SECONDS: Final = 0.3  # a page is used again for 0.2 s


def everything_on(bench: Bench) -> Measurement:
    """CPU of a session, its guest seen before, with all of observability and with none of it.

    On: metrics, scraped every 5 s; console; signed audit trail with two sinks; log with the usual
    level. Off: only errors are logged. The history and the audit trail itself cannot be switched
    off. The log is a file in both.
    """
    count, rounds = bench.number(75, 150), bench.number(ROUNDS, 6 * ROUNDS + 1)
    port = _free_port()
    with ExitStack() as stack:
        sinks = [stack.enter_context(_sink(bench.directory / f"sink{n}")) for n in range(2)]
        options = ["--status", f"127.0.0.1:{port}", "--console", f"127.0.0.1:{_free_port()}"]
        options += ["--audit-key", str(_audit_key(bench.directory / "audit.key"))]
        options += ["--audit-sink", ",".join(f"syslog:{sink}" for sink in sinks)]
        bare = ("127.0.0.1", _free_port())
        none = ("--log-level", "error", "--listen", f"{bare[0]}:{bare[1]}")
        daemons = [bench.daemon("observed", *options), bench.daemon("bare", *none)]
        addresses = [address_of(daemons[0]), bare]

        def side(number: int) -> Sample:
            arguments = {"address": addresses[number], "count": count, "unseen": False}
            return cost(daemons[number], bench.clients, "attested", **arguments)

        scrapes: list[float] = []
        with _scraping(port, scrapes, SCRAPE_SECONDS):
            samples = alternate([lambda: side(0), lambda: side(1)], rounds)
    for name in ("observed", "bare"):
        bench.stop(name)
    note = f"{len(scrapes)} scrapes; the slowest took {max(scrapes, default=0.0):.0f} ms"
    low, middle, high = interval(
        [on.cpu / off.cpu for on, off in zip(samples[0], samples[1], strict=True)]
    )
    pairs = (
        f"ratio of {rounds} pairs of rounds: {middle:.2f}, 95 % interval {low:.2f} to {high:.2f}"
    )
    notes = [note, pairs]
    decided = high - low <= MAX_INTERVAL
    if not decided:
        notes.append("the machine is too busy to measure a difference of 5 %: not decided")
    return replace(Measurement.of(samples), satisfied=decided, notes=tuple(notes))


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median of values with the ends of its 95 % interval, whatever their distribution.

    Source: the ranks of the sign test, (n - 1.96 sqrt(n)) / 2 and its counterpart.
    """
    ordered, number = sorted(values), len(values)
    at = max(0, int((number - 1.96 * number**0.5) / 2))
    return ordered[at], statistics.median(ordered), ordered[number - 1 - at]


def scrape_in_flood(bench: Bench) -> Measurement:
    """Wall time of a scrape while clients attest as fast as they can; the slowest of each round."""
    port = _free_port()
    daemon = bench.daemon("scraped", "--status", f"127.0.0.1:{port}")
    with ExitStack() as stack:
        clients = [stack.enter_context(_peer(bench, f"flood{number}")) for number in range(3)]
        flooding = threading.Event()

        def flood(client: Peer) -> None:
            while not flooding.is_set():
                client.call("attested", address=address_of(daemon), count=20, unseen=True)

        threads = [threading.Thread(target=flood, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        try:
            rounds = [_scrapes(port) for _ in range(ROUNDS)]
        finally:
            flooding.set()
            for thread in threads:
                thread.join()
    bench.stop("scraped")
    middle = sorted(each for one in rounds for each in one)
    note = f"median of all {len(middle)} scrapes: {middle[len(middle) // 2]:.1f} ms"
    return Measurement([max(one) for one in rounds], notes=(note,))


def _scrapes(port: int) -> Sequence[float]:
    result = []
    for _ in range(FLOOD_SCRAPES):
        time.sleep(_PAUSE_SECONDS)
        result.append(_scrape(port))
    return result


def _peer(bench: Bench, name: str) -> Peer:
    log = bench.directory / f"{name}.log"
    return Peer("benchmarks.clients", log, str(bench.directory))


def _scrape(port: int) -> float:
    """Request the metrics; return the wall time in milliseconds.

    Raises:
        BenchmarkFailed: there is no page.
    """
    begun = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        page = answer.read()
    finally:
        connection.close()
    if answer.status != http.HTTPStatus.OK or b"verdictd_appraisals_total" not in page:
        raise BenchmarkFailed(f"a scrape was answered with {answer.status}")
    return 1000 * (time.monotonic() - begun)


@contextmanager
def _scraping(port: int, results: list[float], seconds: float) -> Iterator[None]:
    """Scrape again and again in a thread."""
    done = threading.Event()

    def run() -> None:
        while not done.wait(seconds):
            results.append(_scrape(port))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def _sink(path: Path) -> Iterator[Path]:
    """Receive what a sink sends to a unix socket, and discard it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiving:
        receiving.bind(str(path))

        def run() -> None:
            while receiving.recv(65_536):
                pass

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield path
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
                last.sendto(b"", str(path))
            thread.join()
            path.unlink()


def _audit_key(path: Path) -> Path:
    key = Ed25519PrivateKey.generate()
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
