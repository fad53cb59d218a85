"""The services of package `clientapi`: upstream's `verdict` tool speaks to them.

Success has the status "OK" in the answer; a failure is a gRPC status with the reason.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import grpc

from verdictd_py._generated import clientapi_pb2 as messages
from verdictd_py._generated import clientapi_pb2_grpc as services
from verdictd_py.broker.administration import IMAGE_POLICY, SIGSTORE, Administration
from verdictd_py.domain.callers import Caller
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import RequestError
from verdictd_py.listeners.callers import CallerRules
from verdictd_py.listeners.errors import answering
from verdictd_py.ports import Events

Context = grpc.aio.ServicerContext[Any, Any]

OK: Final = b"OK"
UNREACHABLE: Final = "answering() ends the call where it swallows an error"


class Service:
    """What the services have in common."""

    def __init__(self, admin: Administration, rules: CallerRules, events: Events) -> None:
        self._admin = admin
        self._rules = rules
        self._events = events

    def _answering(self, context: Context, doing: str) -> AbstractAsyncContextManager[Caller]:
        return answering(context, self._rules, self._events, doing=doing)


def register(
    server: grpc.aio.Server, admin: Administration, rules: CallerRules, events: Events
) -> None:
    """Adds every service of the package `clientapi` to `server`."""
    key_manager = KeyManagerService(admin, rules, events)
    services.add_KeyManagerServiceServicer_to_server(key_manager, server)
    services.add_OpaServiceServicer_to_server(OpaService(admin, rules, events), server)
    services.add_GpgServiceServicer_to_server(GpgService(admin, rules, events), server)
    services.add_ImageServiceServicer_to_server(ImageService(admin, rules, events), server)
    services.add_ResourceServiceServicer_to_server(ResourceService(admin, rules, events), server)


class KeyManagerService(Service, services.KeyManagerServiceServicer):
    """Keys, by name."""

    async def CreateKey(
        self, request: messages.CreateKeyRequest, context: Context
    ) -> messages.CreateKeyResponse:
        async with self._answering(context, "CreateKey") as caller:
            key_id = await self._admin.keys.create(caller, request.keyid)
            return messages.CreateKeyResponse(status=OK, uuid=str(key_id).encode())
        raise AssertionError(UNREACHABLE)

    async def GetKey(
        self, request: messages.GetKeyRequest, context: Context
    ) -> messages.GetKeyResponse:
        async with self._answering(context, "GetKey") as caller:
            key = await self._admin.keys.get(caller, _text(request.uuid))
            return messages.GetKeyResponse(status=OK, key=base64.b64encode(key.reveal()))
        raise AssertionError(UNREACHABLE)

    async def DeleteKey(
        self, request: messages.DeleteKeyRequest, context: Context
    ) -> messages.DeleteKeyResponse:
        async with self._answering(context, "DeleteKey") as caller:
            await self._admin.keys.delete(caller, _text(request.uuid))
            return messages.DeleteKeyResponse(status=OK)
        raise AssertionError(UNREACHABLE)


class OpaService(Service, services.OpaServiceServicer):
    """Policies and reference data, by name."""

    async def SetOpaPolicy(
        self, request: messages.SetOpaPolicyRequest, context: Context
    ) -> messages.SetOpaPolicyResponse:
        async with self._answering(context, "SetOpaPolicy") as caller:
            await self._admin.documents.set_policy(caller, _text(request.name), request.content)
            return messages.SetOpaPolicyResponse(status=OK)
        raise AssertionError(UNREACHABLE)

    async def exportOpaPolicy(
        self, request: messages.ExportOpaPolicyRequest, context: Context
    ) -> messages.ExportOpaPolicyResponse:
        async with self._answering(context, "exportOpaPolicy") as caller:
            text = await self._admin.documents.get(caller, _text(request.name))
            return messages.ExportOpaPolicyResponse(status=OK, content=text.encode())
        raise AssertionError(UNREACHABLE)

    async def setOpaReference(
        self, request: messages.SetOpaReferenceRequest, context: Context
    ) -> messages.SetOpaReferenceResponse:
        async with self._answering(context, "setOpaReference") as caller:
            await self._admin.documents.set_reference(caller, _text(request.name), request.content)
            return messages.SetOpaReferenceResponse(status=OK)
        raise AssertionError(UNREACHABLE)

    async def exportOpaReference(
        self, request: messages.ExportOpaReferenceRequest, context: Context
    ) -> messages.ExportOpaReferenceResponse:
        async with self._answering(context, "exportOpaReference") as caller:
            text = await self._admin.documents.get(caller, _text(request.name))
            return messages.ExportOpaReferenceResponse(status=OK, content=text.encode())
        raise AssertionError(UNREACHABLE)

    async def TestOpa(
        self, request: messages.TestOpaRequest, context: Context
    ) -> messages.TestOpaResponse:
        async with self._answering(context, "TestOpa") as caller:
            tested = await self._admin.documents.test(
                caller,
                policy_name=_text(request.policyname),
                policy=request.policycontent if request.policylocal else None,
                reference_name=_text(request.referencename),
                reference=request.referencecontent if request.referencelocal else None,
                claims=request.input,
            )
            status = as_upstream(tested.allow, tested.parse_info).encode()
            return messages.TestOpaResponse(status=status)
        raise AssertionError(UNREACHABLE)


class GpgService(Service, services.GpgServiceServicer):
    """The keyring of simple signing."""

    async def listGpgKeys(
        self, request: messages.ListGpgKeysRequest, context: Context
    ) -> messages.ListGpgKeysResponse:
        del request
        async with self._answering(context, "listGpgKeys") as caller:
            text = await self._admin.resources.listed_keyring(caller)
            return messages.ListGpgKeysResponse(keys=text.encode())
        raise AssertionError(UNREACHABLE)

    async def importGpgKey(
        self, request: messages.ImportGpgKeyRequest, context: Context
    ) -> messages.ImportGpgKeyResponse:
        async with self._answering(context, "importGpgKey") as caller:
            await self._admin.resources.import_certificates(caller, request.key)
            return messages.ImportGpgKeyResponse(status=OK)
        raise AssertionError(UNREACHABLE)

    async def deleteGpgKey(
        self, request: messages.DeleteGpgKeyRequest, context: Context
    ) -> messages.DeleteGpgKeyResponse:
        async with self._answering(context, "deleteGpgKey") as caller:
            await self._admin.resources.delete_certificate(caller, _text(request.keyid))
            return messages.DeleteGpgKeyResponse(status=OK)
        raise AssertionError(UNREACHABLE)

    async def exportGpgKeyring(
        self, request: messages.ExportGpgKeyringRequest, context: Context
    ) -> messages.ExportGpgKeyringResponse:
        del request
        async with self._answering(context, "exportGpgKeyring") as caller:
            keyring = await self._admin.resources.keyring(caller)
            content = base64.b64encode(keyring)
            return messages.ExportGpgKeyringResponse(status=OK, content=content)
        raise AssertionError(UNREACHABLE)


class ImageService(Service, services.ImageServiceServicer):
    """The image policy and the lookaside configuration."""

    async def exportImageSigstore(
        self, request: messages.ExportImageSigstoreRequest, context: Context
    ) -> messages.ExportImageSigstoreResponse:
        del request
        async with self._answering(context, "exportImageSigstore") as caller:
            content = await self._admin.resources.get(caller, SIGSTORE)
            return messages.ExportImageSigstoreResponse(status=OK, content=content.reveal())
        raise AssertionError(UNREACHABLE)

    async def setImageSigstore(
        self, request: messages.SetImageSigstoreRequest, context: Context
    ) -> messages.SetImageSigstoreResponse:
        async with self._answering(context, "setImageSigstore") as caller:
            await self._admin.resources.set(caller, SIGSTORE, SecretBytes(request.content))
            return messages.SetImageSigstoreResponse(status=OK)
        raise AssertionError(UNREACHABLE)

    async def exportImagePolicy(
        self, request: messages.ExportImagePolicyRequest, context: Context
    ) -> messages.ExportImagePolicyResponse:
        del request
        async with self._answering(context, "exportImagePolicy") as caller:
            content = await self._admin.resources.get(caller, IMAGE_POLICY)
            return messages.ExportImagePolicyResponse(status=OK, content=content.reveal())
        raise AssertionError(UNREACHABLE)

    async def setImagePolicy(
        self, request: messages.SetImagePolicyRequest, context: Context
    ) -> messages.SetImagePolicyResponse:
        async with self._answering(context, "setImagePolicy") as caller:
            await self._admin.resources.set(caller, IMAGE_POLICY, SecretBytes(request.content))
            return messages.SetImagePolicyResponse(status=OK)
        raise AssertionError(UNREACHABLE)


class ResourceService(Service, services.ResourceServiceServicer):
    """Resources by path, as upstream's branch CC."""

    async def SetResource(
        self, request: messages.SetResourceRequest, context: Context
    ) -> messages.SetResourceResponse:
        async with self._answering(context, "SetResource") as caller:
            content = SecretBytes(request.content)
            await self._admin.resources.set(caller, request.resource_id, content)
            return messages.SetResourceResponse()
        raise AssertionError(UNREACHABLE)

    async def GetResource(
        self, request: messages.GetResourceRequest, context: Context
    ) -> messages.GetResourceResponse:
        async with self._answering(context, "GetResource") as caller:
            content = await self._admin.resources.get(caller, request.resource_id)
            return messages.GetResourceResponse(content=content.reveal())
        raise AssertionError(UNREACHABLE)


def as_upstream(allow: bool, parse_info: Mapping[str, JsonValue]) -> str:
    """A tested policy as upstream's serde_json writes it: no spaces, names in order, UTF-8."""
    found = {"allow": allow, "parseInfo": dict(parse_info)}
    return json.dumps(found, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise RequestError("a name is UTF-8 text") from None
