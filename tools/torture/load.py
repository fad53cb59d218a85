"""Run genuine clients of one kind, for the scenario "memory".

    python -m tools.torture.load JSON

It prints a line `[SERVED, FAILED]` about every half second, and at the end.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.torture.clients import Clients, Latencies
from verdictd_py.simulator import SimulatedPlatform

REPORT_SECONDS: Final = 0.5
AT_ONCE: Final = {"RATS-TLS": 8, "HTTPS": 8, "connected": 32}
"""Clients at the same time: their records share the fsync of the audit trail."""


@dataclass(frozen=True)
class Target:
    """The addresses of a broker of another process (see `clients.Target`)."""

    listen: tuple[str, int]
    client_api: str
    kbs: str
    status: str
    platform: SimulatedPlatform
    ca: Path


async def main(text: str) -> None:
    """Run clients until the time or the number is reached."""
    options = json.loads(text)
    directory = Path(options["directory"])
    target = Target(
        listen=(options["listen"][0], options["listen"][1]),
        client_api=options["client_api"],
        kbs=options["kbs"],
        status="",  # these clients read no metrics
        platform=SimulatedPlatform.load(directory / "platform"),
        ca=directory / "ca.pem",
    )
    served = failed = 0
    end = time.monotonic() + options["seconds"]
    report = time.monotonic() + REPORT_SECONDS

    async def run(clients: Clients) -> None:
        nonlocal served, failed, report
        client = clients.kinds[options["kind"]]
        while (now := time.monotonic()) < end and served + failed < options["maximum"]:
            latencies = Latencies()
            await latencies.measure(client)
            served, failed = served + len(latencies.seconds), failed + len(latencies.failures)
            if now >= report:
                print(json.dumps([served, failed]), flush=True)
                report = now + REPORT_SECONDS

    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE.get(options["kind"], 1)):
            group.create_task(run(await stack.enter_async_context(Clients(target))))
    print(json.dumps([served, failed]), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
