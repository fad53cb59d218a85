"""What a release costs in each store, and under each key: latency and CPU of whole brokers.

    ./dev engines up; eval "$(./dev engines env)"
    ./dev run python -m benchmarks.releases [--rounds N] [--count N] [--json FILE]

Each store has a broker of its own. In each round, a guest attests to every broker in turn and gets
its resource again and again over the same HTTP connection; in further rounds a key over its
attested channel. So the ratios do not depend on the load of the machine. A store whose engine does
not run is left out, with the reason.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Final

from benchmarks.bench import Bench, NotAvailable, address_of
from benchmarks.processes import BenchmarkFailed, Daemon, Peer
from benchmarks.rounds import Sample, alternate, cost
from benchmarks.sites import Site, Sites, key_of
from benchmarks.tables import TableProgram

ROUNDS: Final = 15
RELEASES: Final = 100
"""Releases of one kind from one broker in a round."""

KINDS: Final = {"resource": "http_resources", "key": "kept"}
"""What is released, and the command of the clients."""


@dataclass(frozen=True, slots=True)
class Running:
    """A broker on a site, and a guest that has attested to it."""

    site: Site
    daemon: Daemon
    guest: Peer

    def release(self, kind: str, count: int) -> Sample:
        """Have the guest attest, and then request something again and again, which is measured."""
        if kind == "resource":
            self.guest.call("http_open", url=self.daemon.addresses["kbs_http"])
        else:
            held = self.guest.call("hold", address=address_of(self.daemon), count=1)
            if held["failures"]:
                raise BenchmarkFailed(f"{self.site.name}: {held['failures'][0]}")
        sample = cost(self.daemon, self.guest, KINDS[kind], count=count)
        self.guest.call("release")
        return sample


@dataclass(slots=True)
class Measured:
    """What was measured.

    Attributes:
        rows: by the name of the site, then by what is released; see `_figures`.
        skipped: why a site was left out, by its name.
    """

    rows: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def measure(bench: Bench, stack: ExitStack, rounds: int, count: int) -> dict[str, Any]:
    """Measure all sites in turn; return the members of `Measured`."""
    measured = Measured()
    running = _started(bench, stack, measured)
    for kind in KINDS:
        served = [each for each in running if kind == "resource" or each.site.has_key]
        samples = alternate([partial(each.release, kind, count) for each in served], rounds)
        for each, own in zip(served, samples, strict=True):
            measured.rows.setdefault(each.site.name, {})[kind] = _figures(own, samples[0])
    return asdict(measured)


def _started(bench: Bench, stack: ExitStack, measured: Measured) -> list[Running]:
    """Return a broker for each site whose engine runs."""
    sites, running = Sites(bench.directory, stack), []
    for name, make in sites.makers():
        try:
            site = make(name)
        except NotAvailable as error:
            measured.skipped[name] = str(error)
            continue
        daemon = bench.daemon(key_of(name), *site.options)
        log = bench.directory / f"guest-{key_of(name)}.log"
        guest = stack.enter_context(Peer("benchmarks.clients", log, str(bench.directory)))
        running.append(Running(site, daemon, guest))
    return running


def _figures(samples: Sequence[Sample], plain: Sequence[Sample]) -> dict[str, float]:
    """Return the figures of a site: milliseconds, and the ratio of CPU to the plain directory.

    The ratio is the median of those of the rounds.
    """
    latencies = sorted(each for sample in samples for each in sample.latencies)
    ratios = [own.cpu / other.cpu for own, other in zip(samples, plain, strict=True)]
    return {
        "latency": statistics.median(latencies),
        "p99": latencies[len(latencies) * 99 // 100],
        "cpu": statistics.median(sample.cpu for sample in samples),
        "ratio": statistics.median(ratios),
    }


def table(document: Mapping[str, Any]) -> list[str]:
    """Return the lines of the table in Markdown."""
    columns = (f"{kind}: latency, ms | p99, ms | CPU, ms | to plain" for kind in KINDS)
    lines = [
        f"| store, key | {' | '.join(columns)} |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for name, row in document["rows"].items():
        cells = [name]
        for kind in KINDS:
            figures = row.get(kind)
            if figures is None:
                cells += ["-"] * 4
            else:
                cells += [f"{figures[each]:.2f}" for each in ("latency", "p99", "cpu", "ratio")]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [f"\n{name}: left out, {reason}." for name, reason in document["skipped"].items()]
    return lines


PROGRAM: Final = TableProgram(
    description=(__doc__ or "").partition("\n")[0],
    rounds=ROUNDS,
    option="count",
    unit="releases",
    count=RELEASES,
    measure=measure,
    table=table,
)

if __name__ == "__main__":
    sys.exit(PROGRAM.run(sys.argv[1:]))
