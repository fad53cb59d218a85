"""Constant resident memory over many appraised guests and many requests.

The slope is that of the least-squares line through resident memory over the number of guests,
without the first part of the run, in which bounded caches fill.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Final

from tools.torture.broker import CHECKOUT, Broker, Site, running
from tools.torture.scenario import Budget, Row, Scenario

GUESTS: Final = 20_000
REQUESTS: Final = 200_000
BYTES_OF_GUEST: Final = 200.0
BYTES_OF_REQUEST: Final = 20.0
NOISE_BYTES: Final = 2 * 1024 * 1024
"""Growth that a short run may show: the allocator's arenas and the last pages of caches."""
WARM_UP_PART: Final = 0.4
WORKERS: Final = 2

Sample = tuple[int, int]
"""Number of guests so far, and resident bytes."""


async def run(budget: Budget) -> AsyncIterator[Row]:
    """Appraise guests over both protocols, then send requests on attested connections."""
    site = Site.make(budget.directory)
    # Sessions are in a file: in memory, the token of each guest takes some 6 KiB until it expires.
    sessions = site.with_sessions(budget.directory / "sessions.sqlite")
    async with running(site, *sessions) as broker:
        for kind, maximum, part, bound in (
            ("RATS-TLS", GUESTS // 2, 0.3, BYTES_OF_GUEST),
            ("HTTPS", GUESTS // 2, 0.4, BYTES_OF_GUEST),
            ("connected", REQUESTS, 0.3, BYTES_OF_REQUEST),
        ):
            if budget.only not in kind:
                continue
            what = "requests" if kind == "connected" else "appraised guests"
            workers = 1 if budget.smoke else WORKERS
            samples, failures = await _load(
                broker, kind, budget.seconds * part, maximum, workers=workers
            )
            yield _judged(f"{what}: {kind}", samples, failures, bound)


async def _load(
    broker: Broker, kind: str, seconds: float, maximum: int, *, workers: int
) -> tuple[list[Sample], int]:
    """Run clients in processes of their own; return samples of memory, and failures."""
    counts, failures = [0] * workers, [0] * workers
    samples: list[Sample] = [(0, broker.resident_bytes())]

    async def worker(number: int) -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tools.torture.load"),
            json.dumps(
                {
                    "kind": kind,
                    "seconds": seconds,
                    "maximum": maximum // workers,
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
        for number in range(workers):
            group.create_task(worker(number))
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
