"""Commands for the documents that decide: policies, reference data and other data by name."""

from __future__ import annotations

from argparse import Namespace
from typing import Final

from verdictd_py._generated import clientapi_pb2 as upstream
from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py.cli.management import show
from verdictd_py.cli.management.client import BrokerClient, read
from verdictd_py.cli.management.command import FILE, NAME, Arguments, Command
from verdictd_py.cli.management.show import CommandOutput
from verdictd_py.tees.registry import DEFAULT_NAME


async def open_problems(client: BrokerClient) -> tuple[str, ...]:
    """Return the problems that are open after a change, a line each.

    Raises:
        BrokerFailed: the broker does not answer, or is upstream's.
    """
    return show.open_problems(await client.call(client.about.GetStatus, v1.GetStatusRequest()))


async def _policy_list(client: BrokerClient, options: Namespace) -> CommandOutput:
    del options
    answer = await client.call(client.documents.ListDocuments, v1.ListDocumentsRequest())
    return show.documents(answer.documents)


async def _policy_show(client: BrokerClient, options: Namespace) -> CommandOutput:
    request = upstream.ExportOpaPolicyRequest(name=options.name.encode())
    answer = await client.call(client.opa.exportOpaPolicy, request)
    text = answer.content.decode(errors="replace")
    return CommandOutput({"name": options.name, "content": text}, raw=answer.content)


async def _policy_set(client: BrokerClient, options: Namespace) -> CommandOutput:
    request = v1.SetPolicyRequest(name=options.name, content=read(options.file))
    return show.stored_document(await client.call(client.documents.SetPolicy, request))


async def _policy_delete(client: BrokerClient, options: Namespace) -> CommandOutput:
    request = v1.DeleteDocumentRequest(name=options.name)
    await client.call(client.documents.DeleteDocument, request)
    return show.confirmation(f"{options.name} is deleted", name=options.name)


async def _reference_show(client: BrokerClient, options: Namespace) -> CommandOutput:
    request = v1.GetReferenceRequest(tee=options.tee)
    answer = await client.call(client.references.GetReference, request)
    return show.reference(answer, stored=options.stored)


async def _reference_set(client: BrokerClient, options: Namespace) -> CommandOutput:
    request = v1.SetReferenceRequest(name=options.name, content=read(options.file))
    return show.stored_document(await client.call(client.documents.SetReference, request))


_SHOW: Final[Arguments] = {
    "tee": {"nargs": "?", "metavar": "TEE", "default": DEFAULT_NAME},
    "--stored": {"action": "store_true", "help": "the file alone, without named sets"},
}

POLICIES: Final = (
    Command("policy list", "policies and data, and what is in force", _policy_list),
    Command("policy show", "a policy", _policy_show, NAME),
    Command("policy set", "check and store a policy", _policy_set, {**NAME, **FILE}, changes=True),
    Command("policy delete", "a document that nothing reads", _policy_delete, NAME, changes=True),
)

REFERENCES: Final = (
    Command("reference show", "the values that decide, and open problems", _reference_show, _SHOW),
    Command(
        "reference set", "check and store data", _reference_set, {**NAME, **FILE}, changes=True
    ),
)
