"""The command line: `./dev torture [SCENARIO ...] [--minutes N] [--smoke]`."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tools.torture.brokers import BROKERS_SCENARIOS
from tools.torture.clocks import CLOCKS_SCENARIO
from tools.torture.faults import FAULTS_SCENARIO
from tools.torture.floods import FLOODS_SCENARIO
from tools.torture.kills import KILLS_SCENARIO
from tools.torture.memory import MEMORY_SCENARIO
from tools.torture.scenario import FAILED, Budget, Row, Scenario
from tools.torture.shared import SHARED_SCENARIO

SCENARIOS: Final = (
    FLOODS_SCENARIO,
    KILLS_SCENARIO,
    SHARED_SCENARIO,
    *BROKERS_SCENARIOS,
    FAULTS_SCENARIO,
    CLOCKS_SCENARIO,
    MEMORY_SCENARIO,
)
DEFAULT_MINUTES: Final = 15.0
SMOKE_SECONDS: Final = 3.0
INTERRUPTED: Final = 130


def main(argv: Sequence[str]) -> int:
    """Run the scenarios and print their table; return 1 if a row failed."""
    parser = argparse.ArgumentParser(
        prog="./dev torture",
        description="Long tests of real daemon processes on loopback, with a table at the end.",
        epilog="\n".join(f"  {one.name:<20}{one.about}" for one in SCENARIOS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [one.name for one in SCENARIOS]
    parser.add_argument("scenario", nargs="*", metavar="SCENARIO", help="default: all of them")
    parser.add_argument("--minutes", type=float, default=DEFAULT_MINUTES, help="about, altogether")
    parser.add_argument("--smoke", action="store_true", help="some seconds for each scenario")
    parser.add_argument(
        "--only",
        default="",
        metavar="TEXT",
        help="floods, or kinds of clients of the memory scenario, whose name contains it",
    )
    options = parser.parse_args(argv)
    if unknown := [name for name in options.scenario if name not in names]:
        parser.error(f"{unknown[0]} is not a scenario: choose from {', '.join(names)}")
    chosen = [one for one in SCENARIOS if one.name in (options.scenario or names)]
    directory = Path(tempfile.mkdtemp(prefix="verdictd-py-torture-"))
    # asyncio.run cancels at SIGINT, so that no daemon and no mount is left; unless the parent
    # process ignores SIGINT, which is inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        rows = asyncio.run(
            _run_all(chosen, directory, options.only, minutes=options.minutes, smoke=options.smoke)
        )
    except KeyboardInterrupt:
        print(f"interrupted; the daemons' logs are in {directory}", file=sys.stderr)
        return INTERRUPTED
    _print_table(rows)
    print(f"\n{_host()}")
    if failed := sum(row.result == FAILED for _, row in rows):
        print(f"\n{failed} of {len(rows)} rows failed; the daemons' logs are in {directory}")
        return 1
    shutil.rmtree(directory)
    return 0


async def _run_all(
    chosen: Sequence[Scenario], directory: Path, only: str, *, minutes: float, smoke: bool
) -> list[tuple[str, Row]]:
    rows: list[tuple[str, Row]] = []
    whole = sum(one.share for one in chosen)
    for scenario in chosen:
        seconds = SMOKE_SECONDS if smoke else minutes * 60 * scenario.share / whole
        own = directory / scenario.name
        own.mkdir()
        begin = time.monotonic()
        try:
            async for row in scenario.run(Budget(seconds, smoke, own, only)):
                rows.append((scenario.name, row))
                print(f"{scenario.name}: {row.result}: {row.case}: {row.figures}", flush=True)
        except Exception as group:  # noqa: BLE001  # one broken scenario must not hide the others
            error = _cause(group)
            rows.append((scenario.name, Row(_ended(error), str(error), FAILED)))
            print(f"{scenario.name}: {FAILED}: {_ended(error)}: {error}", file=sys.stderr)
            traceback.print_exception(error)
        print(f"{scenario.name}: {time.monotonic() - begin:.0f} s", flush=True)
    return rows


def _cause(error: Exception) -> Exception:
    """Return the first error of the task that has ended a group of tasks."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _ended(error: Exception) -> str:
    return f"ended by {type(error).__name__}"


def _host() -> str:
    """Return what the figures depend on."""
    load = ", ".join(f"{number:.1f}" for number in os.getloadavg())
    return f"{os.cpu_count()} CPUs; load average over 1, 5 and 15 minutes: {load}"


def _print_table(rows: Sequence[tuple[str, Row]]) -> None:
    print("\n| scenario | case | figures | result |\n| --- | --- | --- | --- |")
    for name, row in rows:
        cells = (text.replace("|", "/").replace("\n", " ") for text in (row.case, row.figures))
        print(f"| {name} | {' | '.join(cells)} | {row.result} |")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
