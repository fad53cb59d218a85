"""A guest of the simulated platform with another kernel: `other_guest.py HOST PORT PLATFORM`.

`verdictd-py guest` has no option for its measurements; a page that explains a refusal needs one.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path

from verdictd_py.guest.attesters import SimulatedAttester, guest_context, simulated_platform
from verdictd_py.guest.connection import GuestConnection
from verdictd_py.protocols.ratstls.issue import Form
from verdictd_py.simulator import TdMeasurements


async def main(host: str, port: str, directory: str) -> None:
    """Attest, and request the version."""
    now = datetime.now(UTC)
    platform = simulated_platform(Path(directory), now=now)
    attester = SimulatedAttester(platform, TdMeasurements(rtmr1=bytes(48)))
    context = guest_context(attester, Form.CURRENT, now=now)
    async with GuestConnection.open(host, int(port), context) as guest:
        await guest.version()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
