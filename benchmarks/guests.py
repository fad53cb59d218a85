"""Guests over RATS-TLS that cost little themselves: one protocol object for each connection."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from os import urandom
from typing import Final, Self

from OpenSSL import SSL

from benchmarks.datasets import KID
from verdictd_py.guest.attesters import SimulatedAttester, guest_context
from verdictd_py.protocols.ratstls.issue import Form
from verdictd_py.simulator import SimulatedPlatform, TdMeasurements

RECORD_BYTES: Final = 16_384
GET_KEK: Final = json.dumps({"command": "Get KEK", "kids": [KID]}).encode()

Address = tuple[str, int]


class GuestRefused(ConnectionError):
    """The broker refused a guest of the benchmark, or closed its connection."""


def new_guest(platform: SimulatedPlatform, *, unseen_claims: bool = False) -> SSL.Context:
    """Return the TLS settings of a guest with a new key, a new quote and a new certificate.

    Args:
        unseen_claims: the guest also has a value of RTMR3 that no guest had before.
    """
    measurements = TdMeasurements()
    if unseen_claims:
        measurements = replace(measurements, rtmr3=urandom(48))
    attester = SimulatedAttester(platform, measurements)
    return guest_context(attester, Form.CURRENT, now=datetime.now(UTC))


class Guest(asyncio.Protocol):
    """One connection of a guest; one request at a time."""

    def __init__(self, context: SSL.Context) -> None:
        self._tls = SSL.Connection(context, None)
        self._tls.set_connect_state()
        self._complete = False
        self._answer = b""
        loop = asyncio.get_running_loop()
        self._waiting: asyncio.Future[bytes] = loop.create_future()
        self._closed: asyncio.Future[None] = loop.create_future()

    @classmethod
    async def connect(
        cls, address: Address, context: SSL.Context, *, source: str | None = None
    ) -> Self:
        """Connect and complete the handshake.

        Args:
            source: local address.

        Raises:
            OSError: the connection or the handshake failed.
        """
        local = None if source is None else (source, 0)
        loop = asyncio.get_running_loop()
        _, guest = await loop.create_connection(lambda: cls(context), *address, local_addr=local)
        await guest.handshaken()
        return guest

    async def handshaken(self) -> None:
        """Wait until the handshake is complete; call it before anything else."""
        await self._waiting

    async def key(self) -> None:
        """Request the key encryption key, and check that the broker released it.

        Raises:
            GuestRefused: it did not.
        """
        self._waiting = asyncio.get_running_loop().create_future()
        self._answer = b""
        self._tls.send(GET_KEK)
        self._flush()
        answer = json.loads(await self._waiting)
        if answer.get("status") != "OK" or KID not in (answer.get("data") or {}):
            raise GuestRefused(f"the broker answered {answer.get('error', 'without the key')!r}")

    async def wait_closed(self) -> None:
        """Wait until the server closes the connection."""
        await self._closed

    def close(self) -> None:
        """Close the connection, as guests do."""
        if not self._closed.done():
            self._tls.shutdown()
            self._flush()
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  # of create_connection
        self._transport = transport
        self._advance()

    def data_received(self, data: bytes) -> None:
        while data:
            data = data[self._tls.bio_write(data) :]
        self._advance()

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(error or GuestRefused("the server closed the connection"))
        if not self._closed.done():
            self._closed.set_result(None)

    def _advance(self) -> None:
        try:
            if not self._complete:
                self._tls.do_handshake()
                self._complete = True
                self._waiting.set_result(b"")
                self._flush()
            while True:
                self._answer += self._tls.recv(RECORD_BYTES)
        except SSL.WantReadError:
            self._flush()
        except SSL.Error as error:
            self._fail(GuestRefused(f"TLS failed or ended: {error!r}"))
        if self._answer.endswith(b"}") and not self._waiting.done():
            self._waiting.set_result(self._answer)

    def _flush(self) -> None:
        try:
            while True:
                self._transport.write(self._tls.bio_read(65_536))
        except SSL.WantReadError:
            return

    def _fail(self, error: Exception) -> None:
        if not self._waiting.done():
            self._waiting.set_exception(error)
