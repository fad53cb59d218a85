"""Cases with many guests at a time: workers, held connections, a boot storm."""

from __future__ import annotations

import os
import statistics
from pathlib import Path
from typing import Final

from benchmarks.bench import Bench, address_of
from benchmarks.processes import BenchmarkFailed, Daemon
from benchmarks.rounds import ROUNDS, Measurement, Sample, alternate, cost

WORKERS: Final = "--workers"

AT_ONCE: Final = 16
"""Guests at a time that two workers share."""

SHARE: Final = (0.35, 0.65)
"""Least and largest part of the work for each of two workers."""

STORM_LIMITS: Final = (
    *("--max-connections", "8192", "--max-connections-per-platform", "8192"),
    *("--handshake-timeout", "300"),
)
"""Settings for a storm that comes from one simulated platform, whose clients use the same cores."""


def two_workers(bench: Bench) -> Measurement:
    """CPU of a session with two workers and with one, and how the two share the work.

    The clients run on the same cores, so sessions per second would measure them too.
    """
    bench.require_option(WORKERS)
    count = bench.number(32, 240)
    daemons = [bench.daemon(f"workers-{n}", WORKERS, str(n)) for n in (2, 1)]

    def side(daemon: Daemon) -> Sample:
        arguments = {"address": address_of(daemon), "count": count, "unseen": True}
        return cost(daemon, bench.clients, "attested", at_once=AT_ONCE, **arguments)

    samples = alternate([lambda: side(daemons[0]), lambda: side(daemons[1])])
    shares = [_share_of_busiest(sample) for sample in samples[0]]
    largest = statistics.median(shares)
    for n in (2, 1):
        bench.stop(f"workers-{n}")
    measured = Measurement.of(samples)
    return Measurement(
        measured.values,
        measured.limits,
        wall=measured.wall,
        satisfied=largest <= SHARE[1],
        notes=(
            "CPU of a session, because the clients run on the same cores",
            f"the two workers have {largest:.0%} and {1 - largest:.0%} of the work",
        ),
    )


def _share_of_busiest(sample: Sample) -> float:
    """Return the part of the busiest process in the work of the two busiest ones."""
    first, second = sorted([*sample.by_process.values(), 0.0, 0.0], reverse=True)[:2]
    return first / (first + second)


def held_connection(bench: Bench) -> Measurement:
    """Growth of the daemon's memory (PSS) with each guest that stays connected.

    A first group of guests, which fills caches and the allocator's arenas, is not counted.
    """
    daemon = bench.daemon("tdx")
    group = bench.number(25, 100)  # seven groups are below the limit of one platform
    values = []
    bench.clients.call("hold", address=address_of(daemon), count=2 * group)
    daemon.settle()
    before = daemon.memory_kib()
    for _ in range(ROUNDS):
        answer = bench.clients.call("hold", address=address_of(daemon), count=group)
        if answer["failures"]:
            raise BenchmarkFailed(f"hold: {answer['failures'][0]}")
        daemon.settle()
        after = daemon.memory_kib()
        values.append((after - before) / group)
        before = after
    bench.clients.call("release")
    note = f"median of {ROUNDS} groups of {group} connections"
    return Measurement(values, notes=(note,))


def boot_storm(bench: Bench) -> Measurement:
    """Time from the start of all guests until the last one has its key.

    Time in which other processes used the cores, the clients' own included, is subtracted.
    """
    bench.require_option(WORKERS)
    guests, rounds = bench.number(300, 5000), bench.number(1, 3)
    daemon = bench.daemon("storm", WORKERS, "2", *STORM_LIMITS)
    address, cores = address_of(daemon), os.cpu_count() or 1
    values, limits, walls, failed = [], [], [], 0
    for _ in range(rounds):
        arguments = {"address": address, "count": bench.number(16, 60), "unseen": True}
        session = cost(daemon, bench.clients, "attested", **arguments)
        bench.clients.call("prepare_storm", count=guests)
        daemon.settle()
        idle, spent = _idle_seconds(), sum(daemon.cpu().values())
        answer = bench.clients.call("storm", address=address)
        spent = sum(daemon.cpu().values()) - spent
        values.append((_idle_seconds() - idle + spent) / cores)
        limits.append(guests * session.cpu / 1000 / cores)
        walls.append(answer["last"])
        failed += answer["failed"]
    bench.stop("storm")
    notes = [f"measured with {guests:,} guests, {rounds} times"]
    notes.append(f"the last guest was done after {statistics.median(walls):.1f} s of wall time")
    notes.append(f"{failed} guests were refused" if failed else "no guest was refused")
    return Measurement(values, limits, wall=None, satisfied=not failed, notes=tuple(notes))


def _idle_seconds() -> float:
    """Return the seconds that all cores have been idle (proc(5), /proc/stat: idle and iowait)."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")
