"""The page that answers whether a guest may have a secret, and why."""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import parse_qsl

from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py.console.operations import OperationFailed
from verdictd_py.console.pages_guests import all_guests
from verdictd_py.console.requests import Visit
from verdictd_py.console.site import Answer, Site, gather

_TEST: Final = "verdictd.v1.PolicyTestService/TestRelease"
_KEYS: Final = "verdictd.v1.KeyService"
_RESOURCES: Final = "verdictd.v1.ResourceService"

MAX_GUESTS: Final = 200
MAX_PATHS: Final = 100
"""Paths that the field suggests."""

MAX_QUERY: Final = 32
"""Values of a query, as many as a guest may send at most with its request."""

MAX_TESTED: Final = 20
"""Paths that are tested for the table of everything a guest may have; each takes milliseconds."""


async def release_page(site: Site, visit: Visit) -> Answer:
    """The question, and its answer."""
    frame = await site.frame(visit)
    guests = [g for g in await all_guests(visit) if g.verdict == v1.VERDICT_ACCEPTED and g.claims]
    guests.sort(key=lambda each: each.at, reverse=True)
    stored = await _stored(visit)
    guest = visit.asked("guest") or (guests[0].id if guests else "")
    path = visit.asked("path").strip()
    query = _query(visit.asked("query"))
    values: dict[str, Any] = {
        "guests": guests[:MAX_GUESTS],
        "guest": guest,
        "path": path,
        "query": visit.asked("query"),
        "paths": list(stored)[:MAX_PATHS],
        "answer": None,
        "stored": stored.get(path, stored.get(f"keys/{path}")),
        "every": [],
    }
    if guest and path:
        try:
            values["answer"] = await _answer(visit, guest, path, query)
        except OperationFailed as error:
            values["problem"] = error.text
    if guest and values.get("answer") is not None:
        values["every"] = await _every(visit, guest, list(stored)[:MAX_TESTED], query)
    return await site.page(visit, frame, "release.html", values)


async def _answer(visit: Visit, guest: str, path: str, query: dict[str, str]) -> dict[str, Any]:
    request = v1.TestReleaseRequest(id=guest, path=path, query=query)
    answer = await visit.operations.call(_TEST, request)
    return {"answer": answer, "report": json.loads(answer.report)}


async def _every(
    visit: Visit, guest: str, paths: list[str], query: dict[str, str]
) -> list[dict[str, Any]]:
    """Return the answers for the stored paths."""
    rows = []
    for path in paths:
        request = v1.TestReleaseRequest(id=guest, path=path, query=query)
        try:
            answer = await visit.operations.call(_TEST, request)
        except OperationFailed as error:
            rows.append({"path": path, "released": None, "text": error.text})
        else:
            rows.append({"path": path, "released": answer.released, "text": answer.policy})
    return rows


def _query(text: str) -> dict[str, str]:
    """Return the query of a request as guests send it, `a=1&b=2`; empty if it cannot be read."""
    try:
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_QUERY))
    except ValueError:
        return {}


async def _stored(visit: Visit) -> dict[str, str]:
    """Return the first keys and resources by path, with the time of their change."""
    keys, resources = await gather(
        visit.operations.call(f"{_KEYS}/ListKeys", v1.ListKeysRequest(page_size=MAX_PATHS)),
        visit.operations.call(
            f"{_RESOURCES}/ListResources", v1.ListResourcesRequest(page_size=MAX_PATHS)
        ),
    )
    return {
        **{f"keys/{key.name}": key.changed_at for key in keys.keys},
        **{resource.path: resource.changed_at for resource in resources.resources},
    }
