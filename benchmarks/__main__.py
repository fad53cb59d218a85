"""The command line: `python -m benchmarks [--quick] [--json FILE] [--case NAME]`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import performance_page, report
from benchmarks.bench import Bench
from benchmarks.cases import CASES, Case
from benchmarks.rounds import Result

MISSED: Final = 1
WRONG_USE: Final = 2
INTERRUPTED: Final = 130


def main(argv: Sequence[str]) -> int:
    """Run the benchmarks; see `--help` for the exit status."""
    options = _parser().parse_args(argv)
    if options.list:
        print("\n".join(case.name for case in CASES))
        return 0
    if options.docs is not None:
        performance_page.write(options.docs)
        return 0
    chosen = _chosen(options.case)
    if chosen is None:
        print(f"benchmarks: no case is named {options.case[-1]!r}; see --list", file=sys.stderr)
        return WRONG_USE
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        results, machine = _run(chosen, options)
    except KeyboardInterrupt:
        return INTERRUPTED
    if options.json is not None:
        text = json.dumps(report.document(results, machine), indent=1)
        options.json.write_text(text + "\n")
    print(f"{sum(result.met for result in results)} of {len(results)} targets met")
    return status(results, check=options.check)


def status(results: Sequence[Result], *, check: bool) -> int:
    """Return the exit status of a run; a missed target counts only with `--check`."""
    return MISSED if check and not all(result.met for result in results) else 0


def _run(chosen: Sequence[Case], options: argparse.Namespace) -> tuple[list[Result], Any]:
    machine = report.machine(quick=options.quick)
    begun = time.monotonic()
    print(report.HEADER, flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="verdictd-py-bench-", dir=options.directory) as name,
        Bench(Path(name), quick=options.quick) as bench,
    ):
        results = []
        for case in chosen:
            results.append(case.result(bench))
            print(report.row(results[-1]), flush=True)
    print(f"\n{machine['cores']} cores, {machine['cpu']}, load {machine['load'][0]} at the start")
    print(f"{time.monotonic() - begun:.0f} s")
    return results, machine


def _chosen(names: Sequence[str]) -> list[Case] | None:
    """Return the cases with these names, or with these texts in their names; None for a wrong one.

    An exact name is one case, even if other names contain it.
    """
    chosen: list[Case] = []
    for name in names:
        matching = [case for case in CASES if case.name == name]
        matching = matching or [case for case in CASES if name.lower() in case.name.lower()]
        if not matching:
            return None
        chosen += matching
    return [case for case in CASES if not names or case in chosen]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure the server CPU of the broker against that of bare libraries.",
        epilog="Exit status: 0 after a run, 1 with --check if a target is missed, 2 wrong use.",
    )
    parser.add_argument("--quick", action="store_true", help="less of everything, under 60 s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON")
    parser.add_argument(
        "--case",
        action="append",
        default=[],
        metavar="NAME",
        help="only this case, by its name or a part of it; may be repeated",
    )
    parser.add_argument("--check", action="store_true", help="fail if a target is missed")
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    parser.add_argument(
        "--docs",
        type=Path,
        metavar="FILE",
        help="only make docs/performance.md, with this JSON (of some cases, too)",
    )
    parser.add_argument(
        "--directory", type=Path, help="where the data is written (that of temporary files)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
