"""Two and four brokers on one data directory, with kills between them.

Each broker has operators of its own. At the end each broker, also those that were never started
again, must report the changes of all of them.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from typing import Final

from tools.torture import changes
from tools.torture.broker import Broker, Site
from tools.torture.changes import Gate, Ledger, Writer
from tools.torture.kills import judged, recorded, trail, writing
from tools.torture.scenario import Budget, Row, Scenario

BROKERS: Final = (2, 4)
WRITERS_OF_BROKER: Final = 2
SEED: Final = 140
BETWEEN_KILLS_SECONDS: Final = (0.5, 3.0)


async def run(budget: Budget) -> AsyncIterator[Row]:
    """Run two brokers, then four."""
    numbers = BROKERS[:1] if budget.smoke else BROKERS
    for number in numbers:
        directory = budget.directory / f"brokers-{number}"
        directory.mkdir()
        site = Site.make(directory)
        ledger, kills, differences = await _contend(site, number, budget.seconds / len(numbers))
        case = f"{number} brokers on one directory, {kills} kill -9"
        yield judged(case, ledger, differences)
        yield await trail(site.data)
        yield recorded([site.data], ledger)


async def _contend(site: Site, number: int, seconds: float) -> tuple[Ledger, int, list[str]]:
    """Change data through all brokers, and kill one after the other except the first."""
    choose = random.Random(SEED)  # noqa: S311  # repeatable, nothing secret
    ledger, kills = Ledger(), 0
    brokers = [await Broker.start(site) for _ in range(number)]
    gates = [Gate() for _ in brokers]
    try:
        async with writing(
            [
                Writer(f"b{at}w{one}", ledger, choose, gate)
                for at, gate in enumerate(gates)
                for one in range(WRITERS_OF_BROKER)
            ]
        ):
            for gate, broker in zip(gates, brokers, strict=True):
                gate.open(broker.client_api)
            end = time.monotonic() + seconds
            while time.monotonic() < end or not kills:
                await asyncio.sleep(choose.uniform(*BETWEEN_KILLS_SECONDS))
                at = choose.randrange(1, number)
                await brokers[at].kill()
                await gates[at].close()
                brokers[at] = await Broker.start(site)
                gates[at].open(brokers[at].client_api)
                kills += 1
            for gate in gates:
                await gate.close()
        differences = [
            f"broker {at}: {line}"
            for at, broker in enumerate(brokers)
            for line in await changes.verify(broker.client_api, ledger)
        ]
    finally:
        for broker in brokers:
            await broker.kill()
    return ledger, kills, differences


SHARED_SCENARIO: Final = Scenario(
    "shared", "two and four brokers on one data directory, with kills between them", 2, run
)
