"""Every method of the client API against every role, and against callers without one."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest
import trustme

from tests.support.broker import KID, RunningBroker
from tests.support.certificates import Certificates
from tests.support.keyprovider_client import unwrap_input, wrap_input
from verdictd_py._generated import clientapi_pb2 as upstream
from verdictd_py._generated import keyprovider_pb2 as keyprovider
from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py.domain.callers import ROLES, Right
from verdictd_py.storage.presence import DAEMONS_FILE

NAMES = {"wrap": "farm", "operator": "ops", "admin": "boss.example"}
UNREADABLE = {"kid": KID, "wrapped_data": [0], "iv": [0], "algorithm": "AES"}


def key_provider(content: object) -> keyprovider.keyProviderKeyWrapProtocolInput:
    data = json.dumps(content).encode()
    return keyprovider.keyProviderKeyWrapProtocolInput(KeyProviderKeyWrapProtocolInput=data)


def stored(broker: RunningBroker) -> dict[Path, bytes]:
    """Return all files in the data directory except audit trail, history and list of daemons."""
    files = [path for path in broker.data.rglob("*") if path.is_file()]
    own = {"audit", "history", DAEMONS_FILE}
    return {path: path.read_bytes() for path in files if own.isdisjoint(path.parts)}


# What each method needs, and a request that changes nothing where it is allowed.
METHODS: dict[str, tuple[Right, object]] = {
    "keyprovider.KeyProviderService/WrapKey": (Right.WRAP, key_provider(wrap_input(KID))),
    "keyprovider.KeyProviderService/UnWrapKey": (
        Right.UNWRAP,
        key_provider(unwrap_input(UNREADABLE)),
    ),
    "clientapi.KeyManagerService/CreateKey": (Right.MANAGE, upstream.CreateKeyRequest(keyid=KID)),
    "clientapi.KeyManagerService/GetKey": (Right.READ_KEYS, upstream.GetKeyRequest(uuid=b"none")),
    "clientapi.KeyManagerService/DeleteKey": (
        Right.MANAGE,
        upstream.DeleteKeyRequest(uuid=b"none"),
    ),
    "clientapi.OpaService/SetOpaPolicy": (Right.MANAGE, upstream.SetOpaPolicyRequest()),
    "clientapi.OpaService/exportOpaPolicy": (Right.MANAGE, upstream.ExportOpaPolicyRequest()),
    "clientapi.OpaService/setOpaReference": (Right.MANAGE, upstream.SetOpaReferenceRequest()),
    "clientapi.OpaService/exportOpaReference": (
        Right.MANAGE,
        upstream.ExportOpaReferenceRequest(),
    ),
    "clientapi.OpaService/TestOpa": (Right.MANAGE, upstream.TestOpaRequest()),
    "clientapi.GpgService/listGpgKeys": (Right.MANAGE, upstream.ListGpgKeysRequest()),
    "clientapi.GpgService/importGpgKey": (Right.MANAGE, upstream.ImportGpgKeyRequest()),
    "clientapi.GpgService/deleteGpgKey": (Right.MANAGE, upstream.DeleteGpgKeyRequest()),
    "clientapi.GpgService/exportGpgKeyring": (Right.MANAGE, upstream.ExportGpgKeyringRequest()),
    "clientapi.ImageService/exportImageSigstore": (
        Right.MANAGE,
        upstream.ExportImageSigstoreRequest(),
    ),
    "clientapi.ImageService/setImageSigstore": (Right.MANAGE, upstream.SetImageSigstoreRequest()),
    "clientapi.ImageService/exportImagePolicy": (
        Right.MANAGE,
        upstream.ExportImagePolicyRequest(),
    ),
    "clientapi.ImageService/setImagePolicy": (Right.MANAGE, upstream.SetImagePolicyRequest()),
    "clientapi.ResourceService/SetResource": (Right.MANAGE, upstream.SetResourceRequest()),
    "clientapi.ResourceService/GetResource": (
        Right.MANAGE,
        upstream.GetResourceRequest(resource_id="a/b/c"),
    ),
    "verdictd.v1.KeyService/ListKeys": (Right.MANAGE, v1.ListKeysRequest()),
    "verdictd.v1.KeyService/DescribeKey": (Right.MANAGE, v1.DescribeKeyRequest(name=KID)),
    "verdictd.v1.KeyService/CreateKey": (Right.MANAGE, v1.CreateKeyRequest(name=KID)),
    "verdictd.v1.KeyService/AdoptKey": (Right.MANAGE, v1.AdoptKeyRequest(path="a/b/c")),
    "verdictd.v1.KeyService/DeleteKey": (Right.MANAGE, v1.DeleteKeyRequest(name="none")),
    "verdictd.v1.ResourceService/ListResources": (Right.MANAGE, v1.ListResourcesRequest()),
    "verdictd.v1.ResourceService/SetResource": (Right.MANAGE, v1.SetResourceRequest()),
    "verdictd.v1.ResourceService/DeleteResource": (
        Right.MANAGE,
        v1.DeleteResourceRequest(path="a/b/c"),
    ),
    "verdictd.v1.ImageService/SetImagePolicy": (Right.MANAGE, v1.SetImagePolicyRequest()),
    "verdictd.v1.ImageService/GetCosignKey": (Right.MANAGE, v1.GetCosignKeyRequest()),
    "verdictd.v1.ImageService/SetCosignKey": (Right.MANAGE, v1.SetCosignKeyRequest()),
    "verdictd.v1.ImageService/GetCredential": (Right.MANAGE, v1.GetCredentialRequest()),
    "verdictd.v1.ImageService/SetCredential": (Right.MANAGE, v1.SetCredentialRequest()),
    "verdictd.v1.DocumentService/ListDocuments": (Right.MANAGE, v1.ListDocumentsRequest()),
    "verdictd.v1.DocumentService/DescribeDocument": (
        Right.MANAGE,
        v1.DescribeDocumentRequest(name="none"),
    ),
    "verdictd.v1.DocumentService/SetPolicy": (Right.MANAGE, v1.SetPolicyRequest(name="tdxPolicy")),
    "verdictd.v1.DocumentService/SetReference": (Right.MANAGE, v1.SetReferenceRequest(name="none")),
    "verdictd.v1.DocumentService/DeleteDocument": (
        Right.MANAGE,
        v1.DeleteDocumentRequest(name="none"),
    ),
    "verdictd.v1.DocumentService/ListRevisions": (Right.MANAGE, v1.ListRevisionsRequest()),
    "verdictd.v1.DocumentService/GetRevision": (Right.MANAGE, v1.GetRevisionRequest(sha256="00")),
    "verdictd.v1.ReferenceService/GetReference": (
        Right.MANAGE,
        v1.GetReferenceRequest(tee="tdx"),
    ),
    "verdictd.v1.ReferenceService/PreviewPin": (Right.MANAGE, v1.PreviewPinRequest(id="none")),
    "verdictd.v1.ReferenceService/PinValues": (Right.MANAGE, v1.PinValuesRequest(id="none")),
    "verdictd.v1.ReferenceService/ListSets": (Right.MANAGE, v1.ListSetsRequest(tee="tdx")),
    "verdictd.v1.ReferenceService/AddSet": (Right.MANAGE, v1.AddSetRequest(name="x", tee="tdx")),
    "verdictd.v1.ReferenceService/RetireSet": (
        Right.MANAGE,
        v1.RetireSetRequest(tee="tdx", name="none"),
    ),
    "verdictd.v1.ReferenceService/DeleteSet": (
        Right.MANAGE,
        v1.DeleteSetRequest(tee="tdx", name="none"),
    ),
    "verdictd.v1.AppraisalService/ListGuests": (Right.MANAGE, v1.ListGuestsRequest()),
    "verdictd.v1.AppraisalService/CountGuests": (Right.MANAGE, v1.CountGuestsRequest()),
    "verdictd.v1.AppraisalService/GetGuest": (Right.MANAGE, v1.GetGuestRequest()),
    "verdictd.v1.AppraisalService/ListConnectedGuests": (
        Right.MANAGE,
        v1.ListConnectedGuestsRequest(),
    ),
    "verdictd.v1.AppraisalService/DisconnectGuest": (Right.MANAGE, v1.DisconnectGuestRequest()),
    "verdictd.v1.PolicyTestService/CheckPolicy": (Right.MANAGE, v1.CheckPolicyRequest()),
    "verdictd.v1.PolicyTestService/TestPolicy": (Right.MANAGE, v1.TestPolicyRequest()),
    "verdictd.v1.PolicyTestService/TestRelease": (Right.MANAGE, v1.TestReleaseRequest()),
    "verdictd.v1.ConsoleService/CreateLink": (Right.MANAGE, v1.CreateLinkRequest()),
    "verdictd.v1.StatusService/GetStatus": (Right.MANAGE, v1.GetStatusRequest()),
}


def methods_of(module: ModuleType) -> set[str]:
    return {
        f"{service.full_name}/{method.name}"
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates.make(tmp_path)


@pytest.fixture
def broker_settings(certificates: Certificates) -> dict[str, Any]:
    return certificates.settings


async def codes(
    broker: RunningBroker, credentials: grpc.ChannelCredentials | None
) -> dict[str, grpc.StatusCode]:
    """Call each method and return the status codes."""
    if credentials is None:
        channel = grpc.aio.insecure_channel(broker.client_api)
    else:
        channel = grpc.aio.secure_channel(broker.client_api, credentials)
    found = {}
    async with channel:
        for method, (_, request) in METHODS.items():
            call = channel.unary_unary(f"/{method}", type(request).SerializeToString, None)  # type: ignore[attr-defined]  # messages are made at run time
            try:
                await call(request, timeout=120)
                found[method] = grpc.StatusCode.OK
            except grpc.aio.AioRpcError as error:
                found[method] = error.code()
    return found


def test_the_table_has_every_method() -> None:
    assert set(METHODS) == methods_of(keyprovider) | methods_of(upstream) | methods_of(v1)


@pytest.mark.parametrize("role", [*ROLES, None])
async def test_a_role_permits_exactly_its_listed_methods(
    broker: RunningBroker, certificates: Certificates, role: str | None
) -> None:
    """defects.md 11: upstream gave every key to every client."""
    name = "stranger" if role is None else NAMES[role]
    rights = frozenset() if role is None else ROLES[role]
    ours = certificates.credentials(certificates.ca.issue_cert(common_name=name))
    before = stored(broker)
    found = await codes(broker, ours)
    denied = {m for m, code in found.items() if code is grpc.StatusCode.PERMISSION_DENIED}
    assert denied == {m for m, (needed, _) in METHODS.items() if needed not in rights}
    unexpected = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE}
    assert not unexpected & set(found.values())
    assert stored(broker) == before
    assert not broker.events.named("warning.bug")


async def test_a_caller_without_a_valid_certificate_gets_no_answer(
    broker: RunningBroker, certificates: Certificates
) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    expired = certificates.ca.issue_cert(
        common_name="boss.example", not_before=yesterday - timedelta(1), not_after=yesterday
    )
    stranger = trustme.CA().issue_cert(common_name="boss.example")
    for credentials in (
        None,
        certificates.credentials(None),
        certificates.credentials(stranger),
        certificates.credentials(expired),
    ):
        assert set((await codes(broker, credentials)).values()) == {grpc.StatusCode.UNAVAILABLE}
