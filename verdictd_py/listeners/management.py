"""Services of the package `clientapi`, which upstream's `verdict` tool uses.

A successful answer has the status "OK"; a failure is a gRPC status with the reason.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Final

import grpc

from verdictd_py._generated import clientapi_pb2 as messages
from verdictd_py._generated import clientapi_pb2_grpc as services
from verdictd_py.broker.administration import IMAGE_POLICY, SIGSTORE, Administration
from verdictd_py.domain.callers import Caller, Right
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import RequestError
from verdictd_py.listeners.callers import CallerRules
from verdictd_py.listeners.calls import GrpcService, answered
from verdictd_py.ports import Events

OK: Final = b"OK"


class Service(GrpcService):
    """Base class of the services that administer the broker."""

    def __init__(self, admin: Administration, rules: CallerRules, events: Events) -> None:
        super().__init__(rules, events)
        self._admin = admin


def register(
    server: grpc.aio.Server, admin: Administration, rules: CallerRules, events: Events
) -> None:
    """Add all services of the package `clientapi` to `server`."""
    key_manager = KeyManagerService(admin, rules, events)
    services.add_KeyManagerServiceServicer_to_server(key_manager, server)
    services.add_OpaServiceServicer_to_server(OpaService(admin, rules, events), server)
    services.add_GpgServiceServicer_to_server(GpgService(admin, rules, events), server)
    services.add_ImageServiceServicer_to_server(ImageService(admin, rules, events), server)
    services.add_ResourceServiceServicer_to_server(ResourceService(admin, rules, events), server)


class KeyManagerService(Service, services.KeyManagerServiceServicer):
    """Service for keys."""

    @answered()
    async def CreateKey(
        self, request: messages.CreateKeyRequest, caller: Caller
    ) -> messages.CreateKeyResponse:
        key_id = await self._admin.keys.create(caller, request.keyid)
        return messages.CreateKeyResponse(status=OK, uuid=str(key_id).encode())

    @answered(right=Right.READ_KEYS)
    async def GetKey(
        self, request: messages.GetKeyRequest, caller: Caller
    ) -> messages.GetKeyResponse:
        key = await self._admin.keys.get(caller, _text(request.uuid))
        return messages.GetKeyResponse(status=OK, key=base64.b64encode(key.reveal()))

    @answered()
    async def DeleteKey(
        self, request: messages.DeleteKeyRequest, caller: Caller
    ) -> messages.DeleteKeyResponse:
        await self._admin.keys.delete(caller, _text(request.uuid))
        return messages.DeleteKeyResponse(status=OK)


class OpaService(Service, services.OpaServiceServicer):
    """Service for policies and reference data."""

    @answered()
    async def SetOpaPolicy(
        self, request: messages.SetOpaPolicyRequest, caller: Caller
    ) -> messages.SetOpaPolicyResponse:
        await self._admin.documents.set_policy(caller, _text(request.name), request.content)
        return messages.SetOpaPolicyResponse(status=OK)

    @answered()
    async def exportOpaPolicy(
        self, request: messages.ExportOpaPolicyRequest, caller: Caller
    ) -> messages.ExportOpaPolicyResponse:
        text = await self._admin.documents.get(caller, _text(request.name))
        return messages.ExportOpaPolicyResponse(status=OK, content=text.encode())

    @answered()
    async def setOpaReference(
        self, request: messages.SetOpaReferenceRequest, caller: Caller
    ) -> messages.SetOpaReferenceResponse:
        await self._admin.documents.set_reference(caller, _text(request.name), request.content)
        return messages.SetOpaReferenceResponse(status=OK)

    @answered()
    async def exportOpaReference(
        self, request: messages.ExportOpaReferenceRequest, caller: Caller
    ) -> messages.ExportOpaReferenceResponse:
        text = await self._admin.documents.get(caller, _text(request.name))
        return messages.ExportOpaReferenceResponse(status=OK, content=text.encode())

    @answered()
    async def TestOpa(
        self, request: messages.TestOpaRequest, caller: Caller
    ) -> messages.TestOpaResponse:
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


class GpgService(Service, services.GpgServiceServicer):
    """Service for the OpenPGP keyring that guests verify image signatures with."""

    @answered()
    async def listGpgKeys(
        self, request: messages.ListGpgKeysRequest, caller: Caller
    ) -> messages.ListGpgKeysResponse:
        del request
        text = await self._admin.resources.describe_keyring(caller)
        return messages.ListGpgKeysResponse(keys=text.encode())

    @answered()
    async def importGpgKey(
        self, request: messages.ImportGpgKeyRequest, caller: Caller
    ) -> messages.ImportGpgKeyResponse:
        await self._admin.resources.import_certificates(caller, request.key)
        return messages.ImportGpgKeyResponse(status=OK)

    @answered()
    async def deleteGpgKey(
        self, request: messages.DeleteGpgKeyRequest, caller: Caller
    ) -> messages.DeleteGpgKeyResponse:
        await self._admin.resources.delete_certificate(caller, _text(request.keyid))
        return messages.DeleteGpgKeyResponse(status=OK)

    @answered()
    async def exportGpgKeyring(
        self, request: messages.ExportGpgKeyringRequest, caller: Caller
    ) -> messages.ExportGpgKeyringResponse:
        del request
        keyring = await self._admin.resources.keyring(caller)
        content = base64.b64encode(keyring)
        return messages.ExportGpgKeyringResponse(status=OK, content=content)


class ImageService(Service, services.ImageServiceServicer):
    """Service for the image policy and the lookaside configuration."""

    @answered()
    async def exportImageSigstore(
        self, request: messages.ExportImageSigstoreRequest, caller: Caller
    ) -> messages.ExportImageSigstoreResponse:
        del request
        content = await self._admin.resources.get(caller, SIGSTORE)
        return messages.ExportImageSigstoreResponse(status=OK, content=content.reveal())

    @answered()
    async def setImageSigstore(
        self, request: messages.SetImageSigstoreRequest, caller: Caller
    ) -> messages.SetImageSigstoreResponse:
        await self._admin.resources.set(caller, SIGSTORE, SecretBytes(request.content))
        return messages.SetImageSigstoreResponse(status=OK)

    @answered()
    async def exportImagePolicy(
        self, request: messages.ExportImagePolicyRequest, caller: Caller
    ) -> messages.ExportImagePolicyResponse:
        del request
        content = await self._admin.resources.get(caller, IMAGE_POLICY)
        return messages.ExportImagePolicyResponse(status=OK, content=content.reveal())

    @answered()
    async def setImagePolicy(
        self, request: messages.SetImagePolicyRequest, caller: Caller
    ) -> messages.SetImagePolicyResponse:
        await self._admin.resources.set(caller, IMAGE_POLICY, SecretBytes(request.content))
        return messages.SetImagePolicyResponse(status=OK)


class ResourceService(Service, services.ResourceServiceServicer):
    """Service for resources, as in upstream's branch CC."""

    @answered()
    async def SetResource(
        self, request: messages.SetResourceRequest, caller: Caller
    ) -> messages.SetResourceResponse:
        content = SecretBytes(request.content)
        await self._admin.resources.set(caller, request.resource_id, content)
        return messages.SetResourceResponse()

    @answered()
    async def GetResource(
        self, request: messages.GetResourceRequest, caller: Caller
    ) -> messages.GetResourceResponse:
        content = await self._admin.resources.get(caller, request.resource_id)
        return messages.GetResourceResponse(content=content.reveal())


def as_upstream(allow: bool, parse_info: Mapping[str, JsonValue]) -> str:
    """Return the result of a policy test as upstream's serde_json writes it.

    The JSON is UTF-8 without spaces, with sorted names.
    """
    result = {"allow": allow, "parseInfo": dict(parse_info)}
    return json.dumps(result, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise RequestError("a name in the request is not UTF-8 text") from None
