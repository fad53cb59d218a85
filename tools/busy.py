"""Run the whole suite on a busy machine: many processes of pytest at once, SIGINT ignored.

Each process gets a few test files, so every test runs at the same time as others, and the load of
the machine is about the number of processes. A test that passes alone and fails here depends on the
speed of the machine.

    python tools/busy.py [--processes 20] [--times 3]

The exit status is 0 if no test failed in any run. Failed parts are not repeated.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread
from typing import Final

FILES_PER_PROCESS: Final = 6
LOAD_SECONDS: Final = 10.0
HANG_SECONDS: Final = 1200
"""After which a test counts as hung. Every process gets a tenth of a processor, so the limit of the
undisturbed suite would end long tests that still work."""

_COUNT: Final = re.compile(r"(\d+) (passed|failed|errors?|skipped)")
_NO_TESTS: Final = 5
"""Exit status of pytest if it found no tests in its files."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the whole suite on a busy machine.")
    parser.add_argument("--processes", type=int, default=20, help="of pytest at once (20)")
    parser.add_argument("--times", type=int, default=1, help="number of runs (1)")
    parser.add_argument("--seed", type=int, default=1, help="of the order of the files (1)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the processes of pytest inherit it
    failed = [
        number
        for number in range(1, arguments.times + 1)
        if not run(number, processes=arguments.processes, seed=arguments.seed + number)
    ]
    return 1 if failed else 0


def run(number: int, *, processes: int, seed: int) -> bool:
    """Run every test file once, and print counts, load and each failure."""
    parts = divide(sorted(Path("tests").rglob("test_*.py")), seed=seed)
    loads: list[float] = []
    ended = Event()
    Thread(target=measure, args=(loads, ended), daemon=True).start()
    begins = time.monotonic()
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(processes) as pool:
        outputs = [Path(directory) / f"{index}" for index in range(len(parts))]
        codes = list(pool.map(pytest, parts, outputs))
        texts = [output.read_text(errors="replace") for output in outputs]
    ended.set()
    counts: Counter[str] = Counter()
    for text in texts:
        for count, outcome in _COUNT.findall(text.rstrip().rpartition("\n")[2]):
            counts[outcome.rstrip("s")] += int(count)
    bad = [text for code, text in zip(codes, texts, strict=True) if code not in {0, _NO_TESTS}]
    print(*bad, sep="\n")
    print(
        f"run {number}: {counts['passed']} passed, {counts['failed']} failed, "
        f"{counts['error']} errors, {counts['skipped']} skipped "
        f"in {time.monotonic() - begins:.0f} s; load mean {statistics.mean(loads or [0]):.1f}, "
        f"highest {max(loads, default=0):.1f}",
        flush=True,
    )
    return not bad


def divide(files: list[Path], *, seed: int) -> list[list[Path]]:
    """Divide the files into parts in an order that depends on the seed only."""
    random.Random(seed).shuffle(files)  # noqa: S311  # not for cryptography
    return [
        files[start : start + FILES_PER_PROCESS]
        for start in range(0, len(files), FILES_PER_PROCESS)
    ]


def pytest(files: list[Path], output: Path) -> int:
    options = ("-q", "-p", "no:cacheprovider", f"--timeout={HANG_SECONDS}")
    command = (sys.executable, "-m", "pytest", *options, *map(str, files))
    with output.open("wb") as stream:
        return subprocess.run(command, stdout=stream, stderr=stream, check=False).returncode


def measure(loads: list[float], ended: Event) -> None:
    """Add the load average of the last minute every ten seconds, from the second minute on."""
    ended.wait(60)
    while not ended.wait(LOAD_SECONDS):
        loads.append(os.getloadavg()[0])


if __name__ == "__main__":
    sys.exit(main())
