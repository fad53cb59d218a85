"""Guests over HTTP that cost little themselves and decide when a connection is new."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final, Self
from urllib.parse import urlsplit

from benchmarks.datasets import RESOURCE, SECRET
from verdictd_py.guest.attesters import SimulatedAttester
from verdictd_py.guest.rcar.evidence import Evidence, SampleEvidence, TdxEvidence
from verdictd_py.guest.rcar.jwe import open_answer
from verdictd_py.guest.rcar.keys import TeeKey, TeeKeyKind
from verdictd_py.guest.rcar.messages import (
    Challenge,
    Version,
    attestation,
    auth_request,
    runtime_digest,
    selected_algorithm,
)
from verdictd_py.simulator import SimulatedPlatform

VERSION: Final = Version.V0_4_0
RESOURCE_PATH: Final = f"/kbs/v0/resource/{RESOURCE}"


class HttpFailed(ConnectionError):
    """The server answered with another status than expected."""


class Connection:
    """A kept connection of HTTP/1.1; one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.cookie = ""

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect to the server of `http://host:port`."""
        parts = urlsplit(url)
        return cls(*await asyncio.open_connection(parts.hostname, parts.port))

    async def request(
        self, method: str, path: str, body: object = None, *, expect: int = 200
    ) -> bytes:
        """Send a request, and return the body of the answer; cookies are kept.

        Args:
            body: JSON; None for a request without a body.

        Raises:
            HttpFailed: the status is not `expect`.
            OSError: the connection broke.
        """
        content = b"" if body is None else json.dumps(body).encode()
        head = [f"{method} {path} HTTP/1.1", "Host: localhost"]
        if self.cookie:
            head.append(f"Cookie: {self.cookie}")
        if content:
            head += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
        self._writer.write("\r\n".join([*head, "", ""]).encode() + content)
        try:
            lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = dict(_header(line) for line in lines[1:] if line)
            answer = await self._reader.readexactly(int(headers.get("content-length", "0")))
        except asyncio.IncompleteReadError as error:
            raise HttpFailed("the server closed the connection") from error
        status = int(lines[0].split(" ")[1])
        if status != expect:
            raise HttpFailed(f"{method} {path}: {status} {answer[:200]!r}")
        if "set-cookie" in headers:
            self.cookie = headers["set-cookie"].partition(";")[0]
        return answer

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


def _header(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip().lower(), value.strip()


class HttpGuest:
    """A guest with a key of its own, which attests over HTTP.

    Args:
        platform: source of the evidence of a TDX guest; None for a sample guest.
    """

    def __init__(self, url: str, platform: SimulatedPlatform | None) -> None:
        self._url = url
        self._key = TeeKey.new(TeeKeyKind.usual(VERSION), VERSION)
        self._evidence: Evidence = (
            SampleEvidence() if platform is None else TdxEvidence(SimulatedAttester(platform))
        )

    async def session(self, connections: int) -> None:
        """Do what a guest does for a resource: request it, attest after the 401, request it again.

        Args:
            connections: 1 for all four requests, 2 for two each.
        """
        first = await Connection.open(self._url)
        await first.request("GET", RESOURCE_PATH, expect=401)
        challenge = json.loads(await self._auth(first))
        second = first
        if connections > 1:
            second = await Connection.open(self._url)
            second.cookie = first.cookie
        await self._attest(second, challenge)
        answer = await second.request("GET", RESOURCE_PATH)
        self.open(answer)
        for connection in {first, second}:
            await connection.close()

    async def attested(self) -> Connection:
        """Return a connection on which this guest has attested."""
        connection = await Connection.open(self._url)
        await self._attest(connection, json.loads(await self._auth(connection)))
        return connection

    def open(self, answer: bytes) -> None:
        """Decrypt a resource, and check that it is the one that is stored.

        Raises:
            HttpFailed: it is another one.
        """
        if open_answer(answer, self._key, VERSION).reveal() != SECRET:
            raise HttpFailed("the resource is not the one that is stored")

    async def _auth(self, connection: Connection) -> bytes:
        body = auth_request(VERSION, self._evidence.tee)
        return await connection.request("POST", "/kbs/v0/auth", body)

    async def _attest(self, connection: Connection, answer: dict[str, Any]) -> None:
        challenge = Challenge(answer["nonce"], selected_algorithm(answer["extra-params"]))
        jwk = self._key.jwk
        evidence = self._evidence.collect(runtime_digest(VERSION, challenge, jwk))
        body = attestation(VERSION, challenge, jwk, evidence)
        await connection.request("POST", "/kbs/v0/attest", body)
