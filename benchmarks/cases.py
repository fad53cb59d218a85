"""The cases: one for each row of the target table, with the raw limit of the row."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from benchmarks.bench import Bench, NotAvailable, address_of
from benchmarks.loads import boot_storm, held_connection, two_workers
from benchmarks.observed import everything_on, scrape_in_flood
from benchmarks.processes import BenchmarkFailed, Daemon
from benchmarks.rounds import ROUNDS, Measurement, Result, Sample, alternate, cost

BARE_IMPORT: Final = "import grpc, cryptography, pydantic, aiohttp"

SAMPLE: Final = ("--insecure-sample-verifier", "--insecure-sample-data-dir")

VERIFICATIONS: Final = 60

PAGE: Final = 5
"""Keys of a page of the list, so that the small directory also has two pages."""


@dataclass(frozen=True)
class Case:
    """A row of the target table.

    Attributes:
        unit: of median, spread and limit.
        target: maximum of median / limit, or of the median if there is no limit.
        limit: what the limit is, for the page.
    """

    name: str
    unit: str
    target: float
    limit: str
    run: Callable[[Bench], Measurement]

    def result(self, bench: Bench) -> Result:
        """Measure the case; a case that cannot be measured is reported as not met."""
        begun = time.monotonic()
        try:
            result = Result.of(self.name, self.unit, self.target, self.run(bench))
        except NotAvailable as error:
            result = Result.missing(self.name, self.unit, self.target, str(error))
        except BenchmarkFailed as error:
            result = Result.missing(self.name, self.unit, self.target, f"failed: {error}")
        return replace(result, seconds=time.monotonic() - begun)


def attested_session(bench: Bench, *, unseen: bool) -> Measurement:
    """A connection, the handshake, the appraisal, one key."""
    daemon, count = bench.daemon("tdx"), bench.number(12, 60)

    def session() -> Sample:
        arguments = {"address": address_of(daemon), "count": count, "unseen": unseen}
        return cost(daemon, bench.clients, "attested", **arguments)

    def limit() -> Sample:
        return bench.handshake_cost(count, unseen=unseen) + bench.verify_cost(VERIFICATIONS)

    return Measurement.of(alternate([session, limit]))


def http_session_tdx(bench: Bench) -> Measurement:
    """Four requests on one connection: a resource (401), auth, attest, the resource."""
    daemon, count = bench.daemon("tdx"), bench.number(10, 50)

    def session() -> Sample:
        url = daemon.addresses["kbs_http"]
        return cost(daemon, bench.clients, "http_sessions", url=url, count=count, tdx=True)

    def limit() -> Sample:
        arguments = {"url": bench.raw_url(), "count": 4 * count}
        requests = bench.raw_cost("http_empty", connections=1, requests=4, **arguments)
        return bench.verify_cost(VERIFICATIONS) + requests

    return Measurement.of(alternate([session, limit]))


def http_session_sample(bench: Bench) -> Measurement:
    """The same requests of a sample guest, two on each of two connections."""
    daemon, count = bench.daemon("sample", *SAMPLE), bench.number(15, 60)

    def session() -> Sample:
        arguments = {"url": daemon.addresses["kbs_http"], "count": count, "connections": 2}
        return cost(daemon, bench.clients, "http_sessions", tdx=False, **arguments)

    def limit() -> Sample:
        arguments = {"url": bench.raw_url(), "count": 4 * count}
        return bench.raw_cost("http_empty", connections=2, requests=2, **arguments)

    return Measurement.of(alternate([session, limit]))


def kept_channel(bench: Bench) -> Measurement:
    """One key on a channel that has attested before."""
    daemon = bench.daemon("tdx")
    bench.clients.call("hold", address=address_of(daemon), count=1)

    def request() -> Sample:
        return cost(daemon, bench.clients, "kept", count=bench.number(100, 500))

    def limit() -> Sample:
        return bench.handshake_cost(bench.number(40, 100), unseen=True)

    samples = alternate([request, limit])
    bench.clients.call("release")
    return replace(Measurement.of(samples), notes=(bench.sync_note(),))


def kept_http(bench: Bench) -> Measurement:
    """One resource on a connection that has attested before."""
    daemon = bench.daemon("tdx")
    bench.clients.call("http_open", url=daemon.addresses["kbs_http"])

    def request() -> Sample:
        return cost(daemon, bench.clients, "http_resources", count=bench.number(60, 300))

    def limit() -> Sample:
        arguments = {"url": bench.raw_url(), "count": bench.number(400, 2000)}
        return bench.raw_cost("http_empty_kept", **arguments)

    return Measurement.of(alternate([request, limit]))


def wrap_key(bench: Bench, *, kept: bool) -> Measurement:
    """One WrapKey as skopeo sends it."""
    daemon = bench.daemon("tdx")
    count = bench.number(60, 300) if kept else bench.number(40, 150)

    def call() -> Sample:
        address = daemon.addresses["client_api"]
        return cost(daemon, bench.clients, "wrap", address=address, count=count, kept=kept)

    def limit() -> Sample:
        address = f"127.0.0.1:{bench.raw.ready['grpc']}"
        return bench.raw_cost("grpc_empty", address=address, count=2 * count, kept=kept)

    return Measurement.of(alternate([call, limit]))


def reference_values(bench: Bench) -> Measurement:
    """Sessions of guests whose claims are all different, with many reference values and one."""
    count = bench.number(10, 50)
    daemons = [bench.daemon(f"values-{n}", reference_values=n) for n in (10_000, 1)]

    def side(daemon: Daemon) -> Sample:
        arguments = {"address": address_of(daemon), "count": count}
        return cost(daemon, bench.clients, "attested", unseen=True, unseen_claims=True, **arguments)

    samples = alternate([lambda: side(daemons[0]), lambda: side(daemons[1])])
    for n in (10_000, 1):
        bench.stop(f"values-{n}")
    return Measurement.of(samples)


_LIST: Final = "two pages of the list, not counted"


def many_keys(bench: Bench) -> Measurement:
    """Session, wrap and start; the operation that suffers most counts.

    Two pages of the list of keys are reported and not counted: the first page of a directory must
    read its names once, however many there are.
    """
    number = bench.number(20_000, 1_000_000)
    small, large = "keys-small", "keys-large"
    daemons = {
        large: bench.daemon(large, keys=number, audit_lines=number),
        small: bench.daemon(small, keys=10, audit_lines=10),
    }
    count = bench.number(10, 50)

    def session(name: str) -> Sample:
        arguments = {"address": address_of(daemons[name]), "count": count, "unseen": False}
        return cost(daemons[name], bench.clients, "attested", **arguments)

    def wrap(name: str) -> Sample:
        arguments = {"address": daemons[name].addresses["client_api"], "count": count}
        return cost(daemons[name], bench.clients, "wrap", kept=True, **arguments)

    def pages(name: str) -> Sample:
        arguments = {"address": daemons[name].addresses["client_api"], "count": 3, "size": PAGE}
        return cost(daemons[name], bench.clients, "key_pages", **arguments)

    def start(name: str) -> Sample:
        return _start(bench, name)

    operations = {"session": session, "wrap": wrap, _LIST: pages, "start": start}
    parts = {}
    for title, operation in operations.items():
        if title == "start":
            for name in daemons:
                bench.stop(name)
        sides = [partial(operation, large), partial(operation, small)]
        is_start = title == "start"
        rounds = bench.number(3, ROUNDS) if is_start else ROUNDS
        parts[title] = Measurement.of(alternate(sides, rounds, warm_up=not is_start))
    ratios = {
        title: statistics.median(part.values) / statistics.median(part.limits)
        for title, part in parts.items()
    }
    worst = max(ratios.keys() - {_LIST}, key=ratios.__getitem__)
    return Measurement(
        parts[worst].values,
        parts[worst].limits,
        wall=parts[worst].wall,
        notes=(
            f"measured with {number:,} keys and lines",
            *(f"{title}: {ratio:.2f} x" for title, ratio in ratios.items()),
        ),
    )


def start_to_listening(bench: Bench) -> Measurement:
    """CPU of a daemon from exec(2) until it is ready, its engine compiled by an earlier start."""
    bench.daemon("start")
    bench.stop("start")
    _bare_import()
    sides = [lambda: _start(bench, "start"), _bare_import]
    return Measurement.of(alternate(sides, warm_up=False))


def _start(bench: Bench, name: str) -> Sample:
    daemon = bench.start(name)
    daemon.stop()
    return Sample(1000 * daemon.start_cpu, 1000 * daemon.start_wall)


def _bare_import() -> Sample:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", BARE_IMPORT], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Sample(1000 * spent, 0.0)


CASES: Final = (
    Case(
        "attested session, unseen guest",
        "ms",
        2.0,
        "handshake with that certificate + one `dcap_qvl` verify",
        lambda bench: attested_session(bench, unseen=True),
    ),
    Case(
        "attested session, guest seen before",
        "ms",
        1.5,
        "the same",
        lambda bench: attested_session(bench, unseen=False),
    ),
    Case(
        "HTTP session, TDX guest: auth, attest, resource",
        "ms",
        2.5,
        "one `dcap_qvl` verify + 4 empty aiohttp requests on one connection",
        http_session_tdx,
    ),
    Case("request on a kept attested channel", "ms", 0.20, "raw handshake", kept_channel),
    Case(
        "resource on a kept HTTP connection",
        "ms",
        6.0,
        "empty aiohttp request on a kept connection",
        kept_http,
    ),
    Case(
        "HTTP session, sample TEE",
        "ms",
        8.0,
        "two new and two kept empty aiohttp requests",
        http_session_sample,
    ),
    Case(
        "WrapKey on a new connection",
        "ms",
        1.5,
        "empty grpc.aio call on a new connection",
        lambda bench: wrap_key(bench, kept=False),
    ),
    Case(
        "WrapKey on a kept connection",
        "ms",
        2.0,
        "empty grpc.aio call on a kept connection",
        lambda bench: wrap_key(bench, kept=True),
    ),
    Case(
        "2 workers against 1, sessions per second",
        "ms",
        1.1,
        "CPU of a session with 1 worker; each worker also has 35 to 65 % of the work",
        two_workers,
    ),
    Case("held attested connection", "KiB", 60.0, "", held_connection),
    Case(
        "10,000 reference values against 1, unseen claims",
        "ms",
        1.15,
        "session with 1 reference value",
        reference_values,
    ),
    Case(
        "1,000,000 keys against 10; audit trail of 1,000,000 lines against 10",
        "ms",
        1.1,
        "the same operation with 10 keys and 10 lines",
        many_keys,
    ),
    Case(
        "session with all observability on against off",
        "ms",
        1.05,
        "session without metrics, console, signatures and sinks, with errors only in the log",
        everything_on,
    ),
    Case("slowest scrape of metrics during a flood", "ms", 100.0, "", scrape_in_flood),
    Case("start to listening", "ms", 2.0, f"`{BARE_IMPORT}`", start_to_listening),
    Case(
        "boot storm: 5,000 guests at once, with 2 workers",
        "s",
        1.3,
        "5,000 x session CPU / cores; none is refused",
        boot_storm,
    ),
)
