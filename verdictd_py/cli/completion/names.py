"""Names that a broker stores, by kind: for completion, and for suggestions after a near miss."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final

from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py.cli.management.client import BrokerClient, Connection
from verdictd_py.cli.management.names import documents, sets
from verdictd_py.tees.registry import DEFAULT_NAME

MAX_NAMES: Final = 2000

_GUESTS: Final = 100


async def names(client: BrokerClient, kind: str) -> list[str]:
    """Return the names of a kind, at most about `MAX_NAMES`.

    Raises:
        BrokerFailed: the broker does not answer, or the caller may not list them.
    """
    return list(dict.fromkeys(await _LISTS[kind](client)))


def names_at(kind: str, words: Sequence[str]) -> list[str]:
    """Return the names of a kind at the broker that a command line reaches.

    Args:
        words: options of the command line, and their values.

    Raises:
        BrokerFailed, ConfigError: as `names`, or the broker cannot be reached.
        SystemExit: the options are wrong.
    """
    from verdictd_py.cli.verdict import connection_of  # noqa: PLC0415  # it imports this package

    return asyncio.run(_names_at(kind, connection_of(words)))


async def _names_at(kind: str, connection: Connection) -> list[str]:
    async with BrokerClient.connect(connection) as client:
        return await names(client, kind)


async def _keys(client: BrokerClient) -> list[str]:
    async def page(token: str) -> tuple[list[str], str]:
        request = v1.ListKeysRequest(page_token=token)
        answer = await client.call(client.keys.ListKeys, request)
        return [key.name for key in answer.keys], answer.next_page_token

    return await _first_names(page)


async def _resources(client: BrokerClient) -> list[str]:
    async def page(token: str) -> tuple[list[str], str]:
        request = v1.ListResourcesRequest(page_token=token)
        answer = await client.call(client.resources.ListResources, request)
        return [resource.path for resource in answer.resources], answer.next_page_token

    return await _first_names(page)


async def _first_names(page: Callable[[str], Awaitable[tuple[list[str], str]]]) -> list[str]:
    """Return the names of as many pages as `MAX_NAMES` needs."""
    found, token = await page("")
    while token and len(found) < MAX_NAMES:
        more, token = await page(token)
        found += more
    return found


async def _guests(client: BrokerClient) -> list[str]:
    found: list[str] = []
    for verdict in (v1.VERDICT_REFUSED, v1.VERDICT_ACCEPTED, v1.VERDICT_UNVERIFIED):
        request = v1.ListGuestsRequest(verdict=verdict, limit=_GUESTS)
        answer = await client.call(client.appraisals.ListGuests, request)
        found += [guest.id for guest in answer.guests]
    return found


async def _connected(client: BrokerClient) -> list[str]:
    request = v1.ListConnectedGuestsRequest(limit=_GUESTS)
    answer = await client.call(client.appraisals.ListConnectedGuests, request)
    return [guest.id for guest in answer.guests]


_LISTS: Final[Mapping[str, Callable[[BrokerClient], Awaitable[Iterable[str]]]]] = {
    "key": _keys,
    "resource": _resources,
    "document": lambda client: documents(client, ""),
    "set": lambda client: sets(DEFAULT_NAME)(client, ""),
    "guest": _guests,
    "connected": _connected,
}
