"""Services of the package `verdictd.v1`, which add to upstream's `clientapi`."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Final

import grpc

from verdictd_py._generated import verdictd_v1_pb2 as messages
from verdictd_py._generated import verdictd_v1_pb2_grpc as services
from verdictd_py.broker.administration import (
    COSIGN_KEY,
    CREDENTIAL,
    IMAGE_POLICY,
    Administration,
)
from verdictd_py.broker.details import details
from verdictd_py.broker.everyguest import GuestDirectory
from verdictd_py.broker.explanation import Explainer
from verdictd_py.broker.history import History
from verdictd_py.broker.judgement import Verdict
from verdictd_py.broker.listings import MAX_PAGE
from verdictd_py.broker.uses import Uses
from verdictd_py.domain.callers import Caller
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.formats.contents import Findings
from verdictd_py.listeners import v1_messages
from verdictd_py.listeners.callers import CallerRules
from verdictd_py.listeners.calls import answered
from verdictd_py.listeners.documents_v1 import DocumentService
from verdictd_py.listeners.management import Service
from verdictd_py.offload import offload
from verdictd_py.ports import Events

GUEST_BYTES: Final = 2048
"""Rough size of a judgement, so that a thread describes more than 32 of them."""


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """Status of the daemon; nothing in it is secret.

    Attributes:
        endpoints: addresses for clients, by the name of the listener.
        unpinned: measurements of which any value is accepted, TEE and claim.
        problems: documents for which guests or releases are refused.
        unread: documents, or parts of them, that decide nothing.
        workers: number of guest workers; 0 if the broker is one process.
        workers_serving: number of guest workers that run now.
        store: URL of the database with all objects; empty for the data directory.
        seal: type of the key that seals stored objects, its scheme; empty if they are plain.
        kbs_sessions: store of the sessions of HTTP guests; empty for memory.
    """

    version: str
    started_at: datetime
    endpoints: Mapping[str, str]
    data_dir: str
    verifiers: tuple[str, ...]
    attester: str
    unsafe: tuple[str, ...]
    warnings: tuple[str, ...]
    unpinned: tuple[str, ...]
    problems: tuple[str, ...]
    unread: tuple[str, ...]
    workers: int = 0
    workers_serving: int = 0
    store: str = ""
    seal: str = ""
    kbs_sessions: str = ""


def register(
    server: grpc.aio.Server,
    admin: Administration,
    history: History,
    explainer: Explainer,
    connected: GuestDirectory,
    status: Callable[[], Awaitable[DaemonStatus]],
    rules: CallerRules,
    events: Events,
) -> None:
    """Add all services of the package `verdictd.v1` to `server`."""
    keys = KeyService(admin, rules, events, history.uses)
    services.add_KeyServiceServicer_to_server(keys, server)
    resources = ResourceService(admin, rules, events, history.uses)
    services.add_ResourceServiceServicer_to_server(resources, server)
    services.add_ImageServiceServicer_to_server(ImageService(admin, rules, events), server)
    documents = DocumentService(admin, rules, events)
    services.add_DocumentServiceServicer_to_server(documents, server)
    services.add_ReferenceServiceServicer_to_server(ReferenceService(admin, rules, events), server)
    appraisals = AppraisalService(admin, rules, events, history, explainer, connected)
    services.add_AppraisalServiceServicer_to_server(appraisals, server)
    tests = PolicyTestService(admin, rules, events)
    services.add_PolicyTestServiceServicer_to_server(tests, server)
    about = StatusService(admin, rules, events, history, status)
    services.add_StatusServiceServicer_to_server(about, server)


class KeyService(Service, services.KeyServiceServicer):
    """Service for keys; it never returns their bytes."""

    def __init__(
        self, admin: Administration, rules: CallerRules, events: Events, uses: Uses
    ) -> None:
        super().__init__(admin, rules, events)
        self._uses = uses

    @answered()
    async def ListKeys(
        self, request: messages.ListKeysRequest, caller: Caller
    ) -> messages.ListKeysResponse:
        page = await self._admin.keys.page(caller, request.page_token, request.page_size)
        keys = [v1_messages.key(each, self._uses.of(f"keys/{each.name}")) for each in page.names]
        return messages.ListKeysResponse(keys=keys, next_page_token=page.next_token)

    @answered()
    async def DescribeKey(
        self, request: messages.DescribeKeyRequest, caller: Caller
    ) -> messages.Key:
        stored = await self._admin.keys.describe(caller, request.name)
        return v1_messages.key(stored, self._uses.of(f"keys/{stored.name}"))

    @answered("verdictd.v1 CreateKey")
    async def CreateKey(self, request: messages.CreateKeyRequest, caller: Caller) -> messages.Key:
        key_id = await self._admin.keys.create(caller, request.name)
        return v1_messages.key(await self._admin.keys.describe(caller, str(key_id)))

    @answered("verdictd.v1 AdoptKey")
    async def AdoptKey(self, request: messages.AdoptKeyRequest, caller: Caller) -> messages.Key:
        key_id = await self._admin.keys.adopt(caller, request.path)
        return v1_messages.key(await self._admin.keys.describe(caller, str(key_id)))

    @answered("verdictd.v1 DeleteKey")
    async def DeleteKey(
        self, request: messages.DeleteKeyRequest, caller: Caller
    ) -> messages.DeleteKeyResponse:
        await self._admin.keys.delete(caller, request.name)
        return messages.DeleteKeyResponse()


class ResourceService(Service, services.ResourceServiceServicer):
    """Service for resources; it never returns their contents."""

    def __init__(
        self, admin: Administration, rules: CallerRules, events: Events, uses: Uses
    ) -> None:
        super().__init__(admin, rules, events)
        self._uses = uses

    @answered()
    async def ListResources(
        self, request: messages.ListResourcesRequest, caller: Caller
    ) -> messages.ListResourcesResponse:
        admin = self._admin.resources
        page = await admin.page(caller, request.page_token, request.page_size)
        resources = [
            v1_messages.resource(each, self._uses.of(admin.released_as(each.name)))
            for each in page.names
        ]
        return messages.ListResourcesResponse(resources=resources, next_page_token=page.next_token)

    @answered("verdictd.v1 SetResource")
    async def SetResource(
        self, request: messages.SetResourceRequest, caller: Caller
    ) -> messages.SetResourceResponse:
        content = SecretBytes(request.content)
        found = await self._admin.resources.set(caller, request.path, content, force=request.force)
        return messages.SetResourceResponse(problems=found.problems, warnings=found.warnings)

    @answered()
    async def DeleteResource(
        self, request: messages.DeleteResourceRequest, caller: Caller
    ) -> messages.DeleteResourceResponse:
        await self._admin.resources.delete(caller, request.path)
        return messages.DeleteResourceResponse()


class ImageService(Service, services.ImageServiceServicer):
    """Service for the documents that guests need to verify and fetch images."""

    async def _store(
        self,
        caller: Caller,
        path: str,
        request: messages.SetImagePolicyRequest
        | messages.SetCosignKeyRequest
        | messages.SetCredentialRequest,
    ) -> Findings:
        content = SecretBytes(request.content)
        return await self._admin.resources.set(caller, path, content, force=request.force)

    @answered()
    async def SetImagePolicy(
        self, request: messages.SetImagePolicyRequest, caller: Caller
    ) -> messages.SetImagePolicyResponse:
        found = await self._store(caller, IMAGE_POLICY, request)
        return messages.SetImagePolicyResponse(problems=found.problems, warnings=found.warnings)

    @answered()
    async def GetCosignKey(
        self, request: messages.GetCosignKeyRequest, caller: Caller
    ) -> messages.GetCosignKeyResponse:
        del request
        content = await self._admin.resources.get(caller, COSIGN_KEY)
        return messages.GetCosignKeyResponse(content=content.reveal())

    @answered()
    async def SetCosignKey(
        self, request: messages.SetCosignKeyRequest, caller: Caller
    ) -> messages.SetCosignKeyResponse:
        found = await self._store(caller, COSIGN_KEY, request)
        return messages.SetCosignKeyResponse(problems=found.problems, warnings=found.warnings)

    @answered()
    async def GetCredential(
        self, request: messages.GetCredentialRequest, caller: Caller
    ) -> messages.GetCredentialResponse:
        del request
        content = await self._admin.resources.get(caller, CREDENTIAL)
        return messages.GetCredentialResponse(content=content.reveal())

    @answered()
    async def SetCredential(
        self, request: messages.SetCredentialRequest, caller: Caller
    ) -> messages.SetCredentialResponse:
        found = await self._store(caller, CREDENTIAL, request)
        return messages.SetCredentialResponse(problems=found.problems, warnings=found.warnings)


class ReferenceService(Service, services.ReferenceServiceServicer):
    """Service for reference values."""

    @answered()
    async def GetReference(
        self, request: messages.GetReferenceRequest, caller: Caller
    ) -> messages.Reference:
        return v1_messages.reference(await self._admin.references.view(caller, request.tee))

    @answered()
    async def PreviewPin(
        self, request: messages.PreviewPinRequest, caller: Caller
    ) -> messages.PinnedValues:
        return v1_messages.pinned(
            await self._admin.references.preview_pin(caller, request.id, request.fields)
        )

    @answered()
    async def PinValues(
        self, request: messages.PinValuesRequest, caller: Caller
    ) -> messages.PinnedValues:
        pinned = await self._admin.references.pin(
            caller, request.id, request.fields, request.revision
        )
        return v1_messages.pinned(pinned)

    @answered()
    async def ListSets(
        self, request: messages.ListSetsRequest, caller: Caller
    ) -> messages.ListSetsResponse:
        by_name = await self._admin.sets.list_sets(caller, request.tee)
        sets = [
            v1_messages.reference_set(request.tee, name, values, state)
            for name, (values, state) in by_name.items()
        ]
        return messages.ListSetsResponse(sets=sets)

    @answered()
    async def AddSet(
        self, request: messages.AddSetRequest, caller: Caller
    ) -> messages.ReferenceSet:
        sets, name, expires = self._admin.sets, request.name, request.expires_at
        if request.id or not request.values:
            added = await sets.pin(caller, request.id, name, request.fields, expires)
        else:
            values = {accepted.field: accepted.values for accepted in request.values}
            added = await sets.add(caller, request.tee, name, values, expires)
        return v1_messages.reference_set(request.tee, name, added, "in force")

    @answered()
    async def RetireSet(
        self, request: messages.RetireSetRequest, caller: Caller
    ) -> messages.ReferenceSet:
        retired = await self._admin.sets.retire(caller, request.tee, request.name)
        return v1_messages.reference_set(request.tee, request.name, retired, "retired")

    @answered()
    async def DeleteSet(
        self, request: messages.DeleteSetRequest, caller: Caller
    ) -> messages.DeleteSetResponse:
        await self._admin.sets.delete(caller, request.tee, request.name)
        return messages.DeleteSetResponse()


class AppraisalService(Service, services.AppraisalServiceServicer):
    """Service for the results of recent appraisals, and for connected guests."""

    def __init__(
        self,
        admin: Administration,
        rules: CallerRules,
        events: Events,
        history: History,
        explainer: Explainer,
        connected: GuestDirectory,
    ) -> None:
        super().__init__(admin, rules, events)
        self._history = history
        self._explainer = explainer
        self._connected = connected

    @answered()
    async def ListGuests(
        self, request: messages.ListGuestsRequest, caller: Caller
    ) -> messages.ListGuestsResponse:
        verdict = v1_messages.VERDICTS.get(request.verdict, Verdict.REFUSED)
        judgements = self._history.last(caller, verdict, min(request.limit or MAX_PAGE, MAX_PAGE))
        described = await offload(
            GUEST_BYTES * len(judgements), lambda: list(map(v1_messages.guest, judgements))
        )
        return messages.ListGuestsResponse(guests=described)

    @answered()
    async def GetGuest(self, request: messages.GetGuestRequest, caller: Caller) -> messages.Guest:
        judgement = await self._explainer.explain(caller, request.id)
        guest = v1_messages.guest(judgement)
        presented = self._history.presented(judgement)
        before = self._history.accepted_before(judgement)
        logs = sum(len(each.event_log) for each in (presented, before) if each is not None)
        tees = self._admin.documents.tees
        read = partial(details, judgement, tees, presented, before)
        if found := await offload(logs, read):
            guest.details = json.dumps(found)
        return guest

    @answered()
    async def ListConnectedGuests(
        self, request: messages.ListConnectedGuestsRequest, caller: Caller
    ) -> messages.ListConnectedGuestsResponse:
        guests = await self._connected.list_guests(caller)
        prefix = request.id_prefix
        matching = [
            guest
            for guest in guests
            if guest.id.startswith(prefix) or guest.appraisal.startswith(prefix)
        ]
        listed = matching[: min(request.limit or MAX_PAGE, MAX_PAGE)]
        return messages.ListConnectedGuestsResponse(
            guests=list(map(v1_messages.connected_guest, listed)), connected=len(guests)
        )

    @answered("verdictd.v1 DisconnectGuest")
    async def DisconnectGuest(
        self, request: messages.DisconnectGuestRequest, caller: Caller
    ) -> messages.ConnectedGuest:
        return v1_messages.connected_guest(await self._connected.disconnect(caller, request.id))

    @answered()
    async def CountGuests(
        self, request: messages.CountGuestsRequest, caller: Caller
    ) -> messages.CountGuestsResponse:
        now = datetime.now(UTC)
        until, counts = self._history.tallies(caller, now, request.step_seconds, request.steps)
        return messages.CountGuestsResponse(
            until=v1_messages.time(until),
            counts=[
                messages.GuestCount(
                    step=step, verdict=v1_messages.NUMBERS[verdict], code=code, guests=number
                )
                for step, verdict, code, number in counts
            ],
        )


class PolicyTestService(Service, services.PolicyTestServiceServicer):
    """Policies, before they decide."""

    @answered()
    async def CheckPolicy(
        self, request: messages.CheckPolicyRequest, caller: Caller
    ) -> messages.CheckPolicyResponse:
        outline = await self._admin.policy_tests.check(caller, request.name, request.content)
        return messages.CheckPolicyResponse(syntax=outline.syntax, rules=outline.rules)

    @answered()
    async def TestPolicy(
        self, request: messages.TestPolicyRequest, caller: Caller
    ) -> messages.TestPolicyResponse:
        report = await self._admin.policy_tests.report(caller, v1_messages.policy_test(request))
        return messages.TestPolicyResponse(
            accepted=report.accepted, report=json.dumps(report.as_json())
        )

    @answered()
    async def TestRelease(
        self, request: messages.TestReleaseRequest, caller: Caller
    ) -> messages.TestReleaseResponse:
        test = await self._admin.policy_tests.release(
            caller, request.id, request.path, dict(request.query)
        )
        return messages.TestReleaseResponse(
            released=test.report.accepted,
            policy=str(test.policy),
            prefix=test.prefix,
            report=json.dumps(test.report.as_json()),
        )


class StatusService(Service, services.StatusServiceServicer):
    """Service for the status of the daemon."""

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

    @answered()
    async def GetStatus(
        self, request: messages.GetStatusRequest, caller: Caller
    ) -> messages.Status:
        del request
        counts = self._history.counts(caller)
        status = await self._status()
        return messages.Status(
            version=status.version,
            started_at=v1_messages.time(status.started_at),
            listen=status.endpoints.get("listen", ""),
            client_api=status.endpoints.get("client_api", ""),
            keyprovider_api=status.endpoints.get("keyprovider_api", ""),
            kbs_http=status.endpoints.get("kbs_http", ""),
            console=status.endpoints.get("console", ""),
            data_dir=status.data_dir,
            verifiers=status.verifiers,
            attester=status.attester,
            unsafe=status.unsafe,
            warnings=status.warnings,
            unpinned=status.unpinned,
            problems=(*status.problems, *self._history.problems(caller)),
            unread=status.unread,
            workers=status.workers,
            workers_serving=status.workers_serving,
            store=status.store,
            seal=status.seal,
            kbs_sessions=status.kbs_sessions,
            guests_accepted=counts[Verdict.ACCEPTED],
            guests_refused=counts[Verdict.REFUSED],
            guests_unverified=counts[Verdict.UNVERIFIED],
            caller=caller.name,
            rights=sorted(caller.rights),
        )
