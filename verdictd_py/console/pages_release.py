"""The page that answers whether a guest may have a secret, and why."""

from __future__ import annotations

import json
from typing import Any, Final

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
    values: dict[str, Any] = {
        "guests": guests[:MAX_GUESTS],
        "guest": guest,
        "path": path,
        "paths": list(stored)[:MAX_PATHS],
        "answer": None,
        "stored": stored.get(path, stored.get(f"keys/{path}")),
        "every": [],
    }
    if guest and path:
        try:
            values["answer"] = await _answer(visit, guest, path)
        except OperationFailed as error:
            values["problem"] = error.text
    if guest and values.get("answer") is not None:
        values["every"] = await _every(visit, guest, list(stored)[:MAX_TESTED])
    return await site.page(visit, frame, "release.html", values)


async def _answer(visit: Visit, guest: str, path: str) -> dict[str, Any]:
    answer = await visit.operations.call(_TEST, v1.TestReleaseRequest(id=guest, path=path))
    return {"answer": answer, "report": json.loads(answer.report)}


async def _every(visit: Visit, guest: str, paths: list[str]) -> list[dict[str, Any]]:
    """Return the answers for the stored paths."""
    rows = []
    for path in paths:
        request = v1.TestReleaseRequest(id=guest, path=path)
        try:
            answer = await visit.operations.call(_TEST, request)
        except OperationFailed as error:
            rows.append({"path": path, "released": None, "text": error.text})
        else:
            rows.append({"path": path, "released": answer.released, "text": answer.policy})
    return rows


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
