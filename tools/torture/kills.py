"""SIGKILL of the daemon while operators change everything that it stores.

After each start the daemon must report every acknowledged change, and nothing torn. At the end the
audit trail must verify and contain a record of each acknowledged key.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from tools.torture import changes
from tools.torture.broker import CHECKOUT, Broker, Site
from tools.torture.changes import Gate, Ledger, Writer
from tools.torture.scenario import Budget, Row, Scenario

KILLS: Final = 100
WRITERS: Final = 4
SEED: Final = 14
RUNNING_SECONDS: Final = (0.05, 0.8)
"""Bounds of the random time between the first change after a start and the kill."""


async def run(budget: Budget) -> AsyncIterator[Row]:
    """Kill the daemon again and again."""
    choose = random.Random(SEED)  # noqa: S311  # repeatable, nothing secret
    site, ledger, gate = Site.make(budget.directory), Ledger(), Gate()
    differences: list[str] = []
    kills, end = 0, time.monotonic() + budget.seconds
    names = [f"w{number}" for number in range(WRITERS)]
    async with writing([Writer(name, ledger, choose, gate) for name in names]):
        while kills < (1 if budget.smoke else KILLS) and (time.monotonic() < end or kills < 1):
            broker = await Broker.start(site)
            differences += await changes.verify(broker.client_api, ledger)
            gate.open(broker.client_api)
            if kills == 0:  # otherwise a busy machine kills it before there is anything to lose
                await acknowledged(ledger)
            await asyncio.sleep(choose.uniform(*RUNNING_SECONDS))
            await broker.kill()
            await gate.close()
            kills += 1
        broker = await Broker.start(site)
        differences += await changes.verify(broker.client_api, ledger)
        await broker.stop()
    yield judged(f"{kills} kill -9 under {WRITERS} operators", ledger, differences)
    yield await trail(site.data)
    yield recorded([site.data], ledger)


async def acknowledged(ledger: Ledger) -> None:
    """Wait until a change is acknowledged, at most two minutes."""
    end = time.monotonic() + 120
    while ledger.acknowledged == 0 and time.monotonic() < end:  # noqa: ASYNC110  # no event
        await asyncio.sleep(0.05)


@asynccontextmanager
async def writing(writers: Sequence[Writer]) -> AsyncIterator[None]:
    """Run operators until the context ends; an error of one ends the context."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(writer.run()) for writer in writers]
        yield
        for task in tasks:
            task.cancel()


def judged(case: str, ledger: Ledger, differences: Sequence[str]) -> Row:
    """Return the row of operators and what was lost of their changes."""
    problems = (*differences, *ledger.unexpected)
    example = f"; e.g. {problems[0]}" if problems else ""
    return Row.judged(
        case,
        f"{ledger.acknowledged} acknowledged, {ledger.in_doubt} without answer, "
        f"{ledger.retries} to request again, "
        f"{f'{ledger.outages} refused in an outage, ' if ledger.outages else ''}"
        f"{len(differences)} lost or torn, "
        f"{len(ledger.unexpected)} refused{example}",
        passed=not problems and ledger.acknowledged > 0,
    )


async def trail(data: Path, *, log: Path | None = None) -> Row:
    """Verify every file of the audit trail of a data directory.

    Args:
        log: a log with heads of the trail, which it must contain.
    """
    number = len(list((data / "audit").glob("*.jsonl")))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "verdictd_py.cli.main", "audit", "verify", str(data / "audit")),
        *(() if log is None else ("--log", str(log))),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=CHECKOUT,
    )
    _, errors = await process.communicate()
    complaints = errors.decode().splitlines()
    example = f"; e.g. {complaints[0]}" if complaints else ""
    heads = "" if log is None else f", {await asyncio.to_thread(_lines, log)} heads elsewhere"
    return Row.judged(
        f"the audit trail in {data.name}/ afterwards",
        f"{number} files{heads}, {len(complaints)} complaints{example}",
        passed=number > 0 and process.returncode == 0 and not complaints,
    )


def _lines(log: Path) -> int:
    return len(log.read_text().splitlines())


def recorded(trails: Sequence[Path], ledger: Ledger) -> Row:
    """Return the row about the records of acknowledged keys in some data directories."""
    files = [file for data in trails for file in (data / "audit").glob("*.jsonl")]
    text = "".join(map(Path.read_text, files))
    things = ledger.acceptable.items()
    keys = [name for (kind, name), states in things if (kind, states) == _A_KEY]
    missing = [name for name in keys if f'"{name}"' not in text]
    example = f"; e.g. {missing[0]}" if missing else ""
    return Row.judged(
        "every acknowledged change in an audit trail",
        f"{len(missing)} of {len(keys)} acknowledged keys without a record{example}",
        passed=not missing and bool(keys),
    )


_A_KEY: Final = (changes.KEY, {changes.PRESENT})

KILLS_SCENARIO: Final = Scenario(
    "kills", "kill -9 under changes: nothing lost, nothing torn", 4, run
)
