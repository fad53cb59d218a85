"""The page of policies: source, revision, a test against a recorded guest, storing another one."""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import quote

from verdictd_py._generated import clientapi_pb2 as upstream
from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py.console.operations import OperationFailed
from verdictd_py.console.pages_guests import all_guests
from verdictd_py.console.requests import Visit
from verdictd_py.console.revisions import revision_values
from verdictd_py.console.site import Answer, Site
from verdictd_py.console.views.policies import policy_source
from verdictd_py.console.views.sentences import state
from verdictd_py.console.visible import visible

_DOCUMENTS: Final = "verdictd.v1.DocumentService"
_TESTS: Final = "verdictd.v1.PolicyTestService"
_EXPORT: Final = "clientapi.OpaService/exportOpaPolicy"

MAX_GUESTS: Final = 200
"""Guests to choose from."""


async def policies_page(site: Site, visit: Visit, problem: str = "", status: int = 200) -> Answer:
    """One policy, line by line, with the values of its rules for a recorded guest."""
    frame = await site.frame(visit)
    listed = await visit.operations.call(f"{_DOCUMENTS}/ListDocuments", v1.ListDocumentsRequest())
    documents = [each for each in listed.documents if each.name.endswith(".rego")]
    name = visit.asked("name") or visit.sent("name")
    chosen = next((each for each in documents if each.name == name), None)
    if chosen is None and documents:
        chosen = min(documents, key=lambda each: (not each.in_force, each.name != site.policy))
    values: dict[str, Any] = {
        "documents": documents,
        "chosen": chosen,
        "guests": [],
        "guest": "",
        "problem": problem,
        "done": visit.language("The policy is stored.") if visit.asked("done") == "set" else "",
        "content": visit.sent("content").replace("\r\n", "\n"),
        "source": "",
        "editable": True,
        "view": None,
        "report": None,
        "revisions": (),
        "difference": None,
    }
    if chosen is not None:
        values |= await _chosen(visit, chosen, problem)
    return await site.page(visit, frame, "policies.html", values, status=status)


async def _chosen(visit: Visit, chosen: v1.Document, problem: str) -> dict[str, Any]:
    request = upstream.ExportOpaPolicyRequest(name=chosen.name.encode())
    try:
        exported = await visit.operations.call(_EXPORT, request)
        source = exported.content.decode().replace("\r\n", "\n")
    except OperationFailed as error:
        return {"problem": problem or error.text}
    guests = [each for each in await all_guests(visit) if each.claims]
    guests.sort(key=lambda each: each.at, reverse=True)
    guest, report = visit.asked("guest"), None
    if guest:
        try:
            answer = await visit.operations.call(
                f"{_TESTS}/TestPolicy", v1.TestPolicyRequest(policy=chosen.name, id=guest)
            )
            report = json.loads(answer.report)
        except OperationFailed as error:
            problem = problem or error.text
    options = [(each, state(each)) for each in guests[:MAX_GUESTS]]
    earlier = await revision_values(visit, chosen.name, source)
    return {
        **earlier,
        "view": policy_source(source, report),
        "source": source,
        "editable": visible(source) == source,
        "report": report,
        "guests": options,
        "guest": guest,
        "problem": problem or earlier.get("problem", ""),
    }


async def store(site: Site, visit: Visit) -> str:
    """Check a policy and store it; if the check fails, the old one stays in force."""
    del site
    name = visit.sent("name")
    content = visit.sent("content").replace("\r\n", "\n").encode()
    await visit.operations.call(
        f"{_DOCUMENTS}/SetPolicy", v1.SetPolicyRequest(name=name, content=content)
    )
    return f"/policies?name={quote(name, safe='')}&done=set"
