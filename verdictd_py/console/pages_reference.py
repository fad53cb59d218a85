"""The page of reference values, and changes of named sets."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py.console.pages_guests import all_guests
from verdictd_py.console.requests import Visit
from verdictd_py.console.revisions import revision_values
from verdictd_py.console.site import Answer, Site, computed, gather
from verdictd_py.console.views.reference import matrix

_REFERENCES: Final = "verdictd.v1.ReferenceService"

_DONE: Final = {"retire": "The set is retired.", "delete": "The set is deleted."}


async def reference_page(site: Site, visit: Visit, problem: str = "", status: int = 200) -> Answer:
    """Measurements against sets against guests seen."""
    tee = visit.asked("tee") or visit.sent("tee")
    tee = tee if tee in site.tees else site.tees[0]
    frame = await site.frame(visit)
    reference, listed, guests = await gather(
        visit.operations.call(f"{_REFERENCES}/GetReference", v1.GetReferenceRequest(tee=tee)),
        visit.operations.call(f"{_REFERENCES}/ListSets", v1.ListSetsRequest(tee=tee)),
        all_guests(visit),
    )
    own = [guest for guest in guests if guest.tee == tee]
    names = site.measurements(tee)
    view = await computed(matrix, reference, listed.sets, own, names, datetime.now(UTC))
    earlier = await revision_values(visit, reference.name)
    values: dict[str, Any] = {
        **earlier,
        "tee": tee,
        "tees": site.tees,
        "reference": reference,
        "view": view,
        "problem": problem or reference.problem or earlier.get("problem", ""),
        "done": visit.language(_DONE.get(visit.asked("done"), "")),
        "retiring": visit.asked("retire"),
        "deleting": visit.asked("delete"),
    }
    return await site.page(visit, frame, "reference.html", values, status=status)


async def retire(site: Site, visit: Visit) -> str:
    """Retire a named set now."""
    tee = _tee(site, visit)
    request = v1.RetireSetRequest(tee=tee, name=visit.sent("name"))
    await visit.operations.call(f"{_REFERENCES}/RetireSet", request)
    return f"/reference?tee={tee}&done=retire"


async def delete(site: Site, visit: Visit) -> str:
    """Delete a named set that is no longer in force."""
    tee = _tee(site, visit)
    request = v1.DeleteSetRequest(tee=tee, name=visit.sent("name"))
    await visit.operations.call(f"{_REFERENCES}/DeleteSet", request)
    return f"/reference?tee={tee}&done=delete"


def _tee(site: Site, visit: Visit) -> str:
    return visit.sent("tee") if visit.sent("tee") in site.tees else site.tees[0]
