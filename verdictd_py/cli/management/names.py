"""Names that the operator does not write fully: each unique beginning stands for the name.

An exact name is always preferred. The broker lists the names that follow a beginning in order, so
that one page is enough, however many there are. It finds ids of appraised guests itself.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from verdictd_py._generated import clientapi_pb2 as upstream
from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py.cli.management.client import BrokerClient, BrokerFailed
from verdictd_py.cli.output import terminal
from verdictd_py.cli.output.result import write
from verdictd_py.cli.output.text import wrapped
from verdictd_py.cli.parsing import printable
from verdictd_py.domain.prefixes import MAX_CANDIDATES, only_match
from verdictd_py.errors import RequestError

ID_DIGITS: Final = 32
"""Hex digits of the id of an appraisal."""

_LAST: Final = "~"
"""Follows every character of a name, and is none of them."""

_FINGERPRINT: Final = re.compile(r"^ {6}([0-9A-F]{40,64})$", re.MULTILINE)

_NOT_THERE: Final = frozenset({"not-found", "invalid-argument"})

Answer = TypeVar("Answer")
Search = Callable[[BrokerClient, str], Awaitable[Iterable[str]]]


@dataclass(frozen=True, slots=True)
class Named:
    """An object that the command line names.

    Attributes:
        given: the name on the command line.
        name: the whole name; the given one if the broker has no other.
    """

    given: str
    name: str

    @property
    def whole(self) -> bool:
        """Whether the command line has the whole name."""
        return self.given == self.name


async def find(client: BrokerClient, given: str, search: Search, what: str) -> Named:
    """Return the object that a name or its beginning names.

    Args:
        search: returns the names that begin with a text, or more.
        what: plural of the objects, for errors.

    Raises:
        BrokerFailed: several names begin so; or see `BrokerClient.call`.
    """
    matching = [name for name in await search(client, given) if name.startswith(given)]
    if not given or not matching:
        return Named(given, given)
    try:
        return Named(given, only_match(given, matching, what))
    except RequestError as error:
        raise BrokerFailed(str(error), answered=True, reason="ambiguous") from None


async def reading(
    client: BrokerClient,
    given: str,
    search: Search,
    what: str,
    read: Callable[[str], Awaitable[Answer]],
) -> tuple[str, Answer]:
    """Read an object by its name, or else by a unique beginning of its name.

    A line on standard error has the whole name then, because the answer need not contain it.

    Returns:
        The whole name, and what `read` returns for it.

    Raises:
        BrokerFailed: see `find` and `BrokerClient.call`.
    """
    try:
        return given, await read(given)
    except BrokerFailed as error:
        if error.reason not in _NOT_THERE:
            raise
        named = await find(client, given, search, what)
        if named.whole:
            raise
    remark = printable(f"{given!r} stands for {named.name}")
    for line in wrapped(remark, terminal.columns(sys.stderr)):
        write(sys.stderr, line + "\n")
    return named.name, await read(named.name)


async def keys(client: BrokerClient, beginning: str) -> list[str]:
    """Return the first names of keys that do not precede a beginning."""
    if not beginning.isascii():
        return []
    request = v1.ListKeysRequest(page_size=MAX_CANDIDATES + 1, page_token=_before(beginning))
    answer = await client.call(client.keys.ListKeys, request)
    return [key.name for key in answer.keys]


async def resources(client: BrokerClient, beginning: str) -> list[str]:
    """Return the first paths of resources that do not precede a beginning."""
    if not beginning.isascii():
        return []
    request = v1.ListResourcesRequest(page_size=MAX_CANDIDATES + 1, page_token=_before(beginning))
    answer = await client.call(client.resources.ListResources, request)
    return [resource.path for resource in answer.resources]


async def documents(client: BrokerClient, beginning: str) -> list[str]:
    """Return the names of all documents."""
    del beginning
    answer = await client.call(client.documents.ListDocuments, v1.ListDocumentsRequest())
    return [document.name for document in answer.documents]


def sets(tee: str) -> Search:
    """Return a search for the names of all sets of a TEE."""

    async def search(client: BrokerClient, beginning: str) -> list[str]:
        del beginning
        answer = await client.call(client.references.ListSets, v1.ListSetsRequest(tee=tee))
        return [item.name for item in answer.sets]

    return search


async def certificates(client: BrokerClient, beginning: str) -> list[str]:
    """Return the fingerprints of all certificates in the keyring, in the case of the beginning."""
    answer = await client.call(client.gpg.listGpgKeys, upstream.ListGpgKeysRequest())
    found = fingerprints(answer.keys.decode(errors="replace"))
    return [text.lower() if beginning == beginning.lower() else text for text in found]


def fingerprints(listing: str) -> list[str]:
    """Return the fingerprints in a listing of the keyring."""
    return _FINGERPRINT.findall(listing)


async def connected(client: BrokerClient, beginning: str) -> list[str]:
    """Return the ids of connected guests, and of their appraisals, that begin so."""
    request = v1.ListConnectedGuestsRequest(id_prefix=beginning)
    answer: Any = await client.call(client.appraisals.ListConnectedGuests, request)
    found = {guest.id: guest for guest in answer.guests}
    return [
        guest.id if guest.id.startswith(beginning) else guest.appraisal for guest in found.values()
    ]


async def appraised(client: BrokerClient, given: str) -> Named:
    """Return the id of an appraised guest; the broker finds a beginning of it.

    Raises:
        BrokerFailed: see `BrokerClient.call`.
    """
    if not given or len(given) >= ID_DIGITS:
        return Named(given, given)
    guest = await client.call(client.appraisals.GetGuest, v1.GetGuestRequest(id=given))
    return Named(given, guest.id)


def _before(beginning: str) -> str:
    """Return a text that precedes the beginning, and that no name follows which precedes it."""
    if not beginning:
        return ""
    return beginning[:-1] + chr(max(ord(beginning[-1]) - 1, 0)) + _LAST
