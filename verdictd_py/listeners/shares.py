"""Shares of a listener's connections: which connection is closed when there are too many.

Any client can open connections. At a limit, the oldest unattested connection of the address that
has the most of them is therefore closed, not the new one. Silent connections of a flood are
older than those of genuine guests, which prove themselves within a second. To refuse the new
connection instead would lock out every guest behind the same NAT for the length of a time limit.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from verdictd_py.errors import Overloaded
from verdictd_py.listeners.buffers import Buffers, Held, SharedBuffers
from verdictd_py.listeners.census import ListenerCensus, Region
from verdictd_py.listeners.counts import Ages, Counts, LocalAges, LocalCounts
from verdictd_py.listeners.sharedcounts import SharedAges, SharedCounts

REQUESTS_OF_TOKEN: Final = 16
"""Maximum number of requests at once with one token. A guest's agent fetches one secret after the
other; image layers are decrypted a few at a time."""

_NO_SEPARATE_LIMIT: Final = 64
"""Listeners with this many connections or fewer have no lower limit for an address or platform."""

_V6_PREFIX: Final = 64


@dataclass(frozen=True, slots=True)
class Source:
    """Source of connections of unattested peers: they are counted by it.

    Attributes:
        name: an IPv4 address, or the /64 network of an IPv6 address, of which one host usually
            has all.
        limited: whether it has a limit of its own; a named proxy has none, but its clients have.
    """

    name: str
    limited: bool = True


def source_of(host: str, *, limited: bool = True) -> Source:
    """Return the source of an address; an IPv4 address in IPv6 notation is IPv4."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return Source(host or "unknown", limited)
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return Source(str(ipaddress.ip_network((address, _V6_PREFIX), strict=False)), limited)
        address = address.ipv4_mapped
    return Source(str(address), limited)


