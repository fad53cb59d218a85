"""`verdictd-py guest agent`: serves image tools of this host, in either protocol."""

from __future__ import annotations

import asyncio
import signal
from argparse import Namespace
from typing import Final

from verdictd_py.cli.parsing import Silent
from verdictd_py.config import Address
from verdictd_py.errors import ConfigError
from verdictd_py.guest.agent import Connect, KeyProviderAgent
from verdictd_py.listeners.grpc_listener import GrpcListener

AGENT_DRAIN_SECONDS: Final = 2.0
"""For calls in flight when the agent is told to end."""


async def serve(options: Namespace, connect: Connect) -> None:
    """Serves image tools of this host until SIGTERM or SIGINT.

    Raises:
        ConfigError: it cannot start; one line says why.
    """
    address = _agent_address(options.keyprovider)
    agent = KeyProviderAgent(connect, timeout_seconds=options.timeout)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    listener = GrpcListener(
        "keyprovider", [address], lambda server, _: agent.register(server), events=Silent()
    )
    listener.bind()
    await listener.start()
    print(f"serving ocicrypt's key provider on {listener.endpoint}", flush=True)
    await ended.wait()
    await listener.stop(AGENT_DRAIN_SECONDS)


def _agent_address(text: str) -> Address:
    """Whoever reaches the agent is given what this guest is given, so only this host may."""
    try:
        address = Address.parse(text, unix_allowed=True)
    except ValueError as error:
        raise ConfigError(f"--keyprovider {error}, or unix:/path") from None
    if not address.local:
        raise ConfigError(
            f"--keyprovider {address} can be reached from other hosts, which would be given this "
            "guest's keys; write 127.0.0.1:port or unix:/path"
        )
    return address
