"""The overview."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py.console.operations import OperationFailed
from verdictd_py.console.pages_guests import all_guests
from verdictd_py.console.requests import Visit
from verdictd_py.console.site import Answer, Site, computed
from verdictd_py.console.views import ending
from verdictd_py.console.views.load import duration, size
from verdictd_py.console.views.overview import PERIODS, overview

_COUNT: Final = "verdictd.v1.AppraisalService/CountGuests"
_SETS: Final = "verdictd.v1.ReferenceService/ListSets"


async def overview_page(site: Site, visit: Visit) -> Answer:
    """The first page."""
    frame = await site.frame(visit)
    values = await overview_values(site, visit, frame.status)
    return await site.page(visit, frame, "overview.html", values)


async def overview_values(site: Site, visit: Visit, status: v1.Status) -> dict[str, Any]:
    """Return what the overview displays."""
    asked = visit.asked("period")
    period = asked if asked in PERIODS else "24h"
    seconds, steps = PERIODS[period]
    request = v1.CountGuestsRequest(step_seconds=seconds, steps=steps)
    counts = await visit.operations.call(_COUNT, request)
    guests = await all_guests(visit)
    ends = [*await _sets(site, visit), *await site.sources.ends(visit.caller)]
    load, say = await site.sources.load(visit.caller), visit.language
    connections = {each.name: each for each in load.listeners}
    return {
        "load": load,
        "duration": duration,
        "size": size,
        "view": await computed(overview, counts, guests, period, say),
        "period": period,
        "periods": [("1h", say("1 hour")), ("24h", say("24 hours")), ("7d", say("7 days"))],
        "status": status,
        "ends": ending.next_ends(ends, datetime.now(UTC)),
        "listeners": [
            (say(name), endpoint, connections.get(option))
            for name, endpoint, option in (
                ("Guests, RATS-TLS", status.listen, "listen"),
                ("Guests, HTTP (RCAR)", status.kbs_http, "kbs_http"),
                ("Management, gRPC", status.client_api, "client_api"),
                ("Key provider", status.keyprovider_api, "keyprovider_api"),
                ("Console", status.console, "console"),
            )
            if endpoint
        ],
    }


async def _sets(site: Site, visit: Visit) -> list[ending.End]:
    ends = []
    for tee in site.tees:
        try:
            listed = await visit.operations.call(_SETS, v1.ListSetsRequest(tee=tee))
        except OperationFailed:
            continue
        path = f"/reference?tee={tee}"
        ends += [
            ending.End("Reference set %(name)s", each.name, each.expires_at, path)
            for each in listed.sets
            if each.state == "in force" and each.expires_at
        ]
    return ends
