"""`--protocol ratstls`: requests over an attested channel, as by guests with eaa_kbc."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from verdictd_py import daemon as app
from verdictd_py.cli.guest.options import NAMED, platform_directory
from verdictd_py.cli.guest.packets import read_packet, unwrap
from verdictd_py.domain.addresses import Address
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import ConfigError
from verdictd_py.guest.attesters import (
    Attester,
    SimulatedAttester,
    TsmAttester,
    guest_context,
    simulated_platform,
)
from verdictd_py.guest.connection import BrokerRefused, BrokerUnreachable, GuestConnection
from verdictd_py.protocols.ratstls.issue import Form

Operation = Callable[[GuestConnection], Awaitable[SecretBytes]]


async def fetch(options: Namespace) -> SecretBytes:
    """Request a secret and return it.

    Raises:
        BrokerRefused: the broker does not release the secret.
        BrokerUnreachable, HandshakeFailed: no broker answers in time.
        ConfigError: the command line or the simulated platform cannot be used.
    """
    operation = _operation(options)
    connect = connector(options)
    try:
        async with asyncio.timeout(options.timeout), connect() as connection:
            return await operation(connection)
    except TimeoutError as error:
        raise BrokerUnreachable("the broker did not answer in time; raise --timeout") from error
    except KeyError:
        raise BrokerRefused("the answer does not contain the requested secret") from None


def connector(options: Namespace) -> Callable[[], AbstractAsyncContextManager[GuestConnection]]:
    """Return a function that opens attested connections with a new key and new evidence.

    Raises:
        ConfigError: the address or the simulated platform cannot be used.
    """
    try:
        address = Address.parse(options.connect)
    except ValueError as error:
        raise ConfigError(f"--connect {error}") from None
    attester: Attester | None = None
    if options.attester == "simulated":
        platform = simulated_platform(platform_directory(options), now=app.utc_now())
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


def _operation(options: Namespace) -> Operation:
    """Return the operation on a connection that the command line requests."""
    value = getattr(options, "value", "")

    async def key(connection: GuestConnection) -> SecretBytes:
        return (await connection.keks([value]))[value]

    async def resource(connection: GuestConnection) -> SecretBytes:
        return await connection.resource(NAMED.get(options.request, value))

    async def version(connection: GuestConnection) -> SecretBytes:
        return SecretBytes((await connection.version()).encode())

    async def echo(connection: GuestConnection) -> SecretBytes:
        return SecretBytes((await connection.echo(value)).encode())

    if options.request == "decrypt":
        packet = read_packet(value)
        return lambda connection: unwrap(packet, connection)
    operations: dict[str, Operation] = {"key": key, "version": version, "echo": echo}
    return operations.get(options.request, resource)
