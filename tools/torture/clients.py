"""Genuine clients: guests of both protocols, an image owner, an operator, and their latencies."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, Self

import grpc
import httpx

from tools.torture.broker import KEY, KID, RESOURCE, SECRET
from verdictd_py import daemon as app
from verdictd_py._generated import keyprovider_pb2 as keyprovider
from verdictd_py._generated import keyprovider_pb2_grpc as keyprovider_grpc
from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py._generated import verdictd_v1_pb2_grpc as v1_grpc
from verdictd_py.domain.names import ResourcePath
from verdictd_py.errors import VerdictdError
from verdictd_py.guest.attesters import SimulatedAttester, guest_context
from verdictd_py.guest.connection import GuestConnection
from verdictd_py.guest.rcar.evidence import TdxEvidence
from verdictd_py.guest.rcar.http import KbsLink
from verdictd_py.guest.rcar.keys import TeeKey, TeeKeyKind
from verdictd_py.guest.rcar.messages import Version
from verdictd_py.guest.rcar.session import RcarGuest, RcarSession
from verdictd_py.protocols.ratstls.issue import Form
from verdictd_py.simulator import SimulatedPlatform

CALL_SECONDS: Final = 30.0
"""Patience of a client; whether the broker is fast enough is judged by the latencies."""
LAYER: Final = b'{"symkey":"c2VjcmV0IG9mIHRoZSBsYXllcg=="}'
FAILURES: Final = (VerdictdError, grpc.aio.AioRpcError, OSError, httpx.HTTPError)
"""How a client that is not served fails; `OSError` includes `TimeoutError`."""


SCRAPE: Final = "scrape"
"""Name of the client that reads the metrics."""


class WrongAnswer(VerdictdError):
    """The broker answered something else than the secret that is stored."""


@dataclass
class Latencies:
    """Outcomes of one kind of client.

    Attributes:
        seconds: of each client that was served.
        failures: texts of those that were not.
    """

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.seconds) + len(self.failures)

    def quantile(self, part: float) -> float:
        """Return the smallest latency that `part` of the served clients did not exceed."""
        ordered = sorted(self.seconds)
        return ordered[max(0, math.ceil(part * len(ordered)) - 1)] if ordered else math.inf

    async def measure(self, call: Callable[[], Awaitable[None]]) -> None:
        """Run a client, and count it."""
        begin = time.monotonic()
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await call()
        except FAILURES as error:
            self.failures.append(failure_text(error))
        else:
            self.seconds.append(time.monotonic() - begin)


class Target(Protocol):
    """Where the clients of a broker connect to, and what they trust."""

    @property
    def listen(self) -> tuple[str, int]:
        """Host and port for guests over RATS-TLS."""
        ...

    @property
    def client_api(self) -> str:
        """Address of the gRPC listener."""
        ...

    @property
    def kbs(self) -> str:
        """URL of the HTTPS listener."""
        ...

    @property
    def status(self) -> str:
        """URL of the status listener."""
        ...

    @property
    def platform(self) -> SimulatedPlatform:
        """The platform that the broker trusts."""
        ...

    @property
    def ca(self) -> Path:
        """File with the CA of the HTTPS listener."""
        ...


class Clients:
    """The genuine clients of one broker. Each call is a new client, except `connected`."""

    def __init__(self, broker: Target) -> None:
        self._broker = broker
        self._attester = SimulatedAttester(broker.platform)
        # A key is generated once: guests in production spend that time before they connect.
        self._key = TeeKey.new(TeeKeyKind.usual(Version.V0_4_0), Version.V0_4_0)
        self._stack = AsyncExitStack()
        self._guest: GuestConnection | None = None

    async def __aenter__(self) -> Self:
        self._guest = await self._stack.enter_async_context(self.ratstls_connection())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def kinds(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """The clients by name."""
        return {
            "RATS-TLS": self.ratstls,
            "HTTPS": self.https,
            "wrap": self.wrap,
            "operator": self.operator,
            "connected": self.connected,
            SCRAPE: self.scrape,
        }

    def ratstls_connection(self) -> AbstractAsyncContextManager[GuestConnection]:
        """Return an attested connection with fresh evidence."""
        context = guest_context(self._attester, Form.CURRENT, now=app.utc_now())
        return GuestConnection.open(*self._broker.listen, context, timeout_seconds=CALL_SECONDS)

    async def ratstls(self) -> None:
        """Attest over RATS-TLS and request a key."""
        async with self.ratstls_connection() as guest:
            _expect((await guest.keks([KID]))[KID].reveal(), KEY)

    async def connected(self) -> None:
        """Request a key as the guest that attested before everything else."""
        if self._guest is None:
            raise WrongAnswer("the guest is not connected")
        _expect((await self._guest.keks([KID]))[KID].reveal(), KEY)

    async def https(self) -> None:
        """Attest over HTTPS and request a resource."""
        link = KbsLink(self._broker.kbs, ca=self._broker.ca, timeout_seconds=CALL_SECONDS)
        guest = RcarGuest(TdxEvidence(self._attester), key=self._key)
        async with RcarSession.open(link, guest) as session:
            content = await session.resource(ResourcePath.parse(RESOURCE))
        _expect(content.reveal(), SECRET)

    async def wrap(self) -> None:
        """Wrap a layer key, on a channel of its own as ocicrypt does."""
        async with channel_to(self._broker.client_api) as channel:
            await wrap(channel, KID)

    async def operator(self) -> None:
        """Request the status and the list of keys."""
        async with channel_to(self._broker.client_api) as channel:
            status: Any = v1_grpc.StatusServiceStub(channel)
            keys: Any = v1_grpc.KeyServiceStub(channel)
            await status.GetStatus(v1.GetStatusRequest(), timeout=CALL_SECONDS)
            listed = await keys.ListKeys(v1.ListKeysRequest(), timeout=CALL_SECONDS)
        if KID not in {key.name for key in listed.keys}:
            raise WrongAnswer("the list of keys lacks a key")

    async def scrape(self) -> None:
        """Read the metrics, as Prometheus does."""
        # Not httpx, whose client takes longer to create than the scrape.
        host, _, port = self._broker.status.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            page = await reader.read()
        finally:
            writer.close()
        if b"verdictd_ready 1.0" not in page:
            raise WrongAnswer("the metrics do not say that the broker is ready")


def failure_text(error: Exception) -> str:
    """Return one line about a client that was not served."""
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"[:200]
    return f"{type(error).__name__}: {error}"[:200]


def channel_to(address: str) -> grpc.aio.Channel:
    """Return a channel with a connection of its own, as each call of ocicrypt has one."""
    options = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))
    return grpc.aio.insecure_channel(address, options=options)


async def wrap(channel: grpc.aio.Channel, kid: str, *, padding: int = 0) -> None:
    """Wrap a layer key with `kid`.

    Args:
        padding: bytes that the request is larger.
    """
    request = {
        "op": "keywrap",
        "keywrapparams": {
            "ec": {
                "Parameters": {"attestation-agent": [base64.b64encode(kid.encode()).decode()]},
                "DecryptConfig": {},
            },
            "optsdata": base64.b64encode(LAYER + bytes(padding)).decode(),
        },
        "keyunwrapparams": {"dc": None, "annotation": None},
    }
    stub: Any = keyprovider_grpc.KeyProviderServiceStub(channel)
    await stub.WrapKey(
        keyprovider.keyProviderKeyWrapProtocolInput(
            KeyProviderKeyWrapProtocolInput=json.dumps(request).encode()
        ),
        timeout=CALL_SECONDS,
    )


def _expect(answer: bytes, content: bytes) -> None:
    if answer != content:
        raise WrongAnswer("the answer is not the secret that is stored")
