"""An agent in a TD under debug: `python -m tests.peers.debug_guest HOST:PORT PLATFORM`.

`verdictd-py guest agent` in all else, which cannot be told to be under debug.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from verdictd_py import daemon as app
from verdictd_py.cli.parsing import Silent
from verdictd_py.config import Address
from verdictd_py.guest.agent import KeyProviderAgent
from verdictd_py.guest.attesters import SimulatedAttester, guest_context, simulated_platform
from verdictd_py.guest.connection import GuestConnection
from verdictd_py.listeners.grpc_listener import GrpcListener
from verdictd_py.protocols.ratstls.issue import Form
from verdictd_py.simulator import TdMeasurements

TIMEOUT_SECONDS = 60


async def serve(broker: Address, directory: Path) -> None:
    """Serves until the process is killed, and says where in its only line."""
    now = app.utc_now()
    attester = SimulatedAttester(simulated_platform(directory, now=now), TdMeasurements().debug())

    def connect() -> AbstractAsyncContextManager[GuestConnection]:
        context = guest_context(attester, Form.CURRENT, now=now)
        return GuestConnection.open(
            broker.host, broker.port, context, timeout_seconds=TIMEOUT_SECONDS
        )

    agent = KeyProviderAgent(connect, timeout_seconds=TIMEOUT_SECONDS)
    listener = GrpcListener(
        "keyprovider",
        [Address("127.0.0.1", 0)],
        lambda server, _: agent.register(server),
        events=Silent(),
    )
    listener.bind()
    await listener.start()
    print(f"serving ocicrypt's key provider on {listener.endpoint}", flush=True)  # noqa: T201  # as the agent
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Address.parse(sys.argv[1]), Path(sys.argv[2])))
