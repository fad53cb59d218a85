"""The page of the audit trail: search in its newest records."""

from __future__ import annotations

from typing import Any

from verdictd_py.console.audittrail import AuditSearch
from verdictd_py.console.requests import Visit
from verdictd_py.console.site import Answer, Site
from verdictd_py.errors import StorageError

_REFUSED = (".refused", ".denied", ".failed", ".not-judged", ".fault")


async def audit_page(site: Site, visit: Visit) -> Answer:
    """Files and records."""
    frame = await site.frame(visit)
    search = AuditSearch(
        text=visit.asked("text").strip(),
        event=visit.asked("event").strip(),
        since=visit.asked("since").strip().replace(" ", "T"),
        until=visit.asked("until").strip().replace(" ", "T"),
    )
    values: dict[str, Any] = {"search": search, "view": None, "refused": _REFUSED}
    try:
        values["view"] = await site.sources.audit(visit.caller, search)
    except StorageError as error:
        values["problem"] = str(error)
    return await site.page(visit, frame, "audit.html", values)
