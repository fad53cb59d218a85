"""The page of keys and resources: names, ages and problems, never contents."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py.console.requests import Visit
from verdictd_py.console.site import Answer, Site, gather

_KEYS: Final = "verdictd.v1.KeyService"
_RESOURCES: Final = "verdictd.v1.ResourceService"

PAGE: Final = 100

_DONE: Final = {
    "create": "The key is created.",
    "delete": "The key is deleted.",
    "delete-resource": "The resource is deleted.",
}


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored object: its name, its size in bytes, its age in days, and what is wrong with it.

    Attributes:
        releases: number of releases to guests, as far as they are counted.
        released_at: time of the last one; empty if none is known.
    """

    name: str
    size: int
    changed_at: str
    days: int
    problem: str
    releases: int
    released_at: str


async def keys_page(site: Site, visit: Visit, problem: str = "", status: int = 200) -> Answer:
    """All names."""
    frame = await site.frame(visit)
    keys, resources = await gather(
        visit.operations.call(
            f"{_KEYS}/ListKeys", v1.ListKeysRequest(page_size=PAGE, page_token=visit.asked("keys"))
        ),
        visit.operations.call(
            f"{_RESOURCES}/ListResources",
            v1.ListResourcesRequest(page_size=PAGE, page_token=visit.asked("resources")),
        ),
    )
    now = datetime.now(UTC)
    values: dict[str, Any] = {
        "keys": [_stored(each, each.name, now) for each in keys.keys],
        "keys_next": keys.next_page_token,
        "resources": [_stored(each, each.path, now) for each in resources.resources],
        "resources_next": resources.next_page_token,
        "problem": problem,
        "done": visit.language(_DONE.get(visit.asked("done"), "")),
        "name": visit.sent("name"),
    }
    return await site.page(visit, frame, "keys.html", values, status=status)


async def create(site: Site, visit: Visit) -> str:
    """Create a random key."""
    del site
    request = v1.CreateKeyRequest(name=visit.sent("name").strip())
    await visit.operations.call(f"{_KEYS}/CreateKey", request)
    return "/keys?done=create"


async def delete(site: Site, visit: Visit) -> str:
    """Delete a key."""
    del site
    request = v1.DeleteKeyRequest(name=visit.sent("delete"))
    await visit.operations.call(f"{_KEYS}/DeleteKey", request)
    return "/keys?done=delete"


async def delete_resource(site: Site, visit: Visit) -> str:
    """Delete a resource."""
    del site
    request = v1.DeleteResourceRequest(path=visit.sent("delete"))
    await visit.operations.call(f"{_RESOURCES}/DeleteResource", request)
    return "/keys?done=delete-resource"


def _stored(each: v1.Key | v1.Resource, name: str, now: datetime) -> Stored:
    days = 0
    if each.changed_at:
        days = max(0, (now - datetime.fromisoformat(each.changed_at)).days)
    return Stored(
        name,
        each.size,
        each.changed_at,
        days,
        each.problem,
        each.releases,
        each.last_released_at,
    )
