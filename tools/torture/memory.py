"""Constant resident memory over many appraised guests and many requests.

Guests of both protocols are appraised while connected guests send requests. At the end, resident
memory is compared with that after the first 10,000 of them all.

With `--only KIND`, clients of one kind run alone, and the slope of resident memory is measured:
that of the least-squares line over the number of guests or requests, without the first part of the
run, in which bounded caches fill.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

from tools.torture.broker import CHECKOUT, Broker, Site, running
from tools.torture.scenario import Budget, Row, Scenario

GUESTS: Final = 20_000
REQUESTS: Final = 200_000
FIRST: Final = 10_000
"""Guests and requests after which the level of memory is taken."""
MAX_GROWTH: Final = 0.05
"""Growth of resident memory after that, as a part of the level."""
BYTES_OF_GUEST: Final = 200.0
BYTES_OF_REQUEST: Final = 20.0
NOISE_BYTES: Final = 2 * 1024 * 1024
"""Growth that a short run may show: the allocator's arenas and the last pages of caches."""
WARM_UP_PART: Final = 0.4
WORKERS: Final = 2

KINDS: Final = {
    "RATS-TLS": (GUESTS // 2, BYTES_OF_GUEST),
    "HTTPS": (GUESTS // 2, BYTES_OF_GUEST),
    "connected": (REQUESTS, BYTES_OF_REQUEST),
}
"""Kinds of clients: their number of guests or requests, and the greatest slope of each."""

Sample = tuple[int, int]
"""Number of guests so far, and resident bytes."""


async def run(budget: Budget) -> AsyncIterator[Row]:
    """Appraise guests over both protocols, and send requests on attested connections."""
    site = Site.make(budget.directory)
    # Sessions are in a file: in memory, the token of each guest takes some 6 KiB until it expires.
    sessions = site.with_sessions(budget.directory / "sessions.sqlite")
    async with running(site, *sessions) as broker:
        workers = 1 if budget.smoke else WORKERS
        for kind, (maximum, bound) in KINDS.items():
            if budget.only and budget.only in kind:
                samples, failures = await _load(
                    broker, {kind: maximum}, budget.seconds, workers=workers
                )
                what = "requests" if kind == "connected" else "appraised guests"
                yield _judged(f"{what}: {kind}", samples, failures, bound)
        if not budget.only:
            maxima = {kind: maximum for kind, (maximum, _) in KINDS.items()}
            samples, failures = await _load(broker, maxima, budget.seconds, workers=1)
            yield judged_growth(samples, failures)


async def _load(
    broker: Broker, maxima: Mapping[str, int], seconds: float, *, workers: int
) -> tuple[list[Sample], int]:
    """Run clients in processes of their own; return samples of memory, and failures.

    Args:
        maxima: numbers of guests or requests, by kind.
        workers: processes for each kind.
    """
    kinds = [(kind, maximum // workers) for kind, maximum in maxima.items() for _ in range(workers)]
    counts, failures = [0] * len(kinds), [0] * len(kinds)
    samples: list[Sample] = [(0, broker.resident_bytes())]

    async def worker(number: int, kind: str, maximum: int) -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tools.torture.load"),
            json.dumps(
                {
                    "kind": kind,
                    "seconds": seconds,
                    "maximum": maximum,
                    "directory": str(broker.site.directory),
                    "listen": broker.listen,
                    "client_api": broker.client_api,
                    "kbs": broker.kbs,
                }
            ),
            stdout=asyncio.subprocess.PIPE,
            cwd=CHECKOUT,
        )
        if process.stdout is None:
            raise ChildProcessError("the clients have no standard output")
        async for line in process.stdout:
            counts[number], failures[number] = json.loads(line)
            samples.append((sum(counts), broker.resident_bytes()))
        if await process.wait():
            raise ChildProcessError("the clients ended; their error is above")

    async with asyncio.TaskGroup() as group:
        for number, (kind, maximum) in enumerate(kinds):
            group.create_task(worker(number, kind, maximum))
    return samples, sum(failures)


def _judged(case: str, samples: Sequence[Sample], failures: int, bound: float) -> Row:
    total = samples[-1][0]
    warm = [sample for sample in samples if sample[0] >= total * WARM_UP_PART]
    slope, counted = slope_of(warm), total - warm[0][0]
    unit = "request" if "requests" in case else "guest"
    return Row.judged(
        case,
        f"{total} served, {failures} failed; resident {samples[0][1] / 1024**2:.1f} MiB at the "
        f"start, {warm[0][1] / 1024**2:.1f} after {warm[0][0]}, {samples[-1][1] / 1024**2:.1f} at "
        f"the end; {slope:.0f} B per {unit}",
        passed=not failures and total > 0 and slope * counted <= max(bound * counted, NOISE_BYTES),
    )


def judged_growth(samples: Sequence[Sample], failures: int) -> Row:
    """Compare the memory at the end with the level after the first guests and requests."""
    total, last = samples[-1]
    at, level = next(sample for sample in samples if sample[0] >= min(FIRST, total // 2))
    return Row.judged(
        "guests and requests",
        f"{total} served, {failures} failed; resident {samples[0][1] / 1024**2:.1f} MiB at the "
        f"start, {level / 1024**2:.1f} after {at}, {last / 1024**2:.1f} at the end: "
        f"{last / level - 1:+.1%}",
        passed=not failures and total > 0 and last <= (1 + MAX_GROWTH) * level,
    )


def slope_of(samples: Sequence[Sample]) -> float:
    """Return the slope of the least-squares line through samples; 0 for fewer than two counts."""
    middle = sum(count for count, _ in samples) / len(samples)
    mean = sum(size for _, size in samples) / len(samples)
    spread = sum((count - middle) ** 2 for count, _ in samples)
    if not spread:
        return 0.0
    return sum((count - middle) * (size - mean) for count, size in samples) / spread


MEMORY_SCENARIO: Final = Scenario(
    "memory", "resident memory over many appraised guests and requests", 10, run
)
