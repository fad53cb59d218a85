"""ocicrypt's `KeyProviderService` over gRPC: skopeo, buildah and podman call it."""

from __future__ import annotations

from typing import Any

import grpc

from verdictd_py._generated import keyprovider_pb2 as messages
from verdictd_py._generated import keyprovider_pb2_grpc as services
from verdictd_py.broker.wrapping import Wrapper
from verdictd_py.listeners.callers import CallerRules
from verdictd_py.listeners.errors import answering
from verdictd_py.ports import Events
from verdictd_py.protocols.keyprovider import protocol
from verdictd_py.protocols.keyprovider.packet import AnnotationPacket

Context = grpc.aio.ServicerContext[Any, Any]


class KeyProviderService(services.KeyProviderServiceServicer):
    """Wraps and unwraps layer keys; a failure is a gRPC status, never an OK answer.

    Args:
        provider: the provider name to answer for, None for the only one in a request.
    """

    def __init__(
        self, wrapper: Wrapper, rules: CallerRules, events: Events, *, provider: str | None
    ) -> None:
        self._wrapper = wrapper
        self._rules = rules
        self._events = events
        self._provider = provider

    def register(self, server: grpc.aio.Server) -> None:
        services.add_KeyProviderServiceServicer_to_server(self, server)

    async def WrapKey(
        self, request: messages.keyProviderKeyWrapProtocolInput, context: Context
    ) -> messages.keyProviderKeyWrapProtocolOutput:
        """JSON of an operation `keywrap` -> JSON with the annotation packet."""
        async with answering(context, self._rules, self._events, doing="WrapKey") as caller:
            asked = protocol.decode_wrap(
                request.KeyProviderKeyWrapProtocolInput, provider=self._provider
            )
            packet = await self._wrapper.wrap(caller, asked.parameter, asked.optsdata)
            return messages.keyProviderKeyWrapProtocolOutput(
                KeyProviderKeyWrapProtocolOutput=protocol.encode_wrapped(packet)
            )
        raise AssertionError("answering() ends the call where it swallows an error")

    async def UnWrapKey(
        self, request: messages.keyProviderKeyWrapProtocolInput, context: Context
    ) -> messages.keyProviderKeyWrapProtocolOutput:
        """JSON of an operation `keyunwrap` -> JSON with the layer key's options."""
        async with answering(context, self._rules, self._events, doing="UnWrapKey") as caller:
            asked = protocol.decode_unwrap(request.KeyProviderKeyWrapProtocolInput)
            packet = AnnotationPacket.decode(asked.annotation)
            optsdata = await self._wrapper.unwrap(caller, packet)
            return messages.keyProviderKeyWrapProtocolOutput(
                KeyProviderKeyWrapProtocolOutput=protocol.encode_unwrapped(optsdata)
            )
        raise AssertionError("answering() ends the call where it swallows an error")