@dataclass(frozen=True, slots=True)
class ShareLimits:
    """Maximum numbers of connections of a listener.

    Attributes:
        connections: of all peers.
        per_address: of one address, unattested.
        per_platform: of one platform, attested.
    """

    connections: int
    per_address: int
    per_platform: int

    @classmethod
    def of(
        cls, connections: int, per_address: int | None = None, per_platform: int | None = None
    ) -> ShareLimits:
        """Return the limits; those that are not set are a quarter of all connections."""
        quarter = max(connections // 4, min(connections, _NO_SEPARATE_LIMIT))
        return cls(connections, per_address or quarter, per_platform or quarter)


class Proof(Enum):
    """What a connection has proven."""

    NONE = auto()
    """No proof. The connection may be closed for another one."""
    EVIDENCE = auto()
    """Part of its evidence, or a valid session. The connection is not closed for another one."""
    ATTESTED = auto()
    """Its guest was accepted. The connection is not closed for another one."""


class Shares:
    """Connections of a listener by source, proof and platform.

    Args:
        limits: returns the limits, which may change.
        buffers: counter of the bytes that they hold.
        census: counters of all workers, None if there is one process.
    """

    def __init__(
        self,
        limits: Callable[[], ShareLimits],
        buffers: Buffers | None = None,
        census: ListenerCensus | None = None,
    ) -> None:
        self._limits = limits
        self._new: Ages[Source, Share]
        self._evidence: Counts[Source]
        self._platforms: Counts[str]
        self._tokens: Counts[str]
        if census is None:
            self.buffers = buffers or Buffers()
            self._new = LocalAges()
            self._evidence, self._platforms, self._tokens = (
                LocalCounts(),
                LocalCounts(),
                LocalCounts(),
            )
            return
        self.buffers = buffers or SharedBuffers(census)
        regions = census.regions
        evidence = tuple(region.evidence for region in regions)
        platforms = tuple(region.platforms for region in regions)
        tokens = tuple(region.tokens for region in regions)
        self._new = SharedAges(census, _text_of)
        self._evidence = SharedCounts(census, evidence, Region.EVIDENCE, _text_of)
        self._platforms = SharedCounts(census, platforms, Region.PLATFORMS, str)
        self._tokens = SharedCounts(census, tokens, Region.TOKENS, str)

    def enter(self, source: Source, close: Callable[[], object]) -> Share:
        """Count a new connection; if there are too many, close another one.

        Args:
            close: closes the connection at once; called at most once, see `Share.evicted`.

        Raises:
            Overloaded: no other connection may be closed for it.
        """
        self._make_room(source)
        share = Share(self, source, close)
        self._new.add(source, share)
        return share

    @contextmanager
    def request(self, token: str) -> Iterator[None]:
        """Count a request with a token while it lasts.

        Args:
            token: anything that identifies the token.

        Raises:
            Overloaded: there are too many with this token.
        """
        if self._tokens[token] >= REQUESTS_OF_TOKEN:
            raise Overloaded(
                f"there are {REQUESTS_OF_TOKEN} requests with this token already; wait until one "
                "ends",
                limit="token",
            )
        self._tokens.add(token)
        try:
            yield
        finally:
            self._tokens.remove(token)

    def _make_room(self, source: Source) -> None:
        """Close the oldest unproven connection if a new one of `source` would exceed a limit.

        Several are closed if a limit was lowered.

        Raises:
            Overloaded: all connections that count have sent evidence or are attested.
        """
        limits = self._limits()
        while True:
            of_source = self._new.count(source) + self._evidence[source]
            if source.limited and of_source >= limits.per_address:
                oldest = self._new.oldest(source)
                limit = "address"
                reason = f"this address has {limits.per_address} unattested connections"
            elif self._total >= limits.connections:
                oldest = self._new.oldest_of_largest()
                limit = "connections"
                reason = f"there are {limits.connections} connections"
            else:
                return
            reason = f"too many connections: {reason}"
            if oldest is None:
                raise Overloaded(reason, limit=limit)
            oldest.evict(f"{reason}; this was the oldest without evidence", limit)

    @property
    def states(self) -> dict[str, int]:
        """Numbers of connections by what they have proven."""
        return {
            "new": len(self._new),
            "evidence": self._evidence.total,
            "attested": self._platforms.total,
        }

    @property
    def _total(self) -> int:
        return len(self._new) + self._evidence.total + self._platforms.total

    def _may_keep_evidence(self, source: Source) -> bool:
        """Return whether another connection may have the proof EVIDENCE.

        A quarter of the unattested connections, of each address and of all, stays for others, or
        peers that send evidence very slowly would leave no capacity for new connections.
        """
        limits = self._limits()
        unattested = limits.connections - self._platforms.total
        return self._evidence.total < _three_quarters(unattested) and (
            not source.limited or self._evidence[source] < _three_quarters(limits.per_address)
        )

    def _reserve_platform(self, platform: str) -> None:
        limits = self._limits()
        if self._platforms[platform] >= limits.per_platform:
            raise Overloaded(
                f"this platform has {limits.per_platform} attested connections already",
                limit="platform",
            )
        if self._platforms.total >= limits.connections - limits.connections // 8:
            raise Overloaded("there are too many attested connections", limit="platforms")
        self._platforms.add(platform)


class Share:
    """One connection in the shares of its listener.

    Attributes:
        source: its source while it is unattested.
        proof: what it has proven.
        held: bytes that it holds.
        evicted: why the connection was closed for another one; empty if it was not.
        limit: name of the limit that was reached then.
    """

    __slots__ = (
        "_close",
        "_entered",
        "_platform",
        "_shares",
        "evicted",
        "held",
        "limit",
        "proof",
        "source",
    )

    def __init__(self, shares: Shares, source: Source, close: Callable[[], object]) -> None:
        self._shares = shares
        self._close = close
        self._platform = ""
        self._entered = True
        self.evicted = self.limit = ""
        self.source = source
        self.proof = Proof.NONE
        self.held = Held(shares.buffers, source.name)

    def move(self, source: Source) -> None:
        """Count the connection under a source, with nothing proven.

        Raises:
            Overloaded: as `Shares.enter`; the connection must be closed.
        """
        if self._entered and (source != self.source or self.proof is not Proof.NONE):
            self._take_out()
            self._entered = False
            self._shares._make_room(source)  # noqa: SLF001  # a part of the same object
            self.source = source
            self._put_in(Proof.NONE)

    def prove(self) -> None:
        """Protect the connection, which sent evidence or a valid session, unless too many are."""
        new = self._entered and self.proof is Proof.NONE
        if new and self._shares._may_keep_evidence(self.source):  # noqa: SLF001  # as above
            self._take_out()
            self._put_in(Proof.EVIDENCE)

    def attest(self, platform: str | None) -> None:
        """Count the connection under its guest's platform, and no longer under its source.

        Args:
            platform: identifies the platform; None: the guest has no evidence of one, and is
                counted under its source.

        Raises:
            Overloaded: the platform, or all of them, have too many connections.
        """
        if not self._entered or self.proof is Proof.ATTESTED:
            return
        platform = platform or f"without a platform at {self.source.name}"
        self._shares._reserve_platform(platform)  # noqa: SLF001  # as above
        self._take_out()
        self._platform = platform
        self.proof = Proof.ATTESTED
        self.held.count(platform, proven=True)

    def request(self, token: str) -> AbstractContextManager[None]:
        """See `Shares.request`."""
        return self._shares.request(token)

    def leave(self) -> None:
        """Remove the connection from all counts: it is closed."""
        self.held.set(0)
        if self._entered:
            self._entered = False
            self._take_out()

    def evict(self, reason: str, limit: str) -> None:
        """Close the connection for another one."""
        self.evicted, self.limit = reason, limit
        self.leave()
        self._close()

    def _put_in(self, proof: Proof) -> None:
        self.proof = proof
        self._entered = True
        if proof is Proof.NONE:
            self._shares._new.add(self.source, self)  # noqa: SLF001  # as above
        else:
            self._shares._evidence.add(self.source)  # noqa: SLF001  # as above
        self.held.count(self.source.name, proven=proof is not Proof.NONE)

    def _take_out(self) -> None:
        if self.proof is Proof.NONE:
            self._shares._new.remove(self.source, self)  # noqa: SLF001  # as above
        elif self.proof is Proof.EVIDENCE:
            self._shares._evidence.remove(self.source)  # noqa: SLF001  # as above
        else:
            self._shares._platforms.remove(self._platform)  # noqa: SLF001  # as above


def _three_quarters(number: int) -> int:
    return -(-3 * number // 4)


def _text_of(source: Source) -> str:
    return source.name if source.limited else f"proxy {source.name}"
