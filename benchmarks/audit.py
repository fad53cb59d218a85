"""Measure records per second and latency of the audit trail, for 1, 32 and 256 callers.

Afterwards, measure the verification of a million records.

Usage: python -m benchmarks.audit [DIRECTORY]

DIRECTORY is on the disk to measure; by default the directory for temporary files.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.datasets import audit_lines
from verdictd_py.cli.parsing import Silent
from verdictd_py.domain.events import SecretReleased
from verdictd_py.events.audit import AuditTrail
from verdictd_py.events.scan import scan
from verdictd_py.events.verification import verified

SECONDS: Final = 5.0
RECORDS: Final = 1_000_000
EVENT: Final = SecretReleased(
    peer="192.0.2.1:5", appraisal="a" * 32, tee="tdx", what="key", path="keys/default/key/1"
)


async def measured(directory: Path, callers: int) -> str:
    """Return rate and latencies of callers that each wait for one record after the other."""
    trail, latencies = AuditTrail(directory, Silent()), []
    trail.open()
    start = time.perf_counter()

    async def call() -> None:
        while (before := time.perf_counter()) - start < SECONDS:
            await trail.commit(EVENT)
            latencies.append((time.perf_counter() - before) * 1000)

    await asyncio.gather(*(call() for _ in range(callers)))
    rate = len(latencies) / (time.perf_counter() - start)
    trail.close()
    latencies.sort()
    median, worst = latencies[len(latencies) // 2], latencies[len(latencies) * 99 // 100]
    return f"{callers:4} callers: {rate:6.0f} records/s, median {median:.1f} ms, p99 {worst:.1f} ms"


def verification(directory: Path) -> str:
    """Return how long the verification of `RECORDS` records takes."""
    file = directory / "20260101T000000Z-00000000.jsonl"
    with file.open("wb") as stream:
        stream.writelines(audit_lines(RECORDS))
    wall, cpu = time.perf_counter(), time.process_time()
    findings = verified([scan(file)], complete=True)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    size = file.stat().st_size // 2**20
    result = "problems" if findings.problems else "no problem"
    return f"verified {RECORDS} records, {size} MiB: {wall:.1f} s, {cpu:.1f} s CPU, {result}"


def main() -> None:
    for callers in (1, 32, 256):
        with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
            print(asyncio.run(measured(Path(folder), callers)), flush=True)
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        print(verification(Path(folder)))


if __name__ == "__main__":
    main()
