"""Commands for the documents that decide: policies, reference data and other data by name."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Awaitable
from typing import Any, Final

from verdictd_py._generated import clientapi_pb2 as upstream
from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py.cli.management import consent, names, referenceviews, storedviews
from verdictd_py.cli.management.client import BrokerClient, read
from verdictd_py.cli.management.command import FILE, NAME, YES, Arguments, Command
from verdictd_py.cli.output.result import CommandOutput
from verdictd_py.tees.registry import DEFAULT_NAME


async def open_problems(client: BrokerClient) -> tuple[str, ...]:
    """Return the problems that are open after a change, a line each.

    Raises:
        BrokerFailed: the broker does not answer, or is upstream's.
    """
    status = await client.call(client.about.GetStatus, v1.GetStatusRequest())
    return storedviews.open_problems(status)


async def _policy_list(client: BrokerClient, options: Namespace) -> CommandOutput:
    del options
    answer = await client.call(client.documents.ListDocuments, v1.ListDocumentsRequest())
    return storedviews.documents(answer.documents)


async def _policy_show(client: BrokerClient, options: Namespace) -> CommandOutput:
    def export(name: str) -> Awaitable[Any]:
        request = upstream.ExportOpaPolicyRequest(name=name.encode())
        return client.call(client.opa.exportOpaPolicy, request)

    search = names.documents
    name, answer = await names.reading(client, options.name, search, "documents", export)
    return storedviews.text(name, answer.content)


async def _policy_set(client: BrokerClient, options: Namespace) -> CommandOutput:
    request = v1.SetPolicyRequest(name=options.name, content=read(options.file))
    return storedviews.stored_document(await client.call(client.documents.SetPolicy, request))


async def _policy_delete(client: BrokerClient, options: Namespace) -> CommandOutput:
    named = await names.find(client, options.name, names.documents, "documents")
    if not await consent.consented(options, named, f"Delete the document {named.name}?"):
        return consent.declined(named.name)
    request = v1.DeleteDocumentRequest(name=named.name)
    await client.call(client.documents.DeleteDocument, request)
    return storedviews.confirmation(f"{named.name} is deleted", named.name)


async def _reference_show(client: BrokerClient, options: Namespace) -> CommandOutput:
    request = v1.GetReferenceRequest(tee=options.tee)
    answer = await client.call(client.references.GetReference, request)
    return referenceviews.reference(answer, stored=options.stored)


async def _reference_set(client: BrokerClient, options: Namespace) -> CommandOutput:
    request = v1.SetReferenceRequest(name=options.name, content=read(options.file))
    return storedviews.stored_document(await client.call(client.documents.SetReference, request))


_SHOW: Final[Arguments] = {
    "tee": {"nargs": "?", "metavar": "TEE", "default": DEFAULT_NAME},
    "--stored": {"action": "store_true", "help": "the file alone, without named sets"},
}

_STORED: Final = ("stored-document",)

POLICIES: Final = (
    Command(
        "policy list",
        "policies and data, and what is in force",
        _policy_list,
        writes=("document-list",),
        watchable=True,
    ),
    Command("policy show", "a policy", _policy_show, NAME, ("content",)),
    Command(
        "policy set",
        "check and store a policy",
        _policy_set,
        {**NAME, **FILE},
        _STORED,
        changes=True,
    ),
    Command(
        "policy delete",
        "a document that nothing reads",
        _policy_delete,
        {**NAME, **YES},
        ("done",),
        changes=True,
    ),
)

REFERENCES: Final = (
    Command(
        "reference show",
        "the values that decide, and open problems",
        _reference_show,
        _SHOW,
        ("reference",),
    ),
    Command(
        "reference set",
        "check and store data",
        _reference_set,
        {**NAME, **FILE},
        _STORED,
        changes=True,
    ),
)
