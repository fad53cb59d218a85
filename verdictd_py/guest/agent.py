"""Stands in for attestation-agent: ocicrypt's key provider on the guest's side.

Image tools of the guest ask it to unwrap a layer key. It has the broker do so over an attested
channel, or does so itself with the key that a KBS releases. Sources: wire-keyprovider.md,
"gRPC"; wire-eaa.md, `Decrypt`; wire-rcar.md, "Resources".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol

import grpc

from verdictd_py._generated import keyprovider_pb2 as messages
from verdictd_py._generated import keyprovider_pb2_grpc as services
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import ConfigError, DecryptionFailed, RequestError
from verdictd_py.guest.connection import BrokerRefused, BrokerUnreachable
from verdictd_py.guest.rcar.errors import KbsRefused
from verdictd_py.protocols.keyprovider import protocol
from verdictd_py.protocols.keyprovider.packet import AnnotationPacket, PacketForm

MAX_TOLD_CHARACTERS: Final = 512
"""Of the broker's words: a gRPC status travels in headers, which gRPC bounds at 8 KiB."""

_NOT_JUDGED: Final = "not judged:"
_NO_WRAPPING: Final = (
    "a guest's agent only unwraps; to encrypt an image, ask the broker: "
    "give the address of its --client-api"
)

Context = grpc.aio.ServicerContext[Any, Any]


class Unwraps(Protocol):
    """What opens layer keys: a connection to a broker, or this guest with a KBS's keys."""

    async def decrypt(
        self, *, kid: str, encrypted_data: bytes, algorithm: str, iv: bytes
    ) -> SecretBytes:
        """The plaintext of one wrapped blob.

        Raises:
            BrokerRefused: the broker does not help, or cannot be reached.
            RequestError, DecryptionFailed: this blob cannot be opened.
            ConfigError: this guest has no evidence to show.
        """
        ...


Connect = Callable[[], AbstractAsyncContextManager[Unwraps]]
Failure = RequestError | DecryptionFailed | BrokerRefused | ConfigError


class KeyProviderAgent(services.KeyProviderServiceServicer):
    """Unwraps layer keys through the broker; a failure is a gRPC status, never an OK answer.

    Args:
        connect: opens a new connection of this guest; one is made for every call, as
            attestation-agent does, so that each layer is released on fresh evidence.
        timeout_seconds: for one call as a whole.
    """

    def __init__(self, connect: Connect, *, timeout_seconds: float) -> None:
        self._connect = connect
        self._timeout_seconds = timeout_seconds

    def register(self, server: grpc.aio.Server) -> None:
        services.add_KeyProviderServiceServicer_to_server(self, server)

    async def WrapKey(
        self, request: messages.keyProviderKeyWrapProtocolInput, context: Context
    ) -> messages.keyProviderKeyWrapProtocolOutput:
        """UNIMPLEMENTED: a guest holds no key to wrap with."""
        del request
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, _NO_WRAPPING)
        raise AssertionError("abort() raises")

    async def UnWrapKey(
        self, request: messages.keyProviderKeyWrapProtocolInput, context: Context
    ) -> messages.keyProviderKeyWrapProtocolOutput:
        """JSON of an operation `keyunwrap` -> JSON with the layer key's options."""
        try:
            asked = protocol.decode_unwrap(request.KeyProviderKeyWrapProtocolInput)
            optsdata = await self._released(AnnotationPacket.decode(asked.annotation))
        except (RequestError, DecryptionFailed, BrokerRefused, ConfigError) as error:
            status, text = grpc_answer(error)
        except Exception as error:  # noqa: BLE001  # the edge: grpc would show and log its text
            status = grpc.StatusCode.INTERNAL
            text = f"internal error of the guest's agent ({type(error).__name__})"
        else:
            return messages.keyProviderKeyWrapProtocolOutput(
                KeyProviderKeyWrapProtocolOutput=protocol.encode_unwrapped(optsdata)
            )
        await context.abort(status, text)
        raise AssertionError("abort() raises")

    async def _released(self, packet: AnnotationPacket) -> SecretBytes:
        """What is opened for this guest.

        Raises:
            Failure: as in `Unwraps.decrypt`.
        """
        blob = packet.blob
        legacy = packet.form is PacketForm.LEGACY
        try:
            async with (
                asyncio.timeout(self._timeout_seconds),
                self._connect() as connection,
            ):
                return await connection.decrypt(
                    kid=str(blob.key_id),
                    encrypted_data=blob.ciphertext,
                    # Brokers of the first generation know no other name.
                    algorithm=blob.algorithm.legacy_name if legacy else blob.algorithm.value,
                    iv=blob.iv,
                )
        except TimeoutError as error:
            raise BrokerUnreachable("the broker is too slow") from error


def grpc_answer(error: Failure) -> tuple[grpc.StatusCode, str]:
    """Status and text of a failed call."""
    text = " ".join(str(error).split())
    if isinstance(error, RequestError):
        status = grpc.StatusCode.INVALID_ARGUMENT
    elif isinstance(error, KbsRefused):
        status = _kbs_status(error)
    elif isinstance(error, BrokerRefused):
        status = _broker_status(error, text)
    else:
        status = grpc.StatusCode.FAILED_PRECONDITION
    return status, text[:MAX_TOLD_CHARACTERS]


def _broker_status(error: BrokerRefused, text: str) -> grpc.StatusCode:
    """Of a broker's words.

    It says "refused: ..." to a guest that it judged and turned away, and "not judged: ..."
    where it could not judge; anything else is about this key or packet.
    """
    if isinstance(error, BrokerUnreachable) or text.startswith(_NOT_JUDGED):
        return grpc.StatusCode.UNAVAILABLE
    if text.startswith("refused:"):
        return grpc.StatusCode.PERMISSION_DENIED
    return grpc.StatusCode.FAILED_PRECONDITION


def _kbs_status(error: KbsRefused) -> grpc.StatusCode:
    """Of a KBS's status: every refusal of a guest is 401, and so is "could not judge"."""
    if error.status >= 500 or error.detail.startswith(_NOT_JUDGED):
        return grpc.StatusCode.UNAVAILABLE
    return {
        401: grpc.StatusCode.PERMISSION_DENIED,
        403: grpc.StatusCode.PERMISSION_DENIED,
        404: grpc.StatusCode.NOT_FOUND,
    }.get(error.status, grpc.StatusCode.FAILED_PRECONDITION)
