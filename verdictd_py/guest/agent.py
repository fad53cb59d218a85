"""Stands in for attestation-agent: ocicrypt's key provider on the guest's side.

Image tools of the guest ask it to unwrap a layer key, and it has the broker do so over an
attested channel. Sources: wire-keyprovider.md, "gRPC"; wire-eaa.md, `Decrypt`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import grpc

from verdictd_py._generated import keyprovider_pb2 as messages
from verdictd_py._generated import keyprovider_pb2_grpc as services
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import ConfigError, RequestError
from verdictd_py.guest.connection import BrokerRefused, BrokerUnreachable, GuestConnection
from verdictd_py.keyprovider import protocol
from verdictd_py.keyprovider.packet import AnnotationPacket, PacketForm

MAX_TOLD_CHARACTERS: Final = 512
"""Of the broker's words: a gRPC status travels in headers, which gRPC bounds at 8 KiB."""

_NO_WRAPPING: Final = (
    "a guest's agent only unwraps; to encrypt an image, ask the broker: "
    "give the address of its --client-api"
)

Context = grpc.aio.ServicerContext[Any, Any]
Connect = Callable[[], AbstractAsyncContextManager[GuestConnection]]


class KeyProviderAgent(services.KeyProviderServiceServicer):
    """Unwraps layer keys through the broker; a failure is a gRPC status, never an OK answer.

    Args:
        connect: opens a new attested connection; one is made for every call, as
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
        except (RequestError, BrokerRefused, ConfigError) as error:
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
        """What the broker opens for this guest.

        Raises:
            BrokerRefused: it does not, or cannot be reached.
            ConfigError: this guest has no evidence to show; nobody was asked.
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


def grpc_answer(error: RequestError | BrokerRefused | ConfigError) -> tuple[grpc.StatusCode, str]:
    """Status and text of a failed call.

    A broker says "refused: ..." to a guest that it judged and turned away, and "not
    judged: ..." where it could not judge; anything else is about this key or packet, or about
    a guest that cannot make evidence.
    """
    text = " ".join(str(error).split())
    if isinstance(error, RequestError):
        status = grpc.StatusCode.INVALID_ARGUMENT
    elif isinstance(error, BrokerUnreachable) or text.startswith("not judged:"):
        status = grpc.StatusCode.UNAVAILABLE
    elif text.startswith("refused:"):
        status = grpc.StatusCode.PERMISSION_DENIED
    else:
        status = grpc.StatusCode.FAILED_PRECONDITION
    return status, text[:MAX_TOLD_CHARACTERS]
