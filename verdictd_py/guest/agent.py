"""ocicrypt's key provider on the guest's side, a replacement of attestation-agent.

The guest's image tools request it to unwrap layer keys. The broker unwraps them over an
attested channel, or this process with the key that a KBS releases. Sources: wire-keyprovider.md,
"gRPC"; wire-eaa.md, `Decrypt`; wire-rcar.md, "Resources".
"""

from __future__ import annotations

import asyncio
import logging
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

_LOG: Final = logging.getLogger(__name__)
"""Calls of image tools, for `--log-level`; never a packet or a key."""

MAX_STATUS_CHARACTERS: Final = 512
"""Largest text of a gRPC status: it is sent in headers, which gRPC limits to 8 KiB."""

_NOT_JUDGED: Final = "not judged:"  # on the wire: the guest was not appraised
_NO_WRAPPING: Final = (
    "a guest's agent only unwraps keys; to encrypt an image, use the broker: "
    "configure the address of its --client-api"
)

Context = grpc.aio.ServicerContext[Any, Any]


class Unwrapper(Protocol):
    """Unwrapper of layer keys: a connection to a broker, or this guest with a KBS's keys."""

    async def decrypt(
        self, *, kid: str, encrypted_data: bytes, algorithm: str, iv: bytes
    ) -> SecretBytes:
        """Return the plaintext of one wrapped blob.

        Raises:
            BrokerRefused: the broker refuses, or is unreachable.
            RequestError, DecryptionFailed: this blob cannot be decrypted.
            ConfigError: this guest has no evidence to present.
        """
        ...


Connect = Callable[[], AbstractAsyncContextManager[Unwrapper]]
Failure = RequestError | DecryptionFailed | BrokerRefused | ConfigError


class KeyProviderAgent(services.KeyProviderServiceServicer):
    """gRPC service that unwraps layer keys; a failure is a gRPC status, never an OK answer.

    Args:
        connect: opens a new connection of this guest; every call opens one, as
            attestation-agent does, so that each layer is released on fresh evidence.
        timeout_seconds: time limit of a whole call.
    """

    def __init__(self, connect: Connect, *, timeout_seconds: float) -> None:
        self._connect = connect
        self._timeout_seconds = timeout_seconds

    def register(self, server: grpc.aio.Server) -> None:
        services.add_KeyProviderServiceServicer_to_server(self, server)

    async def WrapKey(
        self, request: messages.keyProviderKeyWrapProtocolInput, context: Context
    ) -> messages.keyProviderKeyWrapProtocolOutput:
        """Abort with UNIMPLEMENTED: a guest has no key to wrap with."""
        del request
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, _NO_WRAPPING)
        raise AssertionError("abort() raises")

    async def UnWrapKey(
        self, request: messages.keyProviderKeyWrapProtocolInput, context: Context
    ) -> messages.keyProviderKeyWrapProtocolOutput:
        """Unwrap a layer key: JSON of the operation `keyunwrap` in, JSON with optsdata out."""
        try:
            operation = protocol.decode_unwrap(request.KeyProviderKeyWrapProtocolInput)
            optsdata = await self._unwrap(AnnotationPacket.decode(operation.annotation))
        except (RequestError, DecryptionFailed, BrokerRefused, ConfigError) as error:
            status, text = grpc_answer(error)
            _LOG.warning("a key was not unwrapped: %s", text)
        except Exception as error:  # noqa: BLE001  # grpc would send and log its text
            status = grpc.StatusCode.INTERNAL
            text = f"internal error of the guest's agent ({type(error).__name__})"
        else:
            _LOG.info("a key was unwrapped: %d bytes", len(optsdata))
            return messages.keyProviderKeyWrapProtocolOutput(
                KeyProviderKeyWrapProtocolOutput=protocol.encode_unwrapped(optsdata)
            )
        await context.abort(status, text)
        raise AssertionError("abort() raises")

    async def _unwrap(self, packet: AnnotationPacket) -> SecretBytes:
        """Return the plaintext of the packet's blob.

        Raises:
            Failure: as in `Unwrapper.decrypt`.
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
            raise BrokerUnreachable("the broker did not answer in time") from error


def grpc_answer(error: Failure) -> tuple[grpc.StatusCode, str]:
    """Return the status and the text of a failed call."""
    text = " ".join(str(error).split())
    if isinstance(error, RequestError):
        status = grpc.StatusCode.INVALID_ARGUMENT
    elif isinstance(error, KbsRefused):
        status = _kbs_status(error)
    elif isinstance(error, BrokerRefused):
        status = _broker_status(error, text)
    else:
        status = grpc.StatusCode.FAILED_PRECONDITION
    return status, text[:MAX_STATUS_CHARACTERS]


def _broker_status(error: BrokerRefused, text: str) -> grpc.StatusCode:
    """Return the status for a broker's failure.

    The text starts with "refused:" if the guest was appraised and refused, and with
    "not judged:" if it was not appraised; any other text is about this key or packet.
    """
    if isinstance(error, BrokerUnreachable) or text.startswith(_NOT_JUDGED):
        return grpc.StatusCode.UNAVAILABLE
    if text.startswith("refused:"):
        return grpc.StatusCode.PERMISSION_DENIED
    return grpc.StatusCode.FAILED_PRECONDITION


def _kbs_status(error: KbsRefused) -> grpc.StatusCode:
    """Return the status for a KBS's failure; 401 means refused or not appraised."""
    if error.status >= 500 or error.detail.startswith(_NOT_JUDGED):
        return grpc.StatusCode.UNAVAILABLE
    return {
        401: grpc.StatusCode.PERMISSION_DENIED,
        403: grpc.StatusCode.PERMISSION_DENIED,
        404: grpc.StatusCode.NOT_FOUND,
    }.get(error.status, grpc.StatusCode.FAILED_PRECONDITION)
