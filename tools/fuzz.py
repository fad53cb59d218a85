"""Fuzz the parsers with atheris, guided by coverage.

Usage: fuzz.py [--minutes N] [--corpus DIRECTORY] [PARSER ...]

Needs atheris, which is not among the locked packages: `./dev run pip install atheris`.

Each parser runs in a process of its own. A defect is an exception that is not the parser's own, or
an input that takes over 100 ms of CPU time; the input is saved in the corpus directory.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

MAX_INPUT_SECONDS: Final = 0.1
MAX_INPUT_BYTES: Final = 64 * 1024


class TooSlow(Exception):
    """An input took too long."""


def fuzz_one(name: str, corpus: Path, seconds: int) -> None:
    """Fuzz one parser in this process, until its time has passed or a defect occurs."""
    import atheris  # noqa: PLC0415  # optional

    with atheris.instrument_imports(include=["verdictd_py", "tomllib"]):
        from tests.support.parsers import PARSERS  # noqa: PLC0415  # instrumented
    parser = PARSERS[name]
    for seed in parser.seeds():
        (corpus / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    # The first run of a parser loads tables and compiles patterns.
    for seed in parser.seeds():
        parser.run(seed)

    def one_input(data: bytes) -> None:
        if _seconds(parser, data) > MAX_INPUT_SECONDS:
            # Only a time that repeats counts: the machine may have been busy.
            fastest = min(_seconds(parser, data) for _ in range(3))
            if fastest > MAX_INPUT_SECONDS:
                raise TooSlow(f"{fastest * 1000:.0f} ms for {len(data)} bytes")

    options = [
        sys.argv[0],
        f"-max_total_time={seconds}",
        f"-max_len={MAX_INPUT_BYTES}",
        f"-artifact_prefix={corpus.parent}/{name}-",
        "-rss_limit_mb=2048",
        "-timeout=10",
        "-print_final_stats=1",
        "-verbosity=1",
        str(corpus),
    ]
    atheris.Setup(options, one_input)
    atheris.Fuzz()


def _seconds(parser: Any, data: bytes) -> float:  # noqa: ANN401  # as above
    begin = time.process_time()
    parser.run(data)
    return time.process_time() - begin


def run(names: list[str], minutes: float, directory: Path) -> int:
    """Fuzz each parser in a process of its own, and print a table; return the exit status."""
    defects = 0
    # With backtraces, one library takes 50 ms for each of its errors.
    environment = {**os.environ, "RUST_BACKTRACE": "0"}
    print(f"{'parser':22} {'executions':>12} {'per second':>11}  result")
    for name in names:
        corpus = directory / name
        corpus.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, __file__, "--one", name, "--corpus", str(corpus)]
        command += ["--minutes", str(minutes)]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        (directory / f"{name}.log").write_text(done.stdout + done.stderr)
        stats = _stats(done.stderr)
        result = "no defect" if done.returncode == 0 else _defect(done.stdout + done.stderr)
        defects += done.returncode != 0
        count, rate = (
            stats.get("number_of_executed_units", "?"),
            stats.get("average_exec_per_sec", "?"),
        )
        print(f"{name:22} {count:>12} {rate:>11}  {result}", flush=True)
    return 1 if defects else 0


def _stats(text: str) -> dict[str, str]:
    lines = (line.removeprefix("stat::") for line in text.splitlines() if line.startswith("stat::"))
    pairs = (line.split(":") for line in lines)
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}


def _defect(text: str) -> str:
    lines = text.splitlines()
    with contextlib.suppress(StopIteration):
        at = next(i for i, line in enumerate(lines) if "Uncaught Python exception" in line)
        return "; ".join(line for line in lines[at + 1 : at + 3] if line)
    return "; ".join(line for line in lines if "ERROR" in line)[:200] or "failed"


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("parsers", nargs="*", metavar="PARSER", help="default: all")
    arguments.add_argument("--minutes", type=float, default=2, help="for each parser (default 2)")
    arguments.add_argument("--corpus", type=Path, help="directory to keep (default: a new one)")
    arguments.add_argument("--one", help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.one:
        fuzz_one(chosen.one, chosen.corpus, int(chosen.minutes * 60))
        return 0
    try:
        import atheris  # noqa: F401, PLC0415  # optional
    except ImportError:
        print("fuzz: atheris is missing; run './dev run pip install atheris'", file=sys.stderr)
        return 2
    from tests.support.parsers import PARSERS  # noqa: PLC0415  # the processes import it instrumented

    unknown = sorted(set(chosen.parsers) - set(PARSERS))
    if unknown:
        print(f"fuzz: unknown: {', '.join(unknown)}; known: {', '.join(PARSERS)}", file=sys.stderr)
        return 2
    directory = chosen.corpus or Path(tempfile.mkdtemp(prefix="fuzz-"))
    print(f"corpus and logs: {directory}", flush=True)
    return run(chosen.parsers or list(PARSERS), chosen.minutes, directory)


if __name__ == "__main__":
    sys.exit(main())
