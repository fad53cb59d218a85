"""The service `verdictd.v1.DocumentService`: documents by name, with what reads them."""

from __future__ import annotations

from verdictd_py._generated import verdictd_v1_pb2 as messages
from verdictd_py._generated import verdictd_v1_pb2_grpc as services
from verdictd_py.domain.callers import Caller
from verdictd_py.listeners import v1_messages
from verdictd_py.listeners.calls import answered
from verdictd_py.listeners.management import Service


class DocumentService(Service, services.DocumentServiceServicer):
    """Policies, reference data, named sets, release policies, and their earlier texts."""

    @answered()
    async def ListDocuments(
        self, request: messages.ListDocumentsRequest, caller: Caller
    ) -> messages.ListDocumentsResponse:
        del request
        found = await self._admin.documents.list_documents(caller)
        documents = [v1_messages.document(use, stored) for use, stored in found]
        return messages.ListDocumentsResponse(documents=documents)

    @answered()
    async def DescribeDocument(
        self, request: messages.DescribeDocumentRequest, caller: Caller
    ) -> messages.Document:
        return await self._described(caller, request.name)

    @answered()
    async def SetPolicy(
        self, request: messages.SetPolicyRequest, caller: Caller
    ) -> messages.Document:
        documents = self._admin.documents
        await documents.require_reader(caller, request.name, policy=True)
        await documents.set_policy(caller, request.name, request.content)
        return await self._described(caller, request.name)

    @answered()
    async def SetReference(
        self, request: messages.SetReferenceRequest, caller: Caller
    ) -> messages.Document:
        documents = self._admin.documents
        await documents.require_reader(caller, request.name, policy=False)
        await documents.set_reference(caller, request.name, request.content)
        return await self._described(caller, request.name)

    @answered()
    async def DeleteDocument(
        self, request: messages.DeleteDocumentRequest, caller: Caller
    ) -> messages.DeleteDocumentResponse:
        await self._admin.documents.delete(caller, request.name)
        return messages.DeleteDocumentResponse()

    @answered()
    async def ListRevisions(
        self, request: messages.ListRevisionsRequest, caller: Caller
    ) -> messages.ListRevisionsResponse:
        revisions = self._admin.revisions
        found = revisions.list_of(caller, request.name)
        described = [
            v1_messages.revision(each, in_force=revisions.is_current(each)) for each in found
        ]
        return messages.ListRevisionsResponse(revisions=described)

    @answered()
    async def GetRevision(
        self, request: messages.GetRevisionRequest, caller: Caller
    ) -> messages.Revision:
        found = self._admin.revisions.get(caller, request.sha256)
        in_force = self._admin.revisions.is_current(found)
        return v1_messages.revision(found, in_force=in_force, content=True)

    async def _described(self, caller: Caller, name: str) -> messages.Document:
        use, stored = await self._admin.documents.describe(caller, name)
        return v1_messages.document(use, stored)
