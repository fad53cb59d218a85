"""`--protocol ratstls`: asks over an attested channel, as guests with eaa_kbc do."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from verdictd_py import daemon as app
from verdictd_py.cli.guest.options import NAMED
from verdictd_py.cli.guest.packets import opened, packet_of
from verdictd_py.config import Address
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import ConfigError
from verdictd_py.guest.attesters import (
    Attester,
    SimulatedAttester,
    TsmAttester,
    guest_context,
    simulated_platform,
)
from verdictd_py.guest.connection import BrokerRefused, GuestConnection
from verdictd_py.protocols.ratstls.issue import Form

Ask = Callable[[GuestConnection], Awaitable[SecretBytes]]


async def ask(options: Namespace) -> SecretBytes:
    """What was asked for.

    Raises:
        BrokerRefused: the broker does not give it.
        ConfigError: the command line or the simulated platform cannot be used.
    """
    asked = _asking(options)
    connect = connecting(options)
    try:
        async with connect() as connection, asyncio.timeout(options.timeout):
            return await asked(connection)
    except KeyError:
        raise BrokerRefused("the answer lacks what was asked for") from None


def connecting(options: Namespace) -> Callable[[], AbstractAsyncContextManager[GuestConnection]]:
    """Opens attested connections as this guest, each with a key and evidence of its own.

    Raises:
        ConfigError: the address or the simulated platform cannot be used.
    """
    try:
        address = Address.parse(options.connect)
    except ValueError as error:
        raise ConfigError(f"--connect {error}") from None
    attester: Attester | None = None
    if options.attester == "simulated":
        platform = simulated_platform(options.platform.expanduser(), now=app.utc_now())
        attester = SimulatedAttester(platform, endorse=options.endorse)
    elif options.attester == "tdx":
        attester = TsmAttester()
    form = Form(options.form or Form.CURRENT)

    def connect() -> AbstractAsyncContextManager[GuestConnection]:
        context = guest_context(attester, form, now=app.utc_now())
        return GuestConnection.open(
            address.host, address.port, context, timeout_seconds=options.timeout
        )

    return connect


def _asking(options: Namespace) -> Ask:
    """What to do with the connection, from the words of the command line."""
    value = getattr(options, "value", "")

    async def key(connection: GuestConnection) -> SecretBytes:
        return (await connection.keks([value]))[value]

    async def resource(connection: GuestConnection) -> SecretBytes:
        return await connection.resource(NAMED.get(options.asked, value))

    async def version(connection: GuestConnection) -> SecretBytes:
        return SecretBytes((await connection.version()).encode())

    async def echo(connection: GuestConnection) -> SecretBytes:
        return SecretBytes((await connection.echo(value)).encode())

    if options.asked == "decrypt":
        packet = packet_of(value)
        return lambda connection: opened(packet, connection)
    asks: dict[str, Ask] = {"key": key, "version": version, "echo": echo}
    return asks.get(options.asked, resource)
