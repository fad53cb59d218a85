"""`verdictd-py guest agent`: serves image tools of this host over either protocol."""

from __future__ import annotations

import asyncio
import signal
from argparse import Namespace
from typing import Final

from verdictd_py.cli.parsing import Silent
from verdictd_py.domain.addresses import Address
from verdictd_py.errors import ConfigError
from verdictd_py.guest.agent import Connect, KeyProviderAgent
from verdictd_py.listeners.grpc_listener import GrpcListener

AGENT_DRAIN_SECONDS: Final = 2.0
"""Limit for calls in flight when the agent stops."""


async def serve(options: Namespace, connect: Connect) -> None:
    """Serve image tools of this host until SIGTERM or SIGINT.

    Raises:
        ConfigError: the agent cannot start; the message is one line.
    """
    address = _agent_address(options.keyprovider)
    agent = KeyProviderAgent(connect, timeout_seconds=options.timeout)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    listener = GrpcListener(
        "keyprovider", [address], lambda server, _: agent.register(server), events=Silent()
    )
    listener.bind()
    await listener.start()
    print(f"serving ocicrypt's key provider on {listener.endpoint}", flush=True)
    await stop.wait()
    await listener.stop(AGENT_DRAIN_SECONDS)


def _agent_address(text: str) -> Address:
    """Parse a local address: any client of the agent gets the secrets of this guest."""
    try:
        address = Address.parse(text, unix_allowed=True)
    except ValueError as error:
        raise ConfigError(f"--keyprovider {error}, or unix:/path") from None
    if not address.local:
        raise ConfigError(
            f"--keyprovider {address} can be reached from other hosts, which would get this "
            "guest's keys; write 127.0.0.1:port or unix:/path"
        )
    return address
