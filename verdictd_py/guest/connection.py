"""One attested connection of a guest: eaa_kbc's JSON over RATS-TLS.

It reads exactly as eaa_kbc does (wire-eaa.md, "How the client reads"), so that an answer
that real guests misread fails here too.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from OpenSSL import SSL

from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import RequestError, VerdictdError
from verdictd_py.protocols.ratstls.session import TlsSession

_LOG: Final = logging.getLogger(__name__)
"""Steps of a guest, for `--log-level`; never the content of a secret, a key or a token."""

CLIENT_BUFFER_BYTES: Final = 16_384
_SMALL_ANSWER_BYTES: Final = 4096
_NETWORK_READ_BYTES: Final = 65_536


class BrokerRefused(VerdictdError):
    """The broker answered `Fail`, or closed the connection. The text is the broker's."""

    code = "broker-refused"


class BrokerUnreachable(BrokerRefused):
    """The broker cannot be reached, or the connection broke or timed out; a retry may succeed."""

    code = "broker-unreachable"


class HandshakeFailed(BrokerRefused):
    """The server did not complete the handshake as a broker does; it may be another server."""

    code = "handshake-failed"


class GuestConnection:
    """Client of a broker that sends one request at a time over an attested channel."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, session: TlsSession
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._session = session

    @classmethod
    @asynccontextmanager
    async def open(
        cls, host: str, port: int, context: SSL.Context, *, timeout_seconds: float = 30
    ) -> AsyncIterator[GuestConnection]:
        """Connect and complete the handshake.

        Raises:
            BrokerUnreachable: the connection is refused or times out.
            HandshakeFailed: the handshake failed.
            BrokerRefused: the broker ended the connection later.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                reader, writer = await asyncio.open_connection(host, port)
        except (OSError, TimeoutError) as error:
            raise BrokerUnreachable(
                f"cannot connect to {host} port {port}: is it running?"
            ) from error
        _LOG.info("connected to %s port %s", host, port)
        connection = cls(reader, writer, TlsSession(context, server=False))
        try:
            await connection._shake_hands(timeout_seconds)
            yield connection
        except RequestError as error:
            raise BrokerRefused(f"the broker ended the connection: {error}") from error
        except OSError as error:  # includes TimeoutError
            raise BrokerUnreachable("the connection to the broker broke or timed out") from error
        finally:
            connection._close()

    async def call(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a command and return its JSON answer.

        Raises:
            BrokerRefused: the answer is `Fail`, or not a valid answer.
        """
        return _accepted(await self._exchange(request, _SMALL_ANSWER_BYTES))

    async def echo(self, text: str) -> str:
        return (await self._exchange({"command": "echo", "data": text}, 4096)).decode()

    async def version(self) -> str:
        """Return the version of the protocol, as an accepted guest.

        The second request shows the acceptance: a refused guest receives one version, then the
        refusal, because real clients print no refusal of `version`.

        Raises:
            BrokerRefused: the guest is refused, or cannot be appraised.
        """
        await self.call({"command": "version"})
        return str((await self.call({"command": "version"}))["version"])

    async def keks(self, kids: list[str]) -> dict[str, SecretBytes]:
        """Return keys by kid."""
        data = (await self.call({"command": "Get KEK", "kids": kids})).get("data") or {}
        return {kid: _decoded(text) for kid, text in data.items()}

    async def decrypt(
        self, *, kid: str, encrypted_data: bytes, algorithm: str, iv: bytes
    ) -> SecretBytes:
        """Return the plaintext of one wrapped blob."""
        wrapped = base64.b64encode(encrypted_data).decode()
        blob = {
            "kid": kid,
            "encrypted_data": wrapped,
            "algorithm": algorithm,
            "key_length": 256,
            "iv": base64.b64encode(iv).decode(),
        }
        data = (await self.call({"command": "Decrypt", "blobs": [blob]})).get("data")
        opened = data.get(wrapped) if isinstance(data, dict) else None
        if not isinstance(opened, str):
            raise BrokerRefused("the answer lacks the blob that was sent")
        return _decoded(opened)

    async def resource(self, name: str) -> SecretBytes:
        """Return a resource by its first-generation name (`Policy`) or its path."""
        info = await self.call({"command": "Get Resource Info", "name": name})
        size = int((info.get("data") or {})["base64size"])
        if "/" in name:
            request: dict[str, Any] = {
                "command": "Get Resource",
                "optional": {"resource_path": name},
            }
        else:
            request = {"command": f"Get {name}", "optional": {}}
        text = await self._exchange(request, size)
        content = _decoded(text)
        if len(text) != size:
            raise BrokerRefused(
                _fail_text(content.reveal()) or "the answer has another size than announced"
            )
        return content

    async def _shake_hands(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._handshake()
            _LOG.info("the handshake is complete; the broker has the evidence of this guest")
        except RequestError as error:
            raise HandshakeFailed(f"the handshake with the broker failed: {error}") from error

    async def _handshake(self) -> None:
        while not self._session.handshake():
            await self._flush()
            self._session.receive(await self._reader.read(_NETWORK_READ_BYTES))
        await self._flush()

    async def _exchange(self, request: dict[str, Any], expected_bytes: int) -> bytes:
        _LOG.debug("request: %s", request.get("command"))
        self._session.write(json.dumps(request, separators=(",", ":")).encode())
        await self._flush()
        answer = b""
        while True:
            record = await self._read()
            answer += record
            if len(record) < CLIENT_BUFFER_BYTES or len(answer) >= expected_bytes:
                _LOG.debug("answer: %d bytes", len(answer))
                return answer

    async def _read(self) -> bytes:
        while not (plaintext := self._session.read()):
            self._session.receive(await self._reader.read(_NETWORK_READ_BYTES))
            await self._flush()
        return plaintext

    async def _flush(self) -> None:
        self._writer.write(self._session.outgoing())
        await self._writer.drain()

    def _close(self) -> None:
        self._session.close()
        self._writer.write(self._session.outgoing())
        self._writer.close()


def _accepted(answer: bytes) -> dict[str, Any]:
    try:
        members = json.loads(answer)
    except ValueError:
        raise BrokerRefused("the answer is not JSON") from None
    if not isinstance(members, dict) or members.get("status") != "OK":
        raise BrokerRefused(_fail_text(answer) or "the answer is neither OK nor Fail")
    return members


def _fail_text(answer: bytes) -> str:
    """Return the broker's text in a `Fail` answer; empty for any other answer."""
    try:
        members = json.loads(answer)
    except ValueError:
        return ""
    if isinstance(members, dict) and members.get("status") == "Fail":
        return str(members.get("error", "no reason given"))
    return ""


def _decoded(text: str | bytes) -> SecretBytes:
    try:
        return SecretBytes(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        failure = _fail_text(text.encode() if isinstance(text, str) else text)
        raise BrokerRefused(failure or "the answer is not base64") from None
