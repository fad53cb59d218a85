"""The page of the audit trail: search, verification and export of its newest records."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import grpc

from verdictd_py.console.auditproof import MAX_EXPORTED, TYPES
from verdictd_py.console.audittrail import AuditSearch
from verdictd_py.console.operations import OperationFailed
from verdictd_py.console.requests import Visit
from verdictd_py.console.site import Answer, Site
from verdictd_py.errors import StorageError

_REFUSED = (".refused", ".denied", ".failed", ".not-judged", ".fault")


async def audit_page(site: Site, visit: Visit) -> Answer:
    """Files and records, and the result of a verification if the person requested one."""
    frame = await site.frame(visit)
    search = _search(visit)
    values: dict[str, Any] = {
        "search": search,
        "view": None,
        "proof": None,
        "refused": _REFUSED,
        "forms": [(form, f"/audit/export?{_query(search)}&form={form}") for form in TYPES],
        "most": MAX_EXPORTED,
    }
    try:
        values["view"] = await site.sources.audit(visit.caller, search)
        if visit.asked("verify") == "1":
            values["proof"] = await site.sources.proof(visit.caller)
    except StorageError as error:
        values["problem"] = str(error)
    return await site.page(visit, frame, "audit.html", values)


async def audit_export(site: Site, visit: Visit) -> Answer:
    """The newest records that match, as a file."""
    await site.frame(visit)  # the person may see the broker
    form = visit.asked("form")
    if form not in TYPES:
        raise OperationFailed(grpc.StatusCode.INVALID_ARGUMENT, f"choose one of {', '.join(TYPES)}")
    found = await site.sources.export(visit.caller, _search(visit), form)
    name = f"audit-{datetime.now(UTC):%Y%m%dT%H%M%SZ}{'' if found.complete else '-part'}.{form}"
    headers = {
        "Content-Type": TYPES[form],
        "Content-Disposition": f'attachment; filename="{name}"',
    }
    return Answer(found.text, headers=headers)


def _search(visit: Visit) -> AuditSearch:
    return AuditSearch(
        text=visit.asked("text").strip(),
        event=visit.asked("event").strip(),
        since=visit.asked("since").strip().replace(" ", "T"),
        until=visit.asked("until").strip().replace(" ", "T"),
    )


def _query(search: AuditSearch) -> str:
    return urlencode({name: getattr(search, name) for name in ("text", "event", "since", "until")})
