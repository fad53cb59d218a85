"""Earlier texts of documents: which ones there are, and what differs from the one in force."""

from __future__ import annotations

from typing import Any, Final

from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py.console.operations import OperationFailed
from verdictd_py.console.requests import Visit
from verdictd_py.console.site import computed
from verdictd_py.console.views.differences import difference

_DOCUMENTS: Final = "verdictd.v1.DocumentService"


async def revision_values(visit: Visit, name: str, current: str = "") -> dict[str, Any]:
    """Return the revisions of a document, and the comparison that the person requested.

    Args:
        name: name of the document.
        current: its text in force; empty: that of the newest revision.
    """
    call = visit.operations.call
    listed = await call(f"{_DOCUMENTS}/ListRevisions", v1.ListRevisionsRequest(name=name))
    values: dict[str, Any] = {"revisions": listed.revisions, "difference": None}
    digest = visit.asked("revision")
    if not digest:
        return values
    try:
        earlier = await revision(visit, digest)
        if earlier.name != name:
            return values
        if not current:
            newest = [each for each in listed.revisions if each.in_force]
            current = (await revision(visit, newest[0].sha256)).content if newest else ""
    except OperationFailed as error:
        return {**values, "problem": error.text}
    return {**values, "difference": await computed(difference, earlier, current)}


async def revision(visit: Visit, digest: str) -> v1.Revision:
    """Return a text that was in force.

    Raises:
        OperationFailed: it is not stored.
    """
    request = v1.GetRevisionRequest(sha256=digest)
    found: v1.Revision = await visit.operations.call(f"{_DOCUMENTS}/GetRevision", request)
    return found
