"""What changed since the last accepted boot of the same guest: claims, and events of the log.

Two logs are compared by register: what both have at the beginning and at the end is left out, then
what only one of them has. This takes time proportional to the logs, whatever a guest puts in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from verdictd_py.broker.judgement import Judgement
from verdictd_py.encoding import JsonValue
from verdictd_py.formats.eventlog import Event
from verdictd_py.ports import Tee

MAX_EVENTS: Final = 50
"""Events of a register that are listed as added, and as removed."""

Describe = Callable[[int, Event], JsonValue]
"""Returns the JSON value of an event and its number."""

Registers = Mapping[str, Sequence[tuple[int, Event]]]
"""Events of a log with their numbers, by the name of their register."""


def changed_claims(now: Judgement, before: Judgement, tee: Tee) -> list[JsonValue]:
    """Return the claims with another value; claims that differ for each connection are omitted."""
    names = [name for name, claim in tee.claims.items() if not claim.of_connection]
    return [
        {"name": name, "before": before.claims.get(name), "now": now.claims.get(name)}
        for name in names
        if before.claims.get(name) != now.claims.get(name)
        and name not in now.withheld
        and name not in before.withheld
    ]


def changed_events(now: Registers, before: Registers, describe: Describe) -> list[JsonValue]:
    """Return the events that only one of two logs has, by register."""
    found: list[JsonValue] = []
    for name in dict.fromkeys((*now, *before)):
        added, removed, moved = _difference(now.get(name, ()), before.get(name, ()))
        if added or removed or moved:
            found.append(
                {
                    "name": name,
                    "added": [describe(*each) for each in added[:MAX_EVENTS]],
                    "removed": [describe(*each) for each in removed[:MAX_EVENTS]],
                    "omitted": max(0, len(added) - MAX_EVENTS) + max(0, len(removed) - MAX_EVENTS),
                    "moved": moved,
                }
            )
    return found


def _difference(
    now: Sequence[tuple[int, Event]], before: Sequence[tuple[int, Event]]
) -> tuple[list[tuple[int, Event]], list[tuple[int, Event]], bool]:
    """Return what was added, what was removed, and whether only the order differs."""
    mine, other = [_key(event) for _, event in now], [_key(event) for _, event in before]
    if mine == other:
        return [], [], False
    start = 0
    while start < min(len(mine), len(other)) and mine[start] == other[start]:
        start += 1
    end = 0
    while end < min(len(mine), len(other)) - start and mine[len(mine) - 1 - end] == other[-1 - end]:
        end += 1
    added = _only(now[start : len(now) - end], Counter(other[start : len(other) - end]))
    removed = _only(before[start : len(before) - end], Counter(mine[start : len(mine) - end]))
    return added, removed, not added and not removed


def _only(
    events: Sequence[tuple[int, Event]], others: Counter[tuple[int, bytes]]
) -> list[tuple[int, Event]]:
    """Return the events that occur more often than among others."""
    found = []
    for number, event in events:
        if others[_key(event)] > 0:
            others[_key(event)] -= 1
        else:
            found.append((number, event))
    return found


def _key(event: Event) -> tuple[int, bytes]:
    return event.kind, event.digest
