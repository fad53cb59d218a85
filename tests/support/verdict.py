"""Runs the real commands beside a broker, or another server, in this process."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping

from tests.support.broker import RunningBroker
from tests.support.command import Ended, environment


async def beside(
    module: str,
    *words: str,
    stdin: bytes | int = b"",
    cwd: str | None = None,
    variables: Mapping[str, str] | None = None,
) -> Ended:
    """How `python -m verdictd_py.cli.MODULE WORD ...` ended, while this loop goes on.

    Args:
        stdin: what it reads, or a descriptor to read from.
        variables: more of its environment.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"verdictd_py.cli.{module}", *words),
        stdin=asyncio.subprocess.PIPE if isinstance(stdin, bytes) else stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**environment(), "NO_COLOR": "1", **(variables or {})},
        cwd=cwd,
    )
    out, err = await process.communicate(stdin if isinstance(stdin, bytes) else None)
    assert process.returncode is not None
    return Ended(process.returncode, out, err.decode())


async def verdict(
    broker: RunningBroker | str, *words: str, stdin: bytes | int = b"", cwd: str | None = None
) -> Ended:
    """How `verdict-py -c BROKER WORD ...` ended.

    Args:
        broker: a running one, or an address.
    """
    address = broker if isinstance(broker, str) else broker.client_api
    return await beside("verdict", "-c", address, *words, stdin=stdin, cwd=cwd)


def only_remarks(ended: Ended) -> None:
    """Check that a change was made, and that its remarks are what it leaves open."""
    assert ended.status == 0, ended
    for line in ended.stderr.splitlines():
        assert line.startswith("UNPINNED: "), ended
