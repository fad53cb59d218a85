"""The services of package `verdictd.v1`: what upstream's lack, with gRPC's own failures."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import grpc

from verdictd_py._generated import verdictd_v1_pb2 as messages
from verdictd_py._generated import verdictd_v1_pb2_grpc as services
from verdictd_py.broker.administration import (
    COSIGN_KEY,
    CREDENTIAL,
    IMAGE_POLICY,
    MAX_PAGE,
    Administration,
)
from verdictd_py.broker.history import History, Verdict
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.listeners import v1_messages
from verdictd_py.listeners.callers import CallerRules
from verdictd_py.listeners.management import UNREACHABLE, Service
from verdictd_py.ports import Events

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """What the daemon says about itself; nothing in it is secret."""

    version: str
    started_at: datetime
    listen: str
    client_api: str
    keyprovider_api: str
    kbs_http: str
    data_dir: str
    verifiers: tuple[str, ...]
    attester: str
    unsafe: tuple[str, ...]
    warnings: tuple[str, ...]
    unpinned: tuple[str, ...]


def register(
    server: grpc.aio.Server,
    admin: Administration,
    history: History,
    status: Callable[[], Awaitable[DaemonStatus]],
    rules: CallerRules,
    events: Events,
) -> None:
    """Adds every service of the package `verdictd.v1` to `server`."""
    services.add_KeyServiceServicer_to_server(KeyService(admin, rules, events), server)
    services.add_ResourceServiceServicer_to_server(ResourceService(admin, rules, events), server)
    services.add_ImageServiceServicer_to_server(ImageService(admin, rules, events), server)
    services.add_ReferenceServiceServicer_to_server(ReferenceService(admin, rules, events), server)
    appraisals = AppraisalService(admin, rules, events, history)
    services.add_AppraisalServiceServicer_to_server(appraisals, server)
    about = StatusService(admin, rules, events, history, status)
    services.add_StatusServiceServicer_to_server(about, server)


class KeyService(Service, services.KeyServiceServicer):
    """Keys, never their bytes."""

    async def ListKeys(
        self, request: messages.ListKeysRequest, context: Context
    ) -> messages.ListKeysResponse:
        async with self._answering(context, "ListKeys") as caller:
            page = await self._admin.keys.page(caller, request.page_token, request.page_size)
            keys = [v1_messages.key(stored) for stored in page]
            more = v1_messages.next_page(page, request.page_size)
            return messages.ListKeysResponse(keys=keys, next_page_token=more)
        raise AssertionError(UNREACHABLE)

    async def DescribeKey(
        self, request: messages.DescribeKeyRequest, context: Context
    ) -> messages.Key:
        async with self._answering(context, "DescribeKey") as caller:
            return v1_messages.key(await self._admin.keys.describe(caller, request.name))
        raise AssertionError(UNREACHABLE)

    async def CreateKey(self, request: messages.CreateKeyRequest, context: Context) -> messages.Key:
        async with self._answering(context, "verdictd.v1 CreateKey") as caller:
            key_id = await self._admin.keys.create(caller, request.name)
            return v1_messages.key(await self._admin.keys.describe(caller, str(key_id)))
        raise AssertionError(UNREACHABLE)

    async def DeleteKey(
        self, request: messages.DeleteKeyRequest, context: Context
    ) -> messages.DeleteKeyResponse:
        async with self._answering(context, "verdictd.v1 DeleteKey") as caller:
            await self._admin.keys.delete(caller, request.name)
            return messages.DeleteKeyResponse()
        raise AssertionError(UNREACHABLE)


class ResourceService(Service, services.ResourceServiceServicer):
    """Resources, without their contents."""

    async def ListResources(
        self, request: messages.ListResourcesRequest, context: Context
    ) -> messages.ListResourcesResponse:
        async with self._answering(context, "ListResources") as caller:
            page = await self._admin.resources.page(caller, request.page_token, request.page_size)
            more = v1_messages.next_page(page, request.page_size)
            found = [v1_messages.resource(stored) for stored in page]
            return messages.ListResourcesResponse(resources=found, next_page_token=more)
        raise AssertionError(UNREACHABLE)

    async def DeleteResource(
        self, request: messages.DeleteResourceRequest, context: Context
    ) -> messages.DeleteResourceResponse:
        async with self._answering(context, "DeleteResource") as caller:
            await self._admin.resources.delete(caller, request.path)
            return messages.DeleteResourceResponse()
        raise AssertionError(UNREACHABLE)


class ImageService(Service, services.ImageServiceServicer):
    """What guests need to check and fetch images."""

    async def SetImagePolicy(
        self, request: messages.SetImagePolicyRequest, context: Context
    ) -> messages.SetImagePolicyResponse:
        async with self._answering(context, "SetImagePolicy") as caller:
            content = SecretBytes(request.content)
            problems = await self._admin.resources.set(
                caller, IMAGE_POLICY, content, force=request.force
            )
            return messages.SetImagePolicyResponse(problems=problems)
        raise AssertionError(UNREACHABLE)

    async def GetCosignKey(
        self, request: messages.GetCosignKeyRequest, context: Context
    ) -> messages.GetCosignKeyResponse:
        del request
        async with self._answering(context, "GetCosignKey") as caller:
            content = await self._admin.resources.get(caller, COSIGN_KEY)
            return messages.GetCosignKeyResponse(content=content.reveal())
        raise AssertionError(UNREACHABLE)

    async def SetCosignKey(
        self, request: messages.SetCosignKeyRequest, context: Context
    ) -> messages.SetCosignKeyResponse:
        async with self._answering(context, "SetCosignKey") as caller:
            await self._admin.resources.set(caller, COSIGN_KEY, SecretBytes(request.content))
            return messages.SetCosignKeyResponse()
        raise AssertionError(UNREACHABLE)

    async def GetCredential(
        self, request: messages.GetCredentialRequest, context: Context
    ) -> messages.GetCredentialResponse:
        del request
        async with self._answering(context, "GetCredential") as caller:
            content = await self._admin.resources.get(caller, CREDENTIAL)
            return messages.GetCredentialResponse(content=content.reveal())
        raise AssertionError(UNREACHABLE)

    async def SetCredential(
        self, request: messages.SetCredentialRequest, context: Context
    ) -> messages.SetCredentialResponse:
        async with self._answering(context, "SetCredential") as caller:
            await self._admin.resources.set(caller, CREDENTIAL, SecretBytes(request.content))
            return messages.SetCredentialResponse()
        raise AssertionError(UNREACHABLE)


class ReferenceService(Service, services.ReferenceServiceServicer):
    """What guests are measured against."""

    async def GetReference(
        self, request: messages.GetReferenceRequest, context: Context
    ) -> messages.Reference:
        async with self._answering(context, "GetReference") as caller:
            name, text, open_ones = await self._admin.documents.reference_of(caller, request.tee)
            return messages.Reference(name=str(name), content=text, unpinned=open_ones)
        raise AssertionError(UNREACHABLE)

    async def PreviewPin(
        self, request: messages.PreviewPinRequest, context: Context
    ) -> messages.PinnedValues:
        async with self._answering(context, "PreviewPin") as caller:
            return v1_messages.pinned(
                await self._admin.documents.preview_pin(caller, request.id, request.fields)
            )
        raise AssertionError(UNREACHABLE)

    async def PinValues(
        self, request: messages.PinValuesRequest, context: Context
    ) -> messages.PinnedValues:
        async with self._answering(context, "PinValues") as caller:
            pinned = await self._admin.documents.pin(
                caller, request.id, request.fields, request.revision
            )
            return v1_messages.pinned(pinned)
        raise AssertionError(UNREACHABLE)

    async def ListSets(
        self, request: messages.ListSetsRequest, context: Context
    ) -> messages.ListSetsResponse:
        async with self._answering(context, "ListSets") as caller:
            found = await self._admin.sets.listed(caller, request.tee)
            sets = [
                v1_messages.reference_set(request.tee, name, each, state)
                for name, (each, state) in found.items()
            ]
            return messages.ListSetsResponse(sets=sets)
        raise AssertionError(UNREACHABLE)

    async def AddSet(
        self, request: messages.AddSetRequest, context: Context
    ) -> messages.ReferenceSet:
        async with self._answering(context, "AddSet") as caller:
            sets, name, expires = self._admin.sets, request.name, request.expires_at
            if request.id or not request.values:
                made = await sets.pin(caller, request.id, name, request.fields, expires)
            else:
                values = {each.field: each.values for each in request.values}
                made = await sets.add(caller, request.tee, name, values, expires)
            return v1_messages.reference_set(request.tee, name, made, "in force")
        raise AssertionError(UNREACHABLE)

    async def RetireSet(
        self, request: messages.RetireSetRequest, context: Context
    ) -> messages.ReferenceSet:
        async with self._answering(context, "RetireSet") as caller:
            ended = await self._admin.sets.retire(caller, request.tee, request.name)
            return v1_messages.reference_set(request.tee, request.name, ended, "retired")
        raise AssertionError(UNREACHABLE)


class AppraisalService(Service, services.AppraisalServiceServicer):
    """What became of the guests that were judged lately."""

    def __init__(
        self, admin: Administration, rules: CallerRules, events: Events, history: History
    ) -> None:
        super().__init__(admin, rules, events)
        self._history = history

    async def ListGuests(
        self, request: messages.ListGuestsRequest, context: Context
    ) -> messages.ListGuestsResponse:
        async with self._answering(context, "ListGuests") as caller:
            verdict = v1_messages.VERDICTS.get(request.verdict, Verdict.REFUSED)
            found = self._history.last(caller, verdict, min(request.limit or MAX_PAGE, MAX_PAGE))
            return messages.ListGuestsResponse(guests=[v1_messages.guest(each) for each in found])
        raise AssertionError(UNREACHABLE)

    async def GetGuest(self, request: messages.GetGuestRequest, context: Context) -> messages.Guest:
        async with self._answering(context, "GetGuest") as caller:
            return v1_messages.guest(self._history.find(caller, request.id))
        raise AssertionError(UNREACHABLE)


class StatusService(Service, services.StatusServiceServicer):
    """The daemon about itself."""

    def __init__(
        self,
        admin: Administration,
        rules: CallerRules,
        events: Events,
        history: History,
        status: Callable[[], Awaitable[DaemonStatus]],
    ) -> None:
        super().__init__(admin, rules, events)
        self._history = history
        self._status = status

    async def GetStatus(
        self, request: messages.GetStatusRequest, context: Context
    ) -> messages.Status:
        del request
        async with self._answering(context, "GetStatus") as caller:
            counts = self._history.counted(caller)
            status = await self._status()
            return messages.Status(
                version=status.version,
                started_at=v1_messages.time(status.started_at),
                listen=status.listen,
                client_api=status.client_api,
                keyprovider_api=status.keyprovider_api,
                kbs_http=status.kbs_http,
                data_dir=status.data_dir,
                verifiers=status.verifiers,
                attester=status.attester,
                unsafe=status.unsafe,
                warnings=status.warnings,
                unpinned=status.unpinned,
                guests_accepted=counts[Verdict.ACCEPTED],
                guests_refused=counts[Verdict.REFUSED],
                guests_unverified=counts[Verdict.UNVERIFIED],
                caller=caller.name,
                rights=sorted(caller.rights),
            )
        raise AssertionError(UNREACHABLE)
