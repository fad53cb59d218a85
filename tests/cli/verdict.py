"""Runs the real `verdict-py` beside a broker in this process."""

from __future__ import annotations

import asyncio
import sys

from tests.cli.command import Ended, environment
from tests.system.broker import RunningBroker

SECONDS = 30


async def verdict(
    broker: RunningBroker | str, *words: str, stdin: bytes | int = b"", cwd: str | None = None
) -> Ended:
    """How `verdict-py -c BROKER WORD ...` ended.

    Args:
        broker: a running one, or an address.
        stdin: what it reads, or a descriptor to read from.
    """
    address = broker if isinstance(broker, str) else broker.client_api
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "verdictd_py.cli.verdict", "-c", address, *words),
        stdin=asyncio.subprocess.PIPE if isinstance(stdin, bytes) else stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**environment(), "NO_COLOR": "1"},
        cwd=cwd,
    )
    async with asyncio.timeout(SECONDS):
        out, err = await process.communicate(stdin if isinstance(stdin, bytes) else None)
    assert process.returncode is not None
    return Ended(process.returncode, out, err.decode())
