"""What callers of the client API may do, and clients that are somebody in particular."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc

from tests.support.broker import KID, RunningBroker
from tests.support.keyprovider_client import LAYER, KeyProviderClient, unwrap_input, wrap_input


async def may_wrap_only(client: KeyProviderClient, name: str) -> None:
    """Wraps, and is refused unwrapping with its own name and the remedy."""
    packet = await client.wrap(KID)
    status, text = await client.refusal("UnWrapKey", unwrap_input(packet))
    assert status == "PERMISSION_DENIED"
    assert text.startswith(f"{name} has no right to unwrap; call as")


async def may_do_everything(client: KeyProviderClient) -> None:
    assert await client.unwrap(await client.wrap(KID)) == LAYER


async def may_do_nothing(client: KeyProviderClient, name: str) -> None:
    status, text = await client.refusal("WrapKey", wrap_input(KID))
    assert status == "PERMISSION_DENIED"
    assert text.startswith(f"{name} has no right to wrap; call as")
    unreadable = unwrap_input({"kid": KID, "wrapped_data": [0], "iv": [0], "algorithm": "AES"})
    assert (await client.refusal("UnWrapKey", unreadable))[0] == "PERMISSION_DENIED"


async def cannot_connect(client: KeyProviderClient) -> None:
    assert (await client.refusal("WrapKey", wrap_input(KID)))[0] == "UNAVAILABLE"


@asynccontextmanager
async def client_of(
    broker: RunningBroker, credentials: grpc.ChannelCredentials | None = None
) -> AsyncIterator[KeyProviderClient]:
    async with KeyProviderClient.open(broker.client_api, credentials) as client:
        yield client


@asynccontextmanager
async def client_of_user(
    broker: RunningBroker, uid: int, directory: Path
) -> AsyncIterator[KeyProviderClient]:
    """A client whose connection belongs to `uid`: through a relay that opens it as that user.

    The kernel notes the owner of a socket when it is made, so this process needs to be that
    user for a moment only.
    """

    def connected() -> socket.socket:
        "".encode("idna")  # loads the codec: another user may not read our Python
        os.seteuid(uid)
        try:
            return socket.create_connection(
                (
                    broker.daemon.listener("client_api").address.host,
                    broker.daemon.listener("client_api").address.port,
                )
            )
        finally:
            os.seteuid(0)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()
        await writer.wait_closed()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(sock=connected())
        relayed.append(asyncio.gather(pump(reader, back), pump(there, writer)))

    relayed: list[asyncio.Future[tuple[None, None]]] = []
    path = directory / "relay"
    async with await asyncio.start_unix_server(relay, path):
        async with KeyProviderClient.open(f"unix:{path}") as client:
            yield client
        await asyncio.gather(*relayed)
    assert relayed
