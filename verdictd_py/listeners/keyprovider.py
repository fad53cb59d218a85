"""ocicrypt's `KeyProviderService` over gRPC, which skopeo, buildah and podman call."""

from __future__ import annotations

from functools import partial

import grpc

from verdictd_py._generated import keyprovider_pb2 as messages
from verdictd_py._generated import keyprovider_pb2_grpc as services
from verdictd_py.broker.wrapping import Wrapper
from verdictd_py.domain.callers import Caller, Right
from verdictd_py.listeners.callers import CallerRules
from verdictd_py.listeners.calls import GrpcService, answered
from verdictd_py.offload import offload
from verdictd_py.ports import Events
from verdictd_py.protocols.keyprovider import protocol
from verdictd_py.protocols.keyprovider.packet import AnnotationPacket


class KeyProviderService(GrpcService, services.KeyProviderServiceServicer):
    """gRPC service that wraps and unwraps layer keys; a failure is a status, never an OK answer.

    Args:
        provider: name of the provider in requests; None for the only one in a request.
    """

    def __init__(
        self, wrapper: Wrapper, rules: CallerRules, events: Events, *, provider: str | None
    ) -> None:
        super().__init__(rules, events)
        self._wrapper = wrapper
        self._provider = provider

    def register(self, server: grpc.aio.Server) -> None:
        services.add_KeyProviderServiceServicer_to_server(self, server)

    @answered(right=Right.WRAP, shielded=False)  # new keys have a shield of their own
    async def WrapKey(
        self, request: messages.keyProviderKeyWrapProtocolInput, caller: Caller
    ) -> messages.keyProviderKeyWrapProtocolOutput:
        """Wrap a layer key: JSON of an operation `keywrap` in, JSON of the packet out."""
        caller.require(Right.WRAP)
        data = request.KeyProviderKeyWrapProtocolInput
        decode = partial(protocol.decode_wrap, data, provider=self._provider)
        operation = await offload(len(data), decode)
        packet = await self._wrapper.wrap(caller, operation.parameter, operation.optsdata)
        answer = await offload(len(data), partial(protocol.encode_wrapped, packet))
        return messages.keyProviderKeyWrapProtocolOutput(KeyProviderKeyWrapProtocolOutput=answer)

    @answered(right=Right.UNWRAP, shielded=False)
    async def UnWrapKey(
        self, request: messages.keyProviderKeyWrapProtocolInput, caller: Caller
    ) -> messages.keyProviderKeyWrapProtocolOutput:
        """Unwrap a layer key: JSON of an operation `keyunwrap` in, JSON of its options out."""
        caller.require(Right.UNWRAP)
        data = request.KeyProviderKeyWrapProtocolInput
        packet = await offload(len(data), partial(_decode_packet, data))
        optsdata = await self._wrapper.unwrap(caller, packet)
        answer = await offload(len(data), partial(protocol.encode_unwrapped, optsdata))
        return messages.keyProviderKeyWrapProtocolOutput(KeyProviderKeyWrapProtocolOutput=answer)


def _decode_packet(data: bytes) -> AnnotationPacket:
    return AnnotationPacket.decode(protocol.decode_unwrap(data).annotation)
