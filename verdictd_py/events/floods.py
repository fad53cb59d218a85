"""Limit for lines of the log that peers can cause, per type of event, source and minute."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Final

from verdictd_py.domain.events import LogFlood
from verdictd_py.domain.eventtypes import Event

LINES_PER_MINUTE: Final = 30
"""Maximum number of lines of one type that one source causes in a minute."""

MAX_SOURCES: Final = 1000
"""Maximum number of pairs of a source and a type that are counted in a minute; all further ones
share one count for each type. An attacker may have more addresses than the broker has memory."""

LINES_OF_ALL: Final = 3000
"""Maximum number of lines of one type that all sources together cause in a minute, 50 a second. A
flood of a thousand addresses otherwise has the lines of a thousand sources."""

MAX_FLOODS: Final = 100
"""Maximum number of sources with a line of their own at the end of a minute, those with the most
events; all further ones share one line for each type."""

OTHERS: Final = "other sources"


class Floods:
    """Counter of the events that peers can cause.

    Its methods may be called by several threads; a line more or less does not matter.
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}
        self._omitted: dict[tuple[str, str], int] = {}
        self._lines: dict[str, int] = {}

    def admits(self, event: Event) -> bool:
        """Count an event; return whether the log has a line for it."""
        if not event.spec.by_peers:
            return True
        name = event.spec.name
        key = (name, source_of(event))
        if key not in self._counts and len(self._counts) >= MAX_SOURCES:
            key = (name, OTHERS)
        count = self._counts[key] = self._counts.get(key, 0) + 1
        lines = self._lines.get(name, 0)
        if count <= LINES_PER_MINUTE and lines < LINES_OF_ALL:
            self._lines[name] = lines + 1
            return True
        self._omitted[key] = self._omitted.get(key, 0) + 1
        return False

    def end_minute(self) -> list[LogFlood]:
        """Return the floods of the last minute, the largest first, and begin the next one."""
        omitted, self._omitted = self._omitted, {}
        self._counts, self._lines = {}, {}
        ordered = sorted(omitted.items(), key=lambda item: -item[1])
        floods = dict(ordered[:MAX_FLOODS])
        for (name, _), lines in ordered[MAX_FLOODS:]:
            key = (name, OTHERS)
            floods[key] = floods.get(key, 0) + lines
        return [
            LogFlood(type=name, source=source, lines=lines)
            for (name, source), lines in floods.items()
        ]


def source_of(event: Event) -> str:
    """Return the peer's address without its port, its network if it is IPv6, or the caller.

    A host with IPv6 usually has 2**64 addresses, so its /64 network counts as one source.
    """
    values = event.__dict__
    peer = values.get("peer") or values.get("caller") or "unknown"
    text = str(peer)
    host, colon, port = text.partition(":")
    if colon and port.isdigit():  # no IPv6: each connection of a host has another port
        text = host
    return _source(text)


@lru_cache(maxsize=MAX_SOURCES)
def _source(text: str) -> str:
    """Return the source that a peer's address or a caller's name belongs to.

    The cache never goes stale, because the result depends on the text alone.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit():
        host = text
    try:
        # A proxy may name an IPv6 address without a port, whose end looks like a port.
        whole = _address(text) if text.count(":") > 1 else None
        address = whole or ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that a text without a port is; None if it is none."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
