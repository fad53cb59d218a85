"""The `clientapi` services for keys and resources over gRPC, upstream's names and numbers.

Success has the status "OK" in the answer; a failure is a gRPC status with the reason.
"""

from __future__ import annotations

import base64
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import grpc

from verdictd_py._generated import clientapi_pb2 as messages
from verdictd_py._generated import clientapi_pb2_grpc as services
from verdictd_py.broker.administration import Administrator
from verdictd_py.domain.callers import Caller
from verdictd_py.domain.names import ResourcePath
from verdictd_py.domain.ports import Events
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import RequestError
from verdictd_py.listeners.callers import CallerRules
from verdictd_py.listeners.errors import answering

Context = grpc.aio.ServicerContext[Any, Any]

OK: Final = b"OK"
_UNREACHABLE: Final = "answering() ends the call where it swallows an error"


class _Service:
    """What the services have in common."""

    def __init__(self, admin: Administrator, rules: CallerRules, events: Events) -> None:
        self._admin = admin
        self._rules = rules
        self._events = events

    def _answering(self, context: Context, doing: str) -> AbstractAsyncContextManager[Caller]:
        return answering(context, self._rules, self._events, doing=doing)


def register(
    server: grpc.aio.Server, admin: Administrator, rules: CallerRules, events: Events
) -> None:
    """Adds the services to `server`."""
    key_manager = KeyManagerService(admin, rules, events)
    services.add_KeyManagerServiceServicer_to_server(key_manager, server)
    services.add_ResourceServiceServicer_to_server(ResourceService(admin, rules, events), server)


class KeyManagerService(_Service, services.KeyManagerServiceServicer):
    """Keys, by name."""

    async def CreateKey(
        self, request: messages.CreateKeyRequest, context: Context
    ) -> messages.CreateKeyResponse:
        async with self._answering(context, "CreateKey") as caller:
            key_id = await self._admin.create_key(caller, request.keyid)
            return messages.CreateKeyResponse(status=OK, uuid=str(key_id).encode())
        raise AssertionError(_UNREACHABLE)

    async def GetKey(
        self, request: messages.GetKeyRequest, context: Context
    ) -> messages.GetKeyResponse:
        async with self._answering(context, "GetKey") as caller:
            key = await self._admin.get_key(caller, _text(request.uuid))
            return messages.GetKeyResponse(status=OK, key=base64.b64encode(key.reveal()))
        raise AssertionError(_UNREACHABLE)

    async def DeleteKey(
        self, request: messages.DeleteKeyRequest, context: Context
    ) -> messages.DeleteKeyResponse:
        async with self._answering(context, "DeleteKey") as caller:
            await self._admin.delete_key(caller, _text(request.uuid))
            return messages.DeleteKeyResponse(status=OK)
        raise AssertionError(_UNREACHABLE)


class ResourceService(_Service, services.ResourceServiceServicer):
    """Resources by path, as upstream's branch CC."""

    async def SetResource(
        self, request: messages.SetResourceRequest, context: Context
    ) -> messages.SetResourceResponse:
        async with self._answering(context, "SetResource") as caller:
            path = ResourcePath.parse(request.resource_id)
            await self._admin.set_resource(caller, path, SecretBytes(request.content))
            return messages.SetResourceResponse()
        raise AssertionError(_UNREACHABLE)

    async def GetResource(
        self, request: messages.GetResourceRequest, context: Context
    ) -> messages.GetResourceResponse:
        async with self._answering(context, "GetResource") as caller:
            path = ResourcePath.parse(request.resource_id)
            content = await self._admin.get_resource(caller, path)
            return messages.GetResourceResponse(content=content.reveal())
        raise AssertionError(_UNREACHABLE)


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise RequestError("a name is UTF-8 text") from None
