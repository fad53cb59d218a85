"""The list of guests: filters, and one line for guests that were refused for the same reasons."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py.console.comparing import short
from verdictd_py.console.language import Language
from verdictd_py.console.views import sentences
from verdictd_py.console.views.sentences import MEASUREMENT, State
from verdictd_py.encoding import JsonValue

PAGE: Final = 50
"""Lines of a page."""

_MAX_DIGESTS: Final = 4
"""Measurements that a line displays."""


@dataclass(frozen=True, slots=True)
class Filters:
    """What the list is limited to; empty texts do not limit it.

    Attributes:
        verdict: `value` of a state, or `refused-any` for all that were not accepted.
        text: part of an id, an address or a digest.
        rule: name of a failed rule, or a code.
        platform: FMSPC or digest of a machine.
        peer: an address or a network.
        digest: beginning of a measurement.
        same: id of a guest; only guests with the same reasons.
    """

    verdict: str = ""
    text: str = ""
    rule: str = ""
    platform: str = ""
    peer: str = ""
    digest: str = ""
    same: str = ""

    @property
    def narrow(self) -> bool:
        """Whether more than the verdict is chosen."""
        return any((self.text, self.rule, self.platform, self.peer, self.digest, self.same))

    def accept(self, guest: v1.Guest) -> bool:
        return (
            self._accept_verdict(guest)
            and self._accept_text(guest)
            and (not self.rule or self.rule in (guest.code, *(r.rule for r in guest.reasons)))
            and (not self.platform or self.platform in (guest.fmspc, guest.platform))
            and (not self.peer or _is_at(guest.peer, self.peer))
            and (not self.digest or any(v.startswith(self.digest) for v in digests(guest).values()))
        )

    def _accept_verdict(self, guest: v1.Guest) -> bool:
        own = sentences.state(guest)
        if self.verdict == "refused-any":
            return own is not sentences.ACCEPTED
        return self.verdict in ("", own.value)

    def _accept_text(self, guest: v1.Guest) -> bool:
        text = self.text.strip().lower()
        if not text:
            return True
        values = (guest.id, guest.peer, guest.evidence, *guest.earlier, *digests(guest).values())
        return any(text in value for value in values)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the list.

    Attributes:
        more: number of further guests with the same reasons.
        digests: measurements that were refused: name, beginning, whole value.
    """

    guest: v1.Guest
    state: State
    why: str
    digests: tuple[tuple[str, str, str], ...]
    more: int

    @property
    def host(self) -> str:
        return self.guest.peer.rpartition(":")[0] or self.guest.peer

    @property
    def seen(self) -> int:
        """Number of appraisals that the line stands for."""
        return max(1, self.guest.times)


@dataclass(frozen=True, slots=True)
class GuestList:
    """The list.

    Attributes:
        lines: the lines of this page, the newest first.
        total: number of lines of all pages.
        guests: number of appraisals of all lines.
        start: number of the first line of this page, from 0 on.
        rules: names of rules and codes that guests were refused for.
        platforms: FMSPCs of the guests.
    """

    lines: tuple[Line, ...]
    total: int
    guests: int
    start: int
    rules: tuple[str, ...]
    platforms: tuple[str, ...]

    @property
    def older(self) -> int | None:
        """Start of the next page; None if this is the last one."""
        after = self.start + PAGE
        return after if after < self.total else None

    @property
    def newer(self) -> int | None:
        return max(0, self.start - PAGE) if self.start else None


def guest_list(
    guests: Sequence[v1.Guest], filters: Filters, start: int, say: Language, *, each: bool = False
) -> GuestList:
    """Return one page of the list.

    Args:
        guests: all guests, in any order.
        each: whether guests with the same reasons have a line each.
    """
    newest = sorted(guests, key=lambda guest: guest.at, reverse=True)
    same = next((reasons_of(g) for g in guests if filters.same and g.id == filters.same), None)
    chosen = [g for g in newest if filters.accept(g) and (same is None or reasons_of(g) == same)]
    counted = [(guest, 0) for guest in chosen] if each or filters.same else _united(chosen)
    lines = [_line(guest, more, say) for guest, more in counted[start : start + PAGE]]
    reasons = {r.rule for g in guests for r in g.reasons if r.rule}
    return GuestList(
        lines=tuple(lines),
        total=len(counted),
        guests=sum(max(1, guest.times) for guest in chosen),
        start=start,
        rules=tuple(sorted(reasons | {g.code for g in guests if g.code != "ok"})),
        platforms=tuple(sorted({g.fmspc for g in guests if g.fmspc})),
    )


def claims_of(guest: v1.Guest) -> Mapping[str, JsonValue]:
    """Return the verified claims of a guest."""
    claims: Mapping[str, JsonValue] = json.loads(guest.claims) if guest.claims else {}
    return claims


def digests(guest: v1.Guest) -> dict[str, str]:
    """Return the measurements of a guest by name."""
    claims = claims_of(guest)
    values = {name: claims.get(name) for name in guest.measurements}
    return {name: value for name, value in values.items() if isinstance(value, str)}


def reasons_of(guest: v1.Guest) -> tuple[object, ...]:
    """Return what guests have in common that were refused for the same reasons."""
    reasons = tuple(
        (r.rule, r.kind, r.measured if r.kind == MEASUREMENT else r.expected) for r in guest.reasons
    )
    return guest.verdict, guest.judged, guest.code, guest.tee, reasons


def _united(guests: Iterable[v1.Guest]) -> list[tuple[v1.Guest, int]]:
    """Return the newest guest for each combination of reasons, and the number of the others."""
    groups: dict[tuple[object, ...], list[v1.Guest]] = {}
    for guest in guests:
        accepted = guest.verdict == v1.VERDICT_ACCEPTED
        key = (guest.id,) if accepted else reasons_of(guest)
        groups.setdefault(key, []).append(guest)
    return [(group[0], len(group) - 1) for group in groups.values()]


def _line(guest: v1.Guest, more: int, say: Language) -> Line:
    refused = [r.rule for r in guest.reasons if r.kind == MEASUREMENT]
    measured = digests(guest)
    shown = tuple(
        (name, short(measured[name]), measured[name]) for name in refused if name in measured
    )
    return Line(
        guest,
        sentences.state(guest),
        sentences.headline(guest, say),
        shown[:_MAX_DIGESTS],
        more,
    )


def _is_at(peer: str, wanted: str) -> bool:
    host = peer.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(wanted.strip(), strict=False)
    except ValueError:
        return wanted.strip() in peer
