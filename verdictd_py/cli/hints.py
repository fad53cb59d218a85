"""Hints in errors of `verdict-py`: the kind of a wrong server, and a close name."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final

from verdictd_py.cli import wrongserver
from verdictd_py.cli.completion.kinds import names_in
from verdictd_py.cli.completion.names import names
from verdictd_py.cli.management.client import (
    OTHER_USER,
    BrokerClient,
    BrokerFailed,
    Connection,
    is_forbidden,
)
from verdictd_py.domain.spelling import closest
from verdictd_py.errors import ConfigError

_SECONDS: Final = 2.0
"""Time limit of a request for names, after a command has failed."""

_NO_BROKER: Final = ("does not know this action", "does not answer as a broker does")
"""Parts of the messages about a gRPC server that may be another service."""


@asynccontextmanager
async def explained(connection: Connection) -> AsyncIterator[None]:
    """Replace the message of a failure without an answer if the server is not a client API.

    Raises:
        BrokerFailed: as the commands inside, with the better message.
    """
    try:
        yield
    except BrokerFailed as error:
        if error.answered or error.reason == OTHER_USER or is_forbidden(connection.address):
            raise
        text = await _explanation(connection, str(error))
        if not text:
            raise
        raise BrokerFailed(text, answered=False, reason=error.reason) from None


async def _explanation(connection: Connection, message: str) -> str:
    """Return a sentence about the server; empty if the failure's own message is the best one."""
    addresses, ca = connection.addresses, connection.tls_ca
    text = await asyncio.to_thread(wrongserver.of_client_api, addresses, ca=ca)
    if text or not any(part in message for part in _NO_BROKER):
        return text
    async with connection.channel() as channel:
        return await wrongserver.other_grpc_service(channel, connection.address)


@asynccontextmanager
async def with_near_miss(
    client: BrokerClient, words: str, options: Namespace
) -> AsyncIterator[None]:
    """Add a close name to the message of a request that the broker refused.

    Names are listed with the rights of the caller: without the right, nothing is added.

    Args:
        words: the words of the command.

    Raises:
        BrokerFailed: as the command inside.
    """
    try:
        yield
    except BrokerFailed as error:
        # A message that ends with a question has the broker's own hint.
        complete = error.reason == "ambiguous" or str(error).endswith("?")
        hint = ""
        if error.answered and not complete:
            hint = await _hint(client, words, options, error)
        if not hint:
            raise
        text = f"{error}; {hint}"
        raise BrokerFailed(text, answered=True, reason=error.reason) from None


_LISTS: Final[Mapping[str, str]] = {
    "key": "key list",
    "resource": "resource list",
    "document": "policy list",
    "set": "reference sets",
}
"""Command that lists the names of a kind."""


async def _hint(client: BrokerClient, words: str, options: Namespace, error: BrokerFailed) -> str:
    """Return a close name, or the command that lists all names; empty if neither helps."""
    name = await _near_miss(client, words, options)
    if name:
        return f"did you mean {name}?"
    kinds = [kind for kind, _ in names_in(words, options)]
    if error.reason != "not-found" or not kinds or kinds[0] not in _LISTS:
        return ""
    return f"see verdict-py {_LISTS[kinds[0]]}"


async def _near_miss(client: BrokerClient, words: str, options: Namespace) -> str:
    with suppress(BrokerFailed, ConfigError, TimeoutError):
        async with asyncio.timeout(_SECONDS):
            for kind, given in names_in(words, options):
                known = await names(client, kind)
                if given not in known and (name := closest(given, known)) is not None:
                    return name
    return ""
