"""A client of the key provider that writes its bytes by hand, as the wire has them.

No generated code, so that a mistake in `protos/` shows.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

LAYER = b'{"symkey":"c2VjcmV0IG9mIHRoZSBsYXllcg==","digest":"sha256:00"}'
_FIELD_1_BYTES = 0x0A  # field number 1, wire type 2 (protobuf.dev, "Encoding")


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def wrap_input(
    parameter: object, optsdata: object = None, provider: str = "attestation-agent"
) -> dict[str, Any]:
    """What ocicrypt sends; text and bytes are encoded, anything else stands as it is."""
    if isinstance(parameter, str):
        parameter = b64(parameter.encode())
    return {
        "op": "keywrap",
        "keywrapparams": {
            "ec": {"Parameters": {provider: [parameter]}, "DecryptConfig": {"Parameters": {}}},
            "optsdata": b64(LAYER) if optsdata is None else optsdata,
        },
        "keyunwrapparams": {"dc": None, "annotation": None},
    }


def unwrap_input(packet: object) -> dict[str, Any]:
    annotation = b64(json.dumps(packet).encode()) if isinstance(packet, dict) else packet
    return {
        "op": "keyunwrap",
        "keywrapparams": {"ec": None, "optsdata": None},
        "keyunwrapparams": {
            "dc": {"Parameters": {"attestation-agent": [b64(b"Enabled")]}},
            "annotation": annotation,
        },
    }


def packet_in(answer: dict[str, Any]) -> dict[str, Any]:
    """The packet in the answer to a wrap."""
    assert list(answer) == ["keywrapresults"]
    found = json.loads(base64.b64decode(answer["keywrapresults"]["annotation"], validate=True))
    assert isinstance(found, dict)
    return found


def optsdata_in(answer: dict[str, Any]) -> bytes:
    """The bytes in the answer to an unwrap."""
    assert list(answer) == ["keyunwrapresults"]
    return base64.b64decode(answer["keyunwrapresults"]["optsdata"], validate=True)


def opened(packet: dict[str, Any], key: bytes) -> bytes:
    """What a guest finds in a packet of either form (AES-256-GCM)."""
    iv, data = (
        bytes(field) if isinstance(field, list) else base64.b64decode(field, validate=True)
        for field in (packet["iv"], packet["wrapped_data"])
    )
    return AESGCM(key).decrypt(iv, data, None)


class KeyProviderClient:
    """The two methods over one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._methods: dict[str, Any] = {
            name: channel.unary_unary(f"/keyprovider.KeyProviderService/{name}", None, None)
            for name in ("WrapKey", "UnWrapKey")
        }

    @classmethod
    @asynccontextmanager
    async def open(
        cls, target: str, credentials: grpc.ChannelCredentials | None = None
    ) -> AsyncIterator[KeyProviderClient]:
        """A channel of its own: ocicrypt too dials anew for every call."""
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", -1),
        ]
        channel = (
            grpc.aio.insecure_channel(target, options=options)
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, options=options)
        )
        async with channel:
            yield cls(channel)

    async def raw(self, method: str, message: bytes) -> bytes:
        """One call with the message's bytes as they are."""
        answer = await self._methods[method](message, timeout=120)
        assert isinstance(answer, bytes)
        return answer

    async def call(self, method: str, asked: dict[str, Any] | bytes) -> dict[str, Any]:
        """The JSON answer to JSON, in field 1 of both messages."""
        data = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
        answer = await self.raw(method, bytes([_FIELD_1_BYTES]) + _varint(len(data)) + data)
        length, at = _read_varint(answer, 1)
        assert answer[0] == _FIELD_1_BYTES
        assert len(answer) == at + length
        found = json.loads(answer[at:])
        assert isinstance(found, dict)
        return found

    async def wrap(self, parameter: object, optsdata: object = None) -> dict[str, Any]:
        """The annotation packet."""
        return packet_in(await self.call("WrapKey", wrap_input(parameter, optsdata)))

    async def unwrap(self, packet: object) -> bytes:
        return optsdata_in(await self.call("UnWrapKey", unwrap_input(packet)))

    async def refusal(self, method: str, asked: dict[str, Any] | bytes) -> tuple[str, str]:
        """Status and text of a call that must fail."""
        try:
            answer = await self.call(method, asked)
        except grpc.aio.AioRpcError as error:
            return error.code().name, error.details() or ""
        raise AssertionError(f"{method} answered OK: {answer}")


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at
